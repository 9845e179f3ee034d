//! What the keeper reads of the machine's clocks.
#![allow(unsafe_code)]

use crate::time::{WallClock, uptime};
use snowflake_core::Clock;

/// One look at the clocks. All in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// The wall clock, since 1970.
    pub(super) now: i64,
    /// When the machine was started, by the wall clock. It changes when that is set.
    pub(super) booted_at: i64,
    /// The kernel's estimate of how wrong the wall clock can be.
    pub(super) error: i64,
    /// What the kernel is still correcting, little by little.
    pub(super) offset: i64,
    /// Whether a time daemon keeps the clock.
    pub(super) synchronized: bool,
}

/// The greatest error that the kernel admits: NTP_PHASE_LIMIT, 16 s.
const UNKNOWN: i64 = 16_000_000;

impl Reading {
    pub(super) fn take() -> Self {
        // SAFETY: a struct of numbers, for which zero is valid; modes = 0 asks and sets nothing.
        let mut kernel: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a struct of our own. The call fails only where a sandbox
        // forbids it; then there is no estimate.
        let state = unsafe { libc::adjtimex(&raw mut kernel) };
        let (uptime, now) = both_clocks();
        let is = |flag| kernel.status & flag != 0;
        Self {
            now,
            booted_at: now - uptime,
            // Where the kernel does not say, it is as bad as the kernel ever says.
            error: if state < 0 { UNKNOWN } else { kernel.maxerror },
            offset: kernel.offset / if is(libc::STA_NANO) { 1000 } else { 1 },
            synchronized: state >= 0 && state != libc::TIME_ERROR && !is(libc::STA_UNSYNC),
        }
    }
}

/// The machine's uptime and the wall clock, at the same moment: a process that was held up between
/// the two readings would see a jump.
fn both_clocks() -> (i64, i64) {
    const AT_ONCE: i64 = 100;
    let mut tries = 10;
    loop {
        let (before, now, after) = (uptime(), WallClock.now(), uptime());
        tries -= 1;
        if after - before <= AT_ONCE || tries == 0 {
            return (before, now);
        }
    }
}

/// What tells one run of the machine from the next; empty where the kernel does not say.
pub(super) fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
