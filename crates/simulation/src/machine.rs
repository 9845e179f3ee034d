//! A machine's clocks, as its processes see them.

use snowflake_core::Clock;
use snowflake_core::keeper::{Estimate, Reading};

/// When histories begin, by a clock that is right: microseconds since 1970.
pub const BEGIN: i64 = 1_800_000_000_000_000;

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// How far its wall clock is from the right time, in microseconds.
    pub offset: i64,
    /// A jump that will be put right.
    pub jump: i64,
    /// How much more it counts, in millionths.
    pub drift: i64,
    /// When it was started, in virtual microseconds.
    pub booted: i64,
    /// What tells this run from the next.
    pub boot: u64,
}

impl Machine {
    /// The wall clock.
    pub fn wall(&self, time: i64) -> i64 {
        BEGIN + time + self.offset + self.jump + (time - self.booted) * self.drift / 1_000_000
    }

    /// One look at both clocks.
    pub fn reading(&self, time: i64) -> Reading {
        let (now, uptime) = (self.wall(time), self.uptime(time));
        let estimate = Some(Estimate { error: 1000, offset: 0, synchronized: true });
        Reading { now, booted_at: now - uptime, estimate }
    }

    /// How long it has been running.
    pub const fn uptime(&self, time: i64) -> i64 {
        time - self.booted
    }
}

/// The wall clock at one moment.
#[derive(Clone, Copy, Debug)]
pub struct At(pub i64);

impl Clock for At {
    fn now(&self) -> i64 {
        self.0
    }
}
