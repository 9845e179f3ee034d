//! The keeper's side of a lease from a registry: what is asked for, and when the time that
//! it is asked with is to be trusted. The calls themselves run in a thread of the holder's.
#![allow(unsafe_code)]

use super::high_water::Home;
use crate::time::{shown, uptime};
use snowflake_core::Layout;
use snowflake_core::window::KeptLease;
use snowflake_registry::lease::{Kept, Taker};
use snowflake_registry::{Address, Error, Held, Holder, Now, Status, Terms};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// What the settings say of the lease. The address can hold a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) registry: String,
    /// Worker ids.
    pub(super) range: RangeInclusive<u64>,
    /// The datacenter's part of the number.
    pub(super) base: u64,
    pub(super) terms: Terms,
}

/// A time that the keeper has trusted lately.
#[derive(Default)]
struct TrustedTime {
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
    fn set(&self, now: Option<Now>) {
        self.wall.store(0, Ordering::Release);
        self.uptime.store(uptime(), Ordering::Release);
        self.ahead.store(now.map_or(0, |now| now.ids - now.wall), Ordering::Release);
        self.wall.store(now.map_or(0, |now| now.wall), Ordering::Release);
    }

    fn now(&self) -> Option<Now> {
        let (wall, then) = (self.wall.load(Ordering::Acquire), self.uptime.load(Ordering::Acquire));
        let ahead = self.ahead.load(Ordering::Acquire);
        let since = uptime() - then;
        let trusted = wall != 0 && wall == self.wall.load(Ordering::Acquire) && since <= WORD;
        trusted.then(|| Now { wall: wall + since, ids: wall + since + ahead })
    }
}

/// The lease that this node holds, or tries to get.
#[derive(Default)]
pub(super) struct Lessee {
    time: Arc<TrustedTime>,
    current: Option<(Asked, Holder)>,
}

impl Lessee {
    /// What the clock says, if it is to be trusted. Without that, a lease is not renewed.
    pub(super) fn trust(&self, now: Option<Now>) {
        self.time.set(now);
    }

    /// How the lease stands that the settings want. They may have changed: then the number is
    /// taken up again by its new settings, or exchanged for another one.
    pub(super) fn follow(
        &mut self,
        asked: &Asked,
        home: &Home,
        layout: &Layout,
        kept: Option<&KeptLease>,
        remembers: bool,
    ) -> Result<Status, String> {
        let fits = |(current, holder): &(Asked, Holder)| current == asked && !holder.is_over();
        if !self.current.as_ref().is_some_and(fits) {
            if asked.terms.duration < asked.terms.heartbeat * 3 {
                return Err(
                    "a lease (snowflake_id.lease_duration) is shorter than three heartbeats (snowflake_id.heartbeat)"
                        .to_owned(),
                );
            }
            let held = self.status().held.map(|Held { nonce, until, .. }| Kept { nonce, until });
            let taker = Taker {
                node: home.name.to_string(),
                host: home.host.clone(),
                range: asked.range.clone(),
                base: asked.base,
                layout: layout.to_string(),
                epoch: layout.epoch(),
                kept: held.or(kept.map(|KeptLease { nonce, until }| Kept {
                    nonce: nonce.clone(),
                    until: *until,
                })),
                remembers,
                avoid: BTreeSet::new(),
            };
            let address = Address::parse(&asked.registry)?;
            let time = Arc::clone(&self.time);
            let holder = without_signals(|| {
                Holder::start(address.provider(asked.terms), taker, asked.terms, move || time.now())
            });
            let holder = holder.map_err(|error| error.to_string())?;
            self.current = Some((asked.clone(), holder));
        }
        Ok(self.status())
    }

    pub(super) fn status(&self) -> Status {
        self.current.as_ref().map(|(_, holder)| holder.status()).unwrap_or_default()
    }

    /// Gives the number back and takes another one.
    pub(super) fn another(&mut self, last: i64) {
        if let Some((_, holder)) = &mut self.current {
            holder.another(last);
        }
    }

    /// Gives a number back that is no longer used, be it that of earlier settings.
    pub(super) fn give_back(&self, held: &Held, last: i64) {
        if let Some((_, holder)) = &self.current {
            holder.give_back(held, last);
        }
    }

    /// There is nothing to hold any more.
    pub(super) fn stop(&mut self) {
        self.current = None;
    }

    /// At the end of the process: waits no longer than that.
    pub(super) fn release(&self, until: i64, at_most: Duration) -> Result<(), Error> {
        match &self.current {
            Some((_, holder)) => holder.release(until, at_most),
            None => Ok(()),
        }
    }
}

/// Why there is no lease.
pub(super) fn in_words(error: &Error) -> String {
    match error {
        // The layout alone would not tell the two apart.
        Error::OtherLayout { epoch, .. } => format!("{error} with epoch {}", shown(Some(*epoch))),
        error => error.to_string(),
    }
}

/// Starts threads that no signal reaches: PostgreSQL's handlers are for its own thread.
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are of our own; the mask of this thread is what it was when the function
    // returns. Threads inherit the mask of the one that starts them.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        let started = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        started
    }
}
