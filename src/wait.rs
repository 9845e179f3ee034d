//! Waiting that can be interrupted and does not burn the CPU.

use crate::encoding::guarded;
use crate::versions;
use pgrx::{check_for_interrupts, pg_sys};
use std::time::Duration;

/// Waits are cut into pieces of this length at most, so that a clock that is put
/// right is noticed.
const LONGEST: u64 = 100_000;
/// A latch is waited for in whole milliseconds. Shorter waits, those for the next
/// tick of most layouts, are slept.
const SHORTEST_BY_LATCH: u64 = 2_000;

// PostgreSQL's storage/pmsignal.h, which pgrx does not have.
#[allow(unsafe_code)]
unsafe extern "C-unwind" {
    fn PostmasterIsAliveInternal() -> bool;
}

/// What a process waits for. From PostgreSQL 17 on, `pg_stat_activity` names it.
#[derive(Clone, Copy)]
pub(crate) enum WaitEvent {
    /// The next tick: all ids of this one are claimed.
    Tick,
    /// A clock that stepped back, or is behind another node's id.
    Clock,
    /// The keeper's answer.
    Keeper,
    /// Another session's reset of the statistics.
    Reset,
    /// The next attempt to lock a table that is to be converted.
    Convert,
    /// As the keeper: that there is something to do.
    Main,
}

/// Waits for about `micros` microseconds, at most 100 ms, then serves interrupts: a
/// cancelled or terminated statement ends here, and so does one whose server has died.
pub(crate) fn wait(micros: u64, event: WaitEvent) {
    let micros = micros.min(LONGEST);
    if micros < SHORTEST_BY_LATCH {
        std::thread::sleep(Duration::from_micros(micros));
        // A latch would have noticed. Until all of its processes have ended, a server cannot be
        // started again.
        // SAFETY: no arguments; it reads a pipe that the postmaster holds open. The process ends as it
        // does where a latch is waited for.
        #[allow(unsafe_code)]
        unsafe {
            if !PostmasterIsAliveInternal() {
                pg_sys::proc_exit(1);
            }
        }
    } else {
        wait_for_latch(micros / 1000, event);
    }
    guarded(|| {
        check_for_interrupts!();
    });
}

/// Waits until this process's latch is set, or for so many milliseconds, and resets it. Whether
/// it was set. The caller then serves interrupts.
pub(crate) fn wait_for_latch(millis: u64, event: WaitEvent) -> bool {
    let event = versions::wait_event(event);
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: called in backends and in the keeper, where MyLatch is set for the whole life of
    // the process. A signal sets the latch, which ends the wait at once; it is reset before the
    // interrupts are looked at, so that one that comes between is not lost.
    #[allow(unsafe_code)]
    unsafe {
        let happened =
            pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, millis as core::ffi::c_long, event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        happened & pg_sys::WL_LATCH_SET as i32 != 0
    }
}
