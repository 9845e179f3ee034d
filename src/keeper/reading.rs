//! What the keeper reads of the machine's clocks.
#![allow(unsafe_code)]

use crate::time::{WallClock, uptime};
use snowflake_core::Clock;
use snowflake_core::keeper::{Estimate, Reading};

/// One look at the clocks.
pub(super) fn take() -> Reading {
    let (uptime, now) = both_clocks();
    Reading { now, booted_at: now - uptime, estimate: estimate() }
}

/// What the kernel says of the wall clock. A container or a unit of systemd may forbid the
/// question, which can also set the clock: then nothing is known, which is not the same as bad.
fn estimate() -> Option<Estimate> {
    // SAFETY: a struct of numbers, for which zero is valid; modes = 0 asks and sets nothing.
    let mut kernel: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct of our own.
    let state = unsafe { libc::adjtimex(&raw mut kernel) };
    let is = |flag| kernel.status & flag != 0;
    (state >= 0).then(|| Estimate {
        error: kernel.maxerror,
        offset: kernel.offset / if is(libc::STA_NANO) { 1000 } else { 1 },
        synchronized: state != libc::TIME_ERROR && !is(libc::STA_UNSYNC),
    })
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
