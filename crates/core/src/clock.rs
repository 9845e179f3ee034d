//! Where the time comes from.

use crate::sync::{AtomicI64, Ordering};

/// A wall clock.
///
/// Nothing that this crate promises about uniqueness depends on the clock being
/// right, steady or monotonic; it only decides when ids can be had.
pub trait Clock {
    /// Microseconds since 1970-01-01 00:00:00 UTC.
    fn now(&self) -> i64;
}

/// A clock that stands where it was put: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now` microseconds since the Unix epoch.
    pub fn new(now: i64) -> Self {
        Self(AtomicI64::new(now))
    }

    /// Moves the clock forward to `now`; leaves it where it is later already.
    pub fn advance_to(&self, now: i64) {
        self.0.fetch_max(now, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}
