//! How a registry is reached: over hosts and their addresses; and what is kept of it between calls.

use crate::error::Error;
use crate::store::{PATIENCE, within};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The most that a registry may send for one call: some 10,000 leases. What is made of an answer takes
/// some five times as much, for a moment.
pub(crate) const ANSWER: usize = 5 * 1024 * 1024;

/// What a host is called.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A name or an address, with a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The hosts of an address.
#[derive(Debug)]
pub(crate) struct Hosts {
    hosts: Vec<Host>,
    last: Mutex<Last>,
}

/// Where there was an answer last.
#[derive(Debug, Default)]
struct Last {
    host: usize,
    spot: Option<Spot>,
    /// Whether there was nowhere else to ask.
    alone: bool,
}

#[derive(Debug)]
struct Host {
    /// For people.
    place: String,
    target: Target,
    /// A look-up of its name that has not ended. It cannot be interrupted, so there is never
    /// more than one.
    lookup: tokio::sync::Mutex<Option<Lookup>>,
}

type Lookup = JoinHandle<io::Result<Vec<SocketAddr>>>;

/// So many addresses of a name at most are tried.
const ADDRESSES: usize = 8;

/// With less time than that nothing is begun any more.
const TOO_LATE: Duration = Duration::from_millis(100);

impl Hosts {
    /// Hosts, each with its name for people.
    pub(crate) fn new(hosts: impl IntoIterator<Item = (String, Target)>) -> Self {
        let host = |(place, target)| Host { place, target, lookup: Default::default() };
        let hosts = hosts.into_iter().map(host).collect();
        Self { hosts, last: Mutex::default() }
    }

    /// What a host is called.
    pub(crate) fn place(&self, host: usize) -> &str {
        self.hosts.get(host).map_or("the registry", |host| &host.place)
    }

    /// What the host is called that answered last.
    pub(crate) fn last_place(&self) -> &str {
        self.place(self.last().host)
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call, over what is kept from the one before it, or else over something that is opened
    /// anew: at the first host, and of its addresses at the first, where `open` and `work` get
    /// through.
    ///
    /// What is kept is given up with the first refusal or failure, whatever the reason, and at once
    /// made anew, once: a token, a connection, an address, the name of a schema or a certificate that
    /// was good a moment ago may be good no more. So it is never kept after an error, and a registry
    /// that refuses is not asked over and over.
    pub(crate) async fn call<S, T>(
        &self,
        kept: &mut Option<S>,
        open: impl AsyncFn(usize, &Spot) -> Result<S, Error>,
        work: impl AsyncFn(&S) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + PATIENCE;
        if let Some(good) = kept.take() {
            let alone = self.last().alone;
            let patience = if alone { PATIENCE } else { PATIENCE / 2 };
            match within(self.last_place(), patience, work(&good)).await {
                Ok(value) => {
                    *kept = Some(good);
                    return Ok(value);
                }
                Err(error) if left(deadline) < TOO_LATE => return Err(error),
                Err(_) => (),
            }
        }
        let anew = async |host: usize, spot: &Spot| {
            let good = open(host, spot).await?;
            let value = work(&good).await?;
            Ok((good, value))
        };
        let (good, value) = self.first(deadline, anew).await?;
        *kept = Some(good);
        Ok(value)
    }

    /// Tries one host after the other, and each of its addresses: each has its share of the time.
    /// Where there was an answer last comes first.
    async fn first<T>(
        &self,
        deadline: Instant,
        attempt: impl AsyncFn(usize, &Spot) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (first, known) = {
            let last = self.last();
            (last.host, last.spot.clone())
        };
        let count = self.hosts.len();
        let mut failed: Option<Error> = None;
        let mut fail = |error: Error| {
            // An answer says more than none.
            let silence = |error: &Error| matches!(error, Error::Unreachable { .. });
            if failed.as_ref().is_none_or(|failed| silence(failed) && !silence(&error)) {
                failed = Some(error);
            }
        };
        for turn in 0..count {
            let index = (first + turn) % count;
            let host = &self.hosts[index];
            let share = left(deadline) / (count - turn) as u32;
            let until = Instant::now() + share;
            // The rest is for the addresses.
            let mut spots = match tokio::time::timeout(share / 2, host.spots()).await {
                Ok(Ok(spots)) => spots,
                Ok(Err(error)) => {
                    fail(error);
                    continue;
                }
                Err(_) => {
                    fail(Error::unreachable(&host.place, "its name is not found in time"));
                    continue;
                }
            };
            if let Some(known) = spots.iter().position(|spot| Some(spot) == known.as_ref()) {
                spots.swap(0, known);
            }
            for (turn, spot) in spots.iter().enumerate() {
                let share = left(until) / (spots.len() - turn) as u32;
                match within(&host.place, share, attempt(index, spot)).await {
                    Ok(value) => {
                        let alone = count == 1 && spots.len() == 1;
                        *self.last() = Last { host: index, spot: Some(spot.clone()), alone };
                        return Ok(value);
                    }
                    Err(error) => fail(error),
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::unreachable("the registry", "it has no address")))
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl Host {
    /// Where it is now. Nothing of that is kept: names move.
    async fn spots(&self) -> Result<Vec<Spot>, Error> {
        let (name, port) = match &self.target {
            Target::Unix(path) => return Ok(vec![Spot::Unix(path.clone())]),
            Target::Tcp(name, port) => (name.trim_matches(['[', ']']).to_owned(), *port),
        };
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![Spot::Tcp((address, port).into())]);
        }
        // Where this is given up before its end, the next call waits for the same look-up.
        let mut lookup = self.lookup.lock().await;
        let found = lookup.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || {
                Ok((&*name, port).to_socket_addrs()?.take(ADDRESSES).collect())
            })
        });
        let found = found.await;
        *lookup = None;
        let found = found.unwrap_or_else(|error| Err(io::Error::other(error)));
        let found = found.map_err(|error| Error::unreachable(&self.place, error))?;
        Ok(found.into_iter().map(Spot::Tcp).collect())
    }
}

/// Something to read from and to write to.
pub(crate) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

impl Spot {
    /// Connects.
    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Pipe>> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const FIRST: &str = "192.0.2.1:1";
    const SECOND: &str = "192.0.2.2:1";

    fn host(addresses: &'static [&str]) -> Host {
        let found =
            async { Ok(addresses.iter().map(|address| address.parse().unwrap()).collect()) };
        let target = Target::Tcp("registry.example".to_owned(), 1);
        let lookup = Some(tokio::spawn(found)).into();
        Host { place: addresses.join(" and "), target, lookup }
    }

    fn hosts(hosts: Vec<Host>) -> Hosts {
        Hosts { hosts, last: Mutex::default() }
    }

    fn address(spot: &Spot) -> String {
        let Spot::Tcp(address) = spot else { panic!("{spot:?}") };
        address.to_string()
    }

    async fn silence() -> Error {
        std::future::pending().await
    }

    #[tokio::test]
    async fn each_address_of_a_name_and_each_host_has_its_share() {
        for hosts in
            [hosts(vec![host(&[FIRST, SECOND])]), hosts(vec![host(&[FIRST]), host(&[SECOND])])]
        {
            let asked = RefCell::new(Vec::new());
            let open = async |_, spot: &Spot| {
                asked.borrow_mut().push(address(spot));
                if address(spot) == FIRST { Err(silence().await) } else { Ok(()) }
            };
            let begun = Instant::now();
            let mut kept = None;
            assert_eq!(hosts.call(&mut kept, open, async |()| Ok(5)).await, Ok(5));
            assert_eq!(*asked.borrow(), [FIRST, SECOND]);
            assert!(begun.elapsed() < PATIENCE);
            assert!(kept.is_some());
            // From now on it comes first.
            asked.borrow_mut().clear();
            if hosts.hosts.len() == 1 {
                *hosts.hosts[0].lookup.lock().await = host(&[FIRST, SECOND]).lookup.into_inner();
                assert_eq!(hosts.call(&mut None, open, async |()| Ok(5)).await, Ok(5));
                assert_eq!(*asked.borrow(), [SECOND]);
            }
        }
    }

    #[tokio::test]
    async fn an_answer_says_more_than_none() {
        let hosts = hosts(vec![host(&[FIRST, SECOND])]);
        let open = async |_, spot: &Spot| {
            if address(spot) == FIRST {
                return Err::<(), _>(Error::unreachable("first", "dead"));
            }
            Err(Error::refused("second", "no"))
        };
        let refused = hosts.call(&mut None, open, async |()| Ok(())).await;
        assert_eq!(refused, Err(Error::refused("second", "no")));
    }

    #[tokio::test]
    async fn what_is_kept_is_given_up_with_the_first_failure_and_made_anew_once() {
        let opened = RefCell::new(0);
        let worked = RefCell::new(Vec::new());
        for (good, outcome) in [(2, Ok(())), (3, Err(Error::refused("here", "no")))] {
            let hosts = hosts(vec![host(&[FIRST])]);
            opened.replace(0);
            worked.replace(Vec::new());
            let open = async |_, _: &Spot| {
                *opened.borrow_mut() += 1;
                Ok(2)
            };
            let work = async |&kept: &i32| {
                worked.borrow_mut().push(kept);
                if kept == good { Ok(()) } else { Err(Error::refused("here", "no")) }
            };
            let mut kept = Some(1);
            assert_eq!(hosts.call(&mut kept, open, work).await, outcome);
            assert_eq!((*opened.borrow(), &*worked.borrow()), (1, &vec![1, 2]));
            assert_eq!(kept, outcome.is_ok().then_some(2));
        }
    }

    #[tokio::test]
    async fn a_look_up_that_hangs_is_waited_for_and_not_begun_again() {
        let hosts = hosts(vec![host(&[FIRST])]);
        let (answer, found) = tokio::sync::oneshot::channel();
        let lookup = tokio::spawn(async { Ok(found.await.unwrap()) });
        *hosts.hosts[0].lookup.lock().await = Some(lookup);
        let open = async |_, spot: &Spot| Ok(address(spot));
        let work = async |spot: &String| Ok(spot.clone());
        let failed = hosts.call(&mut None, open, work).await;
        assert_eq!(failed, Err(Error::unreachable(FIRST, "its name is not found in time")));
        answer.send(vec![SECOND.parse().unwrap()]).unwrap();
        assert_eq!(hosts.call(&mut None, open, work).await, Ok(SECOND.to_owned()));
    }
}
