//! The registry, and the way to it: slow, cut, out of order; a call that is carried out without an
//! answer; a registry that is restored from a backup.

use crate::chance::Chance;
use snowflake_registry::{Entry, Error, Record, State, Store};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the registry keeps.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: BTreeMap<u64, Kept>,
    /// Revisions that were given out.
    revisions: i64,
    /// What it has done.
    pub load: Load,
    /// What was ever written to it: it may have forgotten that since.
    leases: BTreeMap<u64, Vec<Lease>>,
}

/// Who may use a number, as was written last by one holder.
#[derive(Clone, Debug)]
struct Lease {
    nonce: String,
    floor: i64,
    until: i64,
}

/// What the registry has had to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Calls that it has served.
    pub calls: u64,
    /// Records that were read by those.
    pub records: u64,
    /// The most calls in one second.
    pub most: u64,
    /// The second of the last call, and the calls in it.
    second: (i64, u64),
}

impl Load {
    /// Both, one after the other.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.records += other.records;
        self.most = self.most.max(other.most);
    }

    fn call(&mut self, now: i64) {
        self.calls += 1;
        let second = now / 1_000_000;
        let before = if self.second.0 == second { self.second.1 } else { 0 };
        self.second = (second, before + 1);
        self.most = self.most.max(before + 1);
    }
}

#[derive(Clone, Debug)]
struct Kept {
    revision: i64,
    value: String,
    /// Until when its holder counts as alive: virtual microseconds.
    alive_until: i64,
}

/// How a node's calls reach the registry.
#[derive(Clone, Debug)]
pub struct Link {
    /// Not at all.
    pub cut: bool,
    /// It takes up to so long, each way; microseconds.
    pub latency: u64,
    /// One in so many answers is lost; 0 for none.
    pub loses: u64,
    /// The node stands still: it hears no answer until it goes on.
    pub frozen: bool,
    chance: Chance,
}

impl Link {
    /// A good one.
    pub const fn new(chance: Chance) -> Self {
        Self { cut: false, latency: 2_000, loses: 0, frozen: false, chance }
    }
}

/// The whole, as the nodes share it.
#[derive(Debug, Default)]
pub struct Network {
    registry: Mutex<Registry>,
    /// The registry is down.
    down: Mutex<bool>,
    /// How the registry would be after a failover to its standby.
    standby: Mutex<Option<Registry>>,
    /// What can be restored.
    backup: Mutex<Option<Registry>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// What the registry keeps, to be looked at and changed from outside.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// The registry stops, or runs again.
    pub fn set_down(&self, down: bool) {
        *lock(&self.down) = down;
    }

    fn is_down(&self) -> bool {
        *lock(&self.down)
    }

    /// A backup is made.
    pub fn back_up(&self) {
        let copy = self.registry().clone();
        *lock(&self.backup) = Some(copy);
    }

    /// The registry is as it was when the last backup was made.
    pub fn restore(&self) -> bool {
        let backup = lock(&self.backup).clone();
        let found = backup.is_some();
        if let Some(backup) = backup {
            self.registry().become_as(backup);
        }
        found
    }

    /// The registry has lost everything.
    pub fn empty(&self) {
        let mut registry = self.registry();
        let revisions = registry.revisions;
        registry.become_as(Registry { revisions, ..Registry::default() });
    }

    /// From now on the registry's standby hears nothing more, and its commits warn.
    pub fn cut_standby(&self) {
        *lock(&self.standby) = Some(self.registry().clone());
    }

    /// The standby takes over. Whether there was one that had been cut off.
    pub fn fail_over(&self) -> bool {
        let standby = lock(&self.standby).take();
        let found = standby.is_some();
        if let Some(standby) = standby {
            self.registry().become_as(standby);
        }
        found
    }

    /// Whether it runs, and its standby hears of it.
    pub fn is_well(&self) -> bool {
        !self.is_down() && !self.warns()
    }

    /// Whether commits are only those of a registry whose standby does not answer.
    fn warns(&self) -> bool {
        lock(&self.standby).is_some()
    }
}

/// One node's way to it.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where to.
    pub network: Arc<Network>,
    /// How it is.
    pub link: Arc<Mutex<Link>>,
    /// The virtual time, in microseconds.
    pub time: fn() -> i64,
    /// Told when a write sets out.
    pub writes: Arc<Notify>,
}

impl Way {
    /// How it is.
    pub fn link(&self) -> MutexGuard<'_, Link> {
        lock(&self.link)
    }

    fn latency(&self) -> Duration {
        let mut link = self.link();
        let most = link.latency.max(1);
        Duration::from_micros(link.chance.below(most))
    }

    /// A call. Once sent, it is carried out when it arrives, whatever the caller does meanwhile.
    async fn call<T: Send + 'static>(
        &self,
        is_write: bool,
        work: impl FnOnce(&mut Registry, i64) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let unreachable = |why: &str| Error::unreachable("the registry", why);
        if self.link().cut || self.network.is_down() {
            tokio::time::sleep(self.latency()).await;
            // Refused at once, or silent.
            if self.link().chance.one_in(2) {
                return Err(unreachable("connection refused"));
            }
            tokio::time::sleep(PATIENCE).await;
            return Err(unreachable("no answer"));
        }
        if is_write {
            self.writes.notify_waiters();
        }
        let (answer, answered) = oneshot::channel();
        let (way, there) = (self.clone(), self.latency());
        tokio::spawn(async move {
            tokio::time::sleep(there).await;
            if way.link().cut || way.network.is_down() {
                return;
            }
            // It is the commit that warns, whoever is the registry when its answer arrives.
            let warned = is_write && way.network.warns();
            let done = {
                let mut registry = way.network.registry();
                let now = (way.time)();
                registry.load.call(now);
                work(&mut registry, now)
            };
            let back = way.latency();
            tokio::time::sleep(back).await;
            let lost = {
                let mut link = way.link();
                let loses = link.loses;
                link.cut || loses > 0 && link.chance.one_in(loses)
            };
            if !lost {
                let _ = answer.send((done, warned));
            } else {
                // The connection stays, and says nothing.
                tokio::time::sleep(2 * PATIENCE).await;
            }
        });
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        while self.link().frozen {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (done, warned) =
            answered.ok().and_then(Result::ok).ok_or_else(|| unreachable("no answer"))?;
        if warned && !crate::put_back("F16") {
            // As `snowflake_registry`'s own store for PostgreSQL does.
            return Err(Error::refused("the registry", "its standby has not confirmed the write"));
        }
        Ok(done)
    }
}

fn entry(number: u64, kept: &Kept, now: i64) -> Entry {
    Entry {
        number,
        revision: kept.revision,
        value: kept.value.clone(),
        alive: kept.alive_until > now,
    }
}

/// How long an announcement counts: three heartbeats of ten seconds.
const PRESENCE: i64 = 30_000_000;

impl Store for Way {
    async fn list(&mut self) -> Result<Vec<Entry>, Error> {
        self.call(false, |registry, now| {
            registry.load.records += registry.entries.len() as u64;
            registry.entries.iter().map(|(number, kept)| entry(*number, kept, now)).collect()
        })
        .await
    }

    fn key(&self, number: u64) -> String {
        number.to_string()
    }

    async fn get(&mut self, number: u64) -> Result<Option<Entry>, Error> {
        self.call(false, move |registry, now| {
            registry.load.records += 1;
            registry.entries.get(&number).map(|kept| entry(number, kept, now))
        })
        .await
    }

    async fn swap(
        &mut self,
        number: u64,
        revision: Option<i64>,
        value: &str,
    ) -> Result<bool, Error> {
        let value = value.to_owned();
        self.call(true, move |registry, _| {
            let found = registry.entries.get(&number);
            if found.map(|kept| kept.revision) != revision {
                return false;
            }
            let alive_until = found.map_or(0, |kept| kept.alive_until);
            registry.note(number, &value);
            registry.revisions += 1;
            let revision = registry.revisions;
            registry.entries.insert(number, Kept { revision, value, alive_until });
            true
        })
        .await
    }

    async fn announce(&mut self, number: u64) -> Result<(), Error> {
        self.call(false, move |registry, now| {
            if let Some(kept) = registry.entries.get_mut(&number) {
                kept.alive_until = now + PRESENCE;
            }
        })
        .await
    }

    async fn withdraw(&mut self, number: u64) -> Result<(), Error> {
        self.call(false, move |registry, _| {
            if let Some(kept) = registry.entries.get_mut(&number) {
                kept.alive_until = 0;
            }
        })
        .await
    }
}

impl Registry {
    /// Its entries are those of another one.
    fn become_as(&mut self, other: Self) {
        (self.entries, self.revisions) = (other.entries, other.revisions);
    }

    /// What a value that is being written allows.
    fn note(&mut self, number: u64, value: &str) {
        let Ok(record) = serde_json::from_str::<Record>(value) else { return };
        let leases = self.leases.entry(number).or_default();
        let known = leases.iter_mut().find(|lease| lease.nonce == record.nonce);
        let Record { nonce, state, floor, until, .. } = record;
        match (known, state) {
            // What was given back may not be used any more.
            (Some(lease), _) => (lease.floor, lease.until) = (floor, until),
            (None, State::Held) => leases.push(Lease { nonce, floor, until }),
            // A claim is no right yet.
            (None, State::Claimed | State::Released) => (),
        }
    }

    /// Whether ids from one time up to another one may be issued with a number, by what was ever written.
    pub fn allows(&self, number: u64, from: i64, to: i64) -> bool {
        let leases = self.leases.get(&number).map_or(&[][..], Vec::as_slice);
        leases.iter().rev().any(|lease| lease.floor <= from && to < lease.until)
    }

    /// What it says of a number, as JSON.
    pub fn value(&self, number: u64) -> Option<&str> {
        self.entries.get(&number).map(|kept| kept.value.as_str())
    }
}
