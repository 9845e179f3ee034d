//! How a registry is reached: over hosts and their addresses; and what is kept of it between calls.

use crate::error::Error;
use crate::store::{PATIENCE, within};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The most that a registry may send for one call: some 10,000 leases. What is made of an answer takes
/// up to five times as much, for a moment.
pub(crate) const ANSWER: usize = 6 * 1024 * 1024;

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

/// A stream under a client that sets no bounds itself. What is sent is bounded in bytes, for as long
/// as the connection lasts, and in how often the client can be made to say something more.
pub(crate) struct Bounded {
    stream: Box<dyn Pipe>,
    bounds: Arc<Bounds>,
    /// What is wrong with the first bytes, if they are wrong.
    check: fn(&[u8]) -> Result<(), &'static str>,
    begun: Vec<u8>,
    /// Whether the client has read since it wrote.
    has_read: bool,
}

/// What is left.
pub(crate) struct Bounds {
    bytes: AtomicUsize,
    turns: AtomicUsize,
    /// Why the connection was ended, if it was here. The client may see no more than its end.
    ended: OnceLock<&'static str>,
}

/// So many bytes are looked at.
const BEGINNING: usize = 5;

impl Bounded {
    pub(crate) fn new(
        stream: Box<dyn Pipe>,
        check: fn(&[u8]) -> Result<(), &'static str>,
        turns: usize,
    ) -> (Self, Arc<Bounds>) {
        let bounds = Bounds { bytes: ANSWER.into(), turns: turns.into(), ended: OnceLock::new() };
        let bounds = Arc::new(bounds);
        let stream =
            Self { stream, bounds: Arc::clone(&bounds), check, begun: Vec::new(), has_read: false };
        (stream, bounds)
    }
}

impl Bounds {
    /// Lets the client speak so many times more.
    pub(crate) fn allow(&self, turns: usize) {
        self.turns.store(turns, Ordering::Relaxed);
    }

    /// Why the connection was ended, if a bound was reached.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        self.ended.get().copied()
    }

    fn end(&self, why: &'static str) -> io::Error {
        let why = self.ended.get_or_init(|| why);
        io::Error::new(io::ErrorKind::InvalidData, *why)
    }

    /// Whether the connection should be followed by another one, since an answer may no longer
    /// be as long as it should be allowed to be.
    pub(crate) fn are_near(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < ANSWER / 2
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        let left = self.bounds.bytes.load(Ordering::Relaxed).checked_sub(new.len());
        let left = left.ok_or_else(|| self.bounds.end("its answer is too long"))?;
        self.bounds.bytes.store(left, Ordering::Relaxed);
        self.has_read |= !new.is_empty();
        if let missing @ 1.. = BEGINNING.saturating_sub(self.begun.len()) {
            self.begun.extend(new.iter().take(missing));
            (self.check)(&self.begun).map_err(|why| self.bounds.end(why))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_read {
            let left = self.bounds.turns.load(Ordering::Relaxed).checked_sub(1);
            let left = left
                .ok_or_else(|| self.bounds.end("its answers ask for one call after the other"))?;
            self.bounds.turns.store(left, Ordering::Relaxed);
            self.has_read = false;
        }
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
