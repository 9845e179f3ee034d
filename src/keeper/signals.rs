//! The keeper's signals. PostgreSQL's own handlers would end it in the middle of a
//! transaction, or leave it waiting for a standby while the server wants to stop.
#![allow(unsafe_code)]

use crate::versions::pqsignal;
use crate::wait::{WaitEvent, wait_for_latch};
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The server, or someone, wants this process to end.
static STOP: AtomicBool = AtomicBool::new(false);
/// How often a transaction was interrupted.
static INTERRUPTIONS: AtomicU32 = AtomicU32::new(0);
static IN_TRANSACTION: AtomicBool = AtomicBool::new(false);
/// The last writes are being made. The postmaster sends each SIGTERM twice, and the second one must not
/// interrupt what the first has begun.
static CLOSING: AtomicBool = AtomicBool::new(false);

/// Installs the handlers: SIGHUP wakes; SIGTERM and SIGINT interrupt a transaction, and the
/// first also ends the keeper.
pub(super) fn install() {
    // SAFETY: signals are still blocked; the handlers do nothing that is not allowed in one.
    unsafe {
        pqsignal!(libc::SIGTERM, on_stop);
        pqsignal!(libc::SIGINT, on_cancel);
    }
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
}

fn on_stop() {
    STOP.store(true, Ordering::Relaxed);
    if !CLOSING.load(Ordering::Relaxed) {
        on_cancel();
    }
}

/// As PostgreSQL's StatementCancelHandler. It also is the way in which lock_timeout comes.
fn on_cancel() {
    // SAFETY: the flags are of a type that a handler may write, and waking one's own latch is
    // allowed in one.
    unsafe {
        if IN_TRANSACTION.load(Ordering::Relaxed) {
            INTERRUPTIONS.fetch_add(1, Ordering::Relaxed);
            (&raw mut pg_sys::QueryCancelPending).write_volatile(1);
            (&raw mut pg_sys::InterruptPending).write_volatile(1);
        }
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

pub(super) fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// From now on a request to stop, which has been heard, interrupts nothing. What is done until the end
/// has bounds of its own.
pub(super) fn close() {
    CLOSING.store(true, Ordering::Relaxed);
}

/// While it lives, the handlers interrupt what PostgreSQL does.
pub(super) struct Interruptible {
    before: u32,
}

impl Interruptible {
    /// `None` where the process is to end: a request that came before the transaction would not
    /// interrupt it.
    pub(super) fn begin() -> Option<Self> {
        let before = INTERRUPTIONS.load(Ordering::Relaxed);
        IN_TRANSACTION.store(true, Ordering::Relaxed);
        // After: a request from here on interrupts.
        if stop_requested() && !CLOSING.load(Ordering::Relaxed) {
            IN_TRANSACTION.store(false, Ordering::Relaxed);
            return None;
        }
        Some(Self { before })
    }

    /// Whether there was an interruption.
    pub(super) fn end(self) -> bool {
        IN_TRANSACTION.store(false, Ordering::Relaxed);
        // One that came too late to interrupt anything must not do so later.
        // SAFETY: no handler sets the flag any more.
        unsafe { (&raw mut pg_sys::QueryCancelPending).write_volatile(0) };
        INTERRUPTIONS.load(Ordering::Relaxed) != self.before
    }
}

/// Rests until it is woken, but for `at_least`, and for `at_most` if it is not; or until the
/// process is to end. Other processes' requests, such as to let go of a dropped file, are served.
pub(super) fn rest(at_least: Duration, at_most: Duration) {
    let begin = Instant::now();
    let mut woken = false;
    while !stop_requested() {
        let left = if woken { at_least } else { at_most.max(at_least) };
        let Some(left) = left.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else {
            break;
        };
        // Rounded up: a rest of less than a millisecond would not be one.
        woken |= wait_for_latch(left.as_millis() as u64 + 1, WaitEvent::Main);
        pgrx::check_for_interrupts!();
    }
}
