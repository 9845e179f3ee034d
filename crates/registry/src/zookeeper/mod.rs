//! ZooKeeper as the registry: one node per number, written if its version is the one
//! that was read; and an ephemeral node beside it that says that the holder is alive.

mod wire;

use crate::address::Parts;
use crate::error::Error;
use crate::net::{Hosts, Spot, Target};
use crate::store::{Entry, Store};
use snowflake_core::tenancy::Terms;
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;
use wire::{Access, Failure, Session};

/// Where the ensemble is.
#[derive(Clone)]
pub struct ZooKeeperAddress {
    parts: Parts,
}

impl fmt::Debug for ZooKeeperAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeper with nodes below {}", self.parts.path)
    }
}

impl ZooKeeperAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { parts: Parts::parse(text, 2181, &[])? })
    }

    pub(crate) fn open(self, terms: Terms) -> ZooKeeperStore {
        let place = |(name, port): &(String, u16)| {
            (format!("ZooKeeper at {name}:{port}"), Target::Tcp(name.clone(), *port))
        };
        let hosts = Hosts::new(self.parts.hosts.iter().map(place));
        let nodes = Nodes { path: self.parts.path.clone(), access: self.access() };
        ZooKeeperStore { address: self, hosts, nodes, timeout: terms.presence(), session: None }
    }

    fn access(&self) -> Access {
        if self.parts.user.is_some() { Access::Creator } else { Access::Anyone }
    }

    /// User and password as ZooKeeper's scheme "digest" wants them.
    async fn credentials(&self) -> Result<Option<String>, Error> {
        let Some((user, password)) = &self.parts.user else { return Ok(None) };
        Ok(Some(format!("{user}:{}", password.read().await?)))
    }
}

/// The nodes below a path.
pub struct ZooKeeperStore {
    address: ZooKeeperAddress,
    hosts: Hosts,
    nodes: Nodes,
    /// How long a session outlasts its connection.
    timeout: Duration,
    session: Option<Session>,
}

/// Where they are, and for whom they are made.
struct Nodes {
    path: String,
    access: Access,
}

/// As many at once as a message of a megabyte holds with ease.
const AT_ONCE: usize = 200;

impl Nodes {
    fn kind(&self, kind: &str) -> String {
        format!("{}/{kind}", self.path)
    }

    fn node(&self, kind: &str, number: u64) -> String {
        format!("{}/{kind}/{number:07}", self.path)
    }

    fn number(&self, name: &str) -> Result<u64, Error> {
        let key = format!("{}/{name}", self.kind("leases"));
        let number = name.parse().ok().filter(|&number| self.node("leases", number) == key);
        number.ok_or_else(|| Error::foreign(&key, "the key names no number"))
    }

    /// Makes the nodes that all others are below, unless they are there.
    async fn make(&self, session: &Session) -> wire::Result<()> {
        for kind in ["leases", "alive"] {
            let path = self.kind(kind);
            // From the end, as far as something is missing: the user may have rights there only.
            let parents = path.match_indices('/').map(|(slash, _)| &path[..slash]).rev();
            let mut missing = Vec::new();
            for path in std::iter::once(&*path).chain(parents).filter(|path| !path.is_empty()) {
                match session.create(path, b"", self.access, false).await {
                    Ok(()) | Err(Failure::Code(wire::NODE_EXISTS)) => break,
                    Err(Failure::Code(wire::NO_NODE)) => missing.push(path.to_owned()),
                    Err(failure) => return Err(failure),
                }
            }
            for path in missing.iter().rev() {
                match session.create(path, b"", self.access, false).await {
                    Ok(()) | Err(Failure::Code(wire::NODE_EXISTS)) => (),
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(())
    }
}

fn in_words(place: &str, failure: &Failure) -> Error {
    match failure {
        Failure::Code(wire::NO_AUTH | wire::AUTH_FAILED | wire::INVALID_ACL) => {
            Error::refused(place, failure)
        }
        Failure::Foreign(_) => Error::no_registry(place, failure),
        // A server without a quorum ends each connection.
        Failure::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Error::unreachable(place, "it accepts connections and does not answer")
        }
        _ => Error::unreachable(place, failure),
    }
}

impl ZooKeeperStore {
    /// An error as others may see it.
    pub(crate) fn hide(&self, error: Error) -> Error {
        match self.address.parts.password() {
            Some(password) => password.hide(error),
            None => error,
        }
    }

    async fn call<T>(
        &mut self,
        work: impl AsyncFn(&Nodes, &Session) -> wire::Result<T>,
    ) -> Result<T, Error> {
        let Self { address, hosts, nodes, timeout, session } = self;
        let open = async |host: usize, spot: &Spot| {
            let place = hosts.place(host);
            let credentials = address.credentials().await?;
            let stream = spot.connect().await.map_err(|error| Error::unreachable(place, error))?;
            let failed = |failure| in_words(place, &failure);
            let session = Session::open(place, stream, *timeout, credentials.as_deref());
            let session = session.await.map_err(failed)?;
            nodes.make(&session).await.map_err(failed)?;
            Ok(session)
        };
        let work = async |session: &Session| {
            session.begin().await;
            work(nodes, session).await.map_err(|failure| in_words(&session.place, &failure))
        };
        hosts.call(session, open, work).await
    }
}

impl fmt::Debug for ZooKeeperStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

fn entry(number: u64, data: Vec<u8>, version: i32) -> Entry {
    let value = String::from_utf8_lossy(&data).into_owned();
    Entry { number, revision: version.into(), value, alive: false }
}

impl Store for ZooKeeperStore {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        let (alive, found) = self
            .call(async |nodes, session| {
                let mut alive = BTreeSet::new();
                let _ = session
                    .children(&nodes.kind("alive"), |name| {
                        alive.extend(name.parse::<u64>());
                        Ok(())
                    })
                    .await?;
                let mut numbers = Vec::new();
                let path = nodes.kind("leases");
                let named = session.children(&path, |name| {
                    numbers.push(nodes.number(name)?);
                    Ok(())
                });
                if let Err(error) = named.await? {
                    return Ok(Err(error));
                }
                let mut found = Vec::new();
                for some in numbers.chunks(AT_ONCE) {
                    let paths: Vec<_> =
                        some.iter().map(|&number| nodes.node("leases", number)).collect();
                    let data = session.data_of(&paths).await?;
                    // One that was deleted meanwhile is none.
                    let there = some.iter().zip(data).filter_map(|(number, data)| {
                        data.map(|(data, stat)| entry(*number, data, stat.version))
                    });
                    found.extend(there);
                }
                Ok(Ok((alive, found)))
            })
            .await??;
        let entries = found.into_iter();
        Ok(entries.map(|entry| Entry { alive: alive.contains(&entry.number), ..entry }).collect())
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        self.call(async |nodes, session| match session.data(&nodes.node("leases", number)).await {
            Ok((data, stat)) => Ok(Some(entry(number, data, stat.version))),
            Err(Failure::Code(wire::NO_NODE)) => Ok(None),
            Err(failure) => Err(failure),
        })
        .await
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let version = revision.and_then(|revision| i32::try_from(revision).ok());
        self.call(async |nodes, session| {
            let (path, data) = (nodes.node("leases", number), value.as_bytes());
            let written = match version {
                Some(version) => session.set_data(&path, data, version).await,
                None => session.create(&path, data, nodes.access, false).await,
            };
            match (written, version) {
                (Ok(()), _) => Ok(true),
                // Without a version it is the path above that is missing.
                (Err(Failure::Code(wire::BAD_VERSION | wire::NO_NODE)), Some(_))
                | (Err(Failure::Code(wire::NODE_EXISTS)), None) => Ok(false),
                (Err(failure), _) => Err(failure),
            }
        })
        .await
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        self.call(async |nodes, session| {
            let path = nodes.node("alive", number);
            match session.exists(&path).await {
                Ok(stat) if stat.ephemeral_owner == session.id => return Ok(()),
                // Of a session that has not yet ended, or of another holder that has.
                Ok(_) => match session.delete(&path).await {
                    Ok(()) | Err(Failure::Code(wire::NO_NODE)) => (),
                    Err(failure) => return Err(failure),
                },
                Err(Failure::Code(wire::NO_NODE)) => (),
                Err(failure) => return Err(failure),
            }
            session.create(&path, b"", nodes.access, true).await
        })
        .await
    }

    fn key(&self, number: u64) -> String {
        self.nodes.node("leases", number)
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        self.call(async |nodes, session| match session.delete(&nodes.node("alive", number)).await {
            Ok(()) | Err(Failure::Code(wire::NO_NODE)) => Ok(()),
            Err(failure) => Err(failure),
        })
        .await
    }
}
