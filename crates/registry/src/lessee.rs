//! The keeper's side of its lease: which holder there must be by the settings, and when the time that
//! it asks with is to be trusted.

use crate::error::Error;
use crate::holder::{Holder, Status};
use crate::lease::Taker;
use snowflake_core::Layout;
use snowflake_core::keeper::Home;
use snowflake_core::tenancy::{Asked, Contested, Held, KeptLease, LeaseStatus, Now, Trouble};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A time that the keeper has trusted lately.
#[derive(Debug, Default)]
pub struct TrustedTime {
    /// Microseconds since 1970; 0 while there is none.
    wall: AtomicI64,
    /// How far ahead of that ids may be.
    ahead: AtomicI64,
    /// The machine's uptime then.
    uptime: AtomicI64,
}

/// How long the keeper may be silent, busy with a write, before its word is no longer taken.
const WORD: i64 = 10_000_000;

impl TrustedTime {
    fn set(&self, now: Option<Now>, uptime: i64) {
        self.wall.store(0, Ordering::Release);
        self.uptime.store(uptime, Ordering::Release);
        self.ahead.store(now.map_or(0, |now| now.ids - now.wall), Ordering::Release);
        self.wall.store(now.map_or(0, |now| now.wall), Ordering::Release);
    }

    /// What the time is, if there is one to be trusted, at some uptime of the machine.
    pub fn now(&self, uptime: i64) -> Option<Now> {
        let (wall, then) = (self.wall.load(Ordering::Acquire), self.uptime.load(Ordering::Acquire));
        let ahead = self.ahead.load(Ordering::Acquire);
        let since = uptime - then;
        let trusted = wall != 0 && wall == self.wall.load(Ordering::Acquire) && since <= WORD;
        trusted.then(|| Now { wall: wall + since, ids: wall + since + ahead })
    }
}

/// How holders are started, and what they do not know by themselves.
pub trait Start {
    /// Starts one.
    fn start(&self, asked: &Asked, taker: Taker, time: Arc<TrustedTime>) -> Result<Holder, String>;

    /// How long the machine has been running, in microseconds.
    fn uptime(&self) -> i64;

    /// An error for people.
    fn in_words(&self, error: &Error) -> String {
        error.to_string()
    }
}

/// The lease that a node holds, or tries to get.
pub struct Lessee<S> {
    start: S,
    time: Arc<TrustedTime>,
    current: Option<(Asked, Holder)>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Lessee<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the settings, which can hold a password.
        let holder = self.current.as_ref().map(|(_, holder)| holder);
        f.debug_struct("Lessee").field("start", &self.start).field("holder", &holder).finish()
    }
}

impl<S: Start> Lessee<S> {
    /// One that has nothing yet.
    pub fn new(start: S) -> Self {
        Self { start, time: Arc::default(), current: None }
    }

    /// What the clock says, if it is to be trusted. Without that, a lease is not renewed.
    pub fn trust(&self, now: Option<Now>) {
        self.time.set(now, self.start.uptime());
    }

    /// How the lease stands that the settings want. They may have changed: then the number is
    /// taken up again by its new settings, or exchanged for another one.
    pub fn follow(
        &mut self,
        asked: &Asked,
        home: &Home,
        layout: &Layout,
        kept: Option<&KeptLease>,
        remembers: bool,
    ) -> Result<LeaseStatus, String> {
        let fits = |(current, holder): &(Asked, Holder)| current == asked && !holder.is_over();
        if !self.current.as_ref().is_some_and(fits) {
            if asked.terms.duration < asked.terms.heartbeat * 3 {
                return Err(
                    "a lease (snowflake_id.lease_duration) is shorter than three heartbeats (snowflake_id.heartbeat)"
                        .to_owned(),
                );
            }
            let held = self.status().held.map(|held| held.kept());
            let taker = Taker {
                node: home.name.to_string(),
                host: home.host.clone(),
                range: asked.range.clone(),
                base: asked.base,
                layout: layout.to_string(),
                epoch: layout.epoch(),
                kept: held.or(kept.cloned()),
                remembers,
                avoid: BTreeSet::new(),
            };
            let holder = self.start.start(asked, taker, Arc::clone(&self.time))?;
            self.current = Some((asked.clone(), holder));
        }
        Ok(self.status())
    }

    /// How the lease stands.
    pub fn status(&self) -> LeaseStatus {
        let status = self.current.as_ref().map(|(_, holder)| holder.status()).unwrap_or_default();
        let Status { held, claimed, contested, trouble, renewals, failures, answered, .. } = status;
        let contested = contested.map(|contested| Contested {
            nonce: contested.nonce,
            node: contested.by.node,
            host: contested.by.host,
        });
        let trouble = trouble.map(|trouble| Trouble {
            since: trouble.since,
            why: self.start.in_words(&trouble.error),
        });
        LeaseStatus { held, claimed, contested, trouble, renewals, failures, answered }
    }

    /// Gives the number back and takes another one.
    pub fn another(&mut self, last: i64) {
        if let Some((_, holder)) = &mut self.current {
            holder.another(last);
        }
    }

    /// Gives a number back that is no longer used, be it that of earlier settings.
    pub fn give_back(&self, held: &Held, last: i64) {
        if let Some((_, holder)) = &self.current {
            holder.give_back(held, last);
        }
    }

    /// There is nothing to hold any more.
    pub fn let_go(&mut self) {
        self.current = None;
    }

    /// At the end: nobody takes the number before `until`. Waits for so long at most, and blocks.
    pub fn release(&self, held: &Held, until: i64, at_most: Duration) -> Result<(), String> {
        let Some((_, holder)) = &self.current else { return Ok(()) };
        holder.release(held, until, at_most).map_err(|error| self.start.in_words(&error))
    }

    /// The same for a task that must not block.
    pub async fn released(&self, held: &Held, until: i64, at_most: Duration) -> Result<(), String> {
        let Some((_, holder)) = &self.current else { return Ok(()) };
        let released = holder.released(held, until, at_most).await;
        released.map_err(|error| self.start.in_words(&error))
    }
}
