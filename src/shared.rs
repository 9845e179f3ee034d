//! The node's state in shared memory.
//!
//! One allocation: [`Shared`], and behind it a [`BackendSlot`] for each backend that
//! the server can have. It is made in the postmaster, before any backend, and again
//! after a crash of one (PostgreSQL then makes all shared memory anew). It always
//! begins closed: no id leaves before the keeper has opened it.
//!
//! There is no lock. Of [`Shared`], allocator and report say themselves who writes what.
//! A slot is written by its backend alone and read by anyone: relaxed atomics, no
//! read-modify-write.
#![allow(unsafe_code)]

use crate::report::Report;
use pgrx::prelude::*;
use snowflake_core::sync::{AtomicI64, AtomicU64, CacheLine, Ordering};
use snowflake_core::{Allocator, Slots};
use std::sync::atomic::AtomicPtr;

/// What all backends of the node share.
#[repr(C, align(128))]
pub(crate) struct Shared {
    pub(crate) allocator: Allocator,
    report: CacheLine<Report>,
    backends: usize,
}

/// What one backend alone writes. On cache lines of its own.
#[repr(C, align(128))]
pub(crate) struct BackendSlot {
    /// The session's last id, [`NO_ID`] before the first.
    pub(crate) last_id: AtomicI64,
    /// What is left of the backend's block.
    block: [AtomicU64; 3],
    /// Ids issued; counters outlive the session and are never reset here.
    pub(crate) ids: AtomicU64,
    /// Calls that issued them.
    pub(crate) calls: AtomicU64,
    /// Waits for the next tick.
    pub(crate) ticks_exhausted: AtomicU64,
    /// Microseconds waited, for whatever reason.
    pub(crate) wait_time: AtomicU64,
}

/// In `last_id`: none yet. Ids are never negative.
pub(crate) const NO_ID: i64 = -1;

impl Shared {
    /// What the keeper says.
    pub(crate) const fn report(&self) -> &Report {
        &self.report.0
    }

    /// Wakes the keeper, if there is one.
    pub(crate) fn wake_keeper(&self) {
        let latch = self.report().latch.load(Ordering::Acquire);
        if !latch.is_null() {
            // SAFETY: the keeper stored its process's latch, which lies in shared memory for as
            // long as the server runs. If the keeper has ended, another process may have got the
            // latch: it wakes once for nothing, as every process must expect.
            unsafe { pg_sys::SetLatch(latch) };
        }
    }

    fn slots(&self) -> &[BackendSlot] {
        // SAFETY: `initialize` allocated and zeroed `backends` slots right behind
        // this struct, whose size is a multiple of its alignment and so of theirs;
        // zeroes are a valid slot, and all fields are atomics, which any number of
        // processes may share.
        unsafe {
            let first = std::ptr::from_ref(self).add(1).cast::<BackendSlot>();
            std::slice::from_raw_parts(first, self.backends)
        }
    }

    /// The slot of this process. `None` in a process that is no backend.
    pub(crate) fn my_slot(&self) -> Option<&BackendSlot> {
        // SAFETY: reads a number that is set before the process runs any query and
        // not changed afterwards.
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let number = unsafe { pg_sys::MyBackendId } - 1;
        // SAFETY: as above.
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        let number = unsafe { pg_sys::MyProcNumber };
        self.slots().get(usize::try_from(number).ok()?)
    }
}

impl BackendSlot {
    /// The beginning of a session: what the last one left is not this one's.
    pub(crate) fn begin_session(&self) {
        self.last_id.store(NO_ID, Ordering::Relaxed);
        self.set_block(Slots::default());
    }

    #[inline]
    pub(crate) fn block(&self) -> Slots {
        Slots::from_words(std::array::from_fn(|i| self.block[i].load(Ordering::Relaxed)))
    }

    #[inline]
    pub(crate) fn set_block(&self, block: Slots) {
        for (word, value) in self.block.iter().zip(block.into_words()) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Adds to a counter that only this process writes.
#[inline]
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// Null until the postmaster has made the state; every process that it forks
/// inherits the pointer.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// The state; `None` where the library is not preloaded.
pub(crate) fn shared() -> Option<&'static Shared> {
    // SAFETY: either null or set by `initialize` to shared memory that stays mapped
    // for the life of the process.
    unsafe { SHARED.load(Ordering::Acquire).as_ref() }
}

static mut PREVIOUS_REQUEST_HOOK: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP_HOOK: pg_sys::shmem_startup_hook_type = None;

/// Asks PostgreSQL for the memory; for `_PG_init` while preloading.
pub(crate) fn request() {
    // SAFETY: `_PG_init` runs once in the postmaster, which has one thread.
    unsafe {
        PREVIOUS_REQUEST_HOOK = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP_HOOK = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

/// Processes that can have a slot, known once all libraries are preloaded.
fn backends() -> usize {
    // SAFETY: reads a number that is set before the hooks below are called.
    unsafe { pg_sys::MaxBackends as usize }
}

fn size() -> usize {
    size_of::<Shared>() + backends() * size_of::<BackendSlot>()
}

#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: this is the hook in which the call is allowed; the previous hook is
    // called as PostgreSQL would have called it.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST_HOOK {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(size());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: this is the hook in which shared memory may be asked for. It runs in the
    // postmaster before it forks (PostgreSQL on Windows, where each process runs it,
    // is not supported by pgrx), so nobody else sees the memory while it is written.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP_HOOK {
            previous();
        }
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(c"snowflake_id".as_ptr(), size(), &raw mut found)
            .cast::<Shared>();
        // PostgreSQL aligns to its own cache line size of 128 bytes.
        assert!(memory.is_aligned(), "shared memory is not aligned to a cache line");
        if !found {
            memory.cast::<u8>().write_bytes(0, size());
            (&raw mut (*memory).backends).write(backends());
        }
        SHARED.store(memory, Ordering::Release);
    }
}
