//! The watch over the wall clock: a jump forward that is too large to be believed.

/// Compares the wall clock with one that is never set: one that counts from when the
/// machine was started. Their difference, the moment of that start as the wall clock
/// has it, changes only when the wall clock is set.
///
/// Only jumps forward are dangerous to the high-water mark: what follows one generates ids
/// of a time that may not have come. So the watch holds the *latest* moment of start that
/// it has come to trust, and a clock that is set back and put right again is no jump.
#[derive(Clone, Copy, Debug)]
pub struct ClockWatch {
    booted_at: i64,
}

impl ClockWatch {
    /// A watch that trusts the wall clock by which the machine was started at `booted_at`,
    /// in microseconds since the Unix epoch.
    pub const fn new(booted_at: i64) -> Self {
        Self { booted_at }
    }

    /// Looks at the clocks. Microseconds of a jump forward by more than `max_jump`
    /// microseconds; any other difference is trusted from now on.
    pub fn look(&mut self, booted_at: i64, max_jump: Option<u64>) -> Result<(), u64> {
        let jump = u64::try_from(booted_at.saturating_sub(self.booted_at)).unwrap_or(0);
        if max_jump.is_some_and(|max| jump > max) {
            return Err(jump);
        }
        self.accept(self.booted_at.max(booted_at));
        Ok(())
    }

    /// Trusts the clock as it stands, whatever it was before.
    pub const fn accept(&mut self, booted_at: i64) {
        self.booted_at = booted_at;
    }

    /// What the watch trusts, to be kept with the high-water mark.
    pub const fn booted_at(&self) -> i64 {
        self.booted_at
    }
}
