//! What a provider does.

use crate::error::Error;
use crate::etcd::EtcdStore;
use crate::postgres::PostgresStore;
use crate::zookeeper::ZooKeeperStore;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Keeps one value per number. The futures may be dropped at any point; a write that was
/// under way then may or may not have taken place.
pub trait Store {
    /// All values. Those of numbers outside the holder's range are among them.
    fn list(&mut self) -> impl Future<Output = Result<Vec<Entry>, Error>>;

    /// One value.
    fn get(&mut self, number: u64) -> impl Future<Output = Result<Option<Entry>, Error>>;

    /// Writes a value, if the revision is still the one that was read (none: if there is
    /// none), and says whether it did.
    fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> impl Future<Output = Result<bool, Error>>;

    /// Says, for some time, that the holder of a number is alive.
    fn announce(&mut self, number: u64) -> impl Future<Output = Result<(), Error>>;

    /// Where a value is, for people.
    fn key(&self, number: u64) -> String;

    /// Says that it no longer is.
    fn withdraw(&mut self, number: u64) -> impl Future<Output = Result<(), Error>>;
}

/// How long a call may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// A call that takes no longer than `patience`.
pub(crate) async fn within<T>(
    place: &str,
    patience: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(patience, call).await.unwrap_or_else(|_| {
        let why = format!("no answer within {} s", (patience.as_secs_f64() * 10.0).round() / 10.0);
        Err(Error::unreachable(place, why))
    })
}

/// One number's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number.
    pub number: u64,
    /// Changes with each write of this number's value.
    pub revision: i64,
    /// See [`crate::Record`].
    pub value: String,
    /// Whether its holder has announced itself. Not looked at by [`Store::get`].
    pub alive: bool,
}

/// A registry in this process, for tests: the reference for the others.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<u64, Entry>>>);

impl Memory {
    /// All entries, to be looked at and changed from outside.
    pub fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        Ok(self.entries().values().cloned().collect())
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        Ok(self.entries().get(&number).cloned())
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let mut entries = self.entries();
        let found = entries.get(&number);
        if found.map(|entry| entry.revision) != revision {
            return Ok(false);
        }
        let alive = found.is_some_and(|entry| entry.alive);
        let value = value.to_owned();
        let revision = revision.unwrap_or(0) + 1;
        entries.insert(number, Entry { number, revision, value, alive });
        Ok(true)
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        if let Some(entry) = self.entries().get_mut(&number) {
            entry.alive = true;
        }
        Ok(())
    }

    fn key(&self, number: u64) -> String {
        number.to_string()
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        if let Some(entry) = self.entries().get_mut(&number) {
            entry.alive = false;
        }
        Ok(())
    }
}

/// A registry of one kind or another.
#[derive(Debug)]
pub enum Provider {
    /// Functions of this extension in a PostgreSQL database.
    Postgres(Box<PostgresStore>),
    /// Keys in etcd.
    Etcd(EtcdStore),
    /// Nodes in ZooKeeper.
    ZooKeeper(ZooKeeperStore),
    /// Values in this process, for tests.
    Memory(Memory),
}

macro_rules! each {
    ($provider:expr, $store:ident => $call:expr) => {
        match $provider {
            Provider::Postgres($store) => $call.await.map_err(|error| $store.hide(error)),
            Provider::Etcd($store) => $call.await.map_err(|error| $store.hide(error)),
            Provider::ZooKeeper($store) => $call.await.map_err(|error| $store.hide(error)),
            Provider::Memory($store) => $call.await,
        }
    };
}

impl Store for Provider {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        each!(self, store => store.list())
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        each!(self, store => store.get(number))
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        each!(self, store => store.swap(number, revision, value))
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        each!(self, store => store.announce(number))
    }

    fn key(&self, number: u64) -> String {
        match self {
            Self::Postgres(store) => store.key(number),
            Self::Etcd(store) => store.key(number),
            Self::ZooKeeper(store) => store.key(number),
            Self::Memory(store) => store.key(number),
        }
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        each!(self, store => store.withdraw(number))
    }
}
