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
use crate::statistics::{Counter, Counters, Totals, WORDS, since};
use crate::time::WallClock;
use crate::versions;
use crate::wait::{WaitEvent, wait};
use pgrx::prelude::*;
use snowflake_core::published::Published;
use snowflake_core::ring::Ring;
use snowflake_core::sync::{AtomicI64, AtomicU64, CacheLine, Ordering};
use snowflake_core::{Allocator, ClaimedTick, Clock, Slots};
use std::sync::atomic::{AtomicBool, AtomicPtr};

/// What all backends of the node share.
#[repr(C, align(128))]
pub(crate) struct Shared {
    pub(crate) allocator: Allocator,
    report: CacheLine<Report>,
    statistics: CacheLine<Statistics>,
    backends: usize,
}

/// From where the statistics count.
#[derive(Debug)]
#[repr(C)]
struct Statistics {
    /// What had been counted at the last reset; the number of that reset, and when it was, in
    /// microseconds since 1970.
    base: Published<{ WORDS + 2 }>,
    /// Held while that is written.
    resetting: AtomicBool,
}

/// What one backend alone writes. On cache lines of its own.
#[repr(C, align(128))]
pub(crate) struct BackendSlot {
    /// The session's last id, [`NO_ID`] before the first.
    pub(crate) last_id: AtomicI64,
    /// The tick of the backend's last claim for one id or a block.
    tick: Words<5>,
    /// What is left of the backend's block.
    block: Words<2>,
    pub(crate) counters: Counters,
    /// How the counters stood when the session began, and its process; 0 when it has ended.
    session: Published<{ WORDS + 1 }>,
    /// The furthest that the clock was found behind, in microseconds, since the reset of that
    /// number.
    clock_backward_max: AtomicU64,
    clock_backward_reset: AtomicU64,
    /// Samples on their way to the keeper.
    samples: Ring<4, SAMPLES>,
}

/// Samples that may be on their way from one backend. The keeper, which looks once a second at least,
/// is not woken for them.
const SAMPLES: usize = 256;

/// An id that was sampled, and who had it made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampled {
    pub(crate) id: i64,
    /// Microseconds since 1970.
    pub(crate) at: i64,
    pub(crate) pid: i32,
    pub(crate) database: u32,
    pub(crate) role: u32,
}

/// How long another one's reset is waited for before the next look; microseconds.
const RESET: u64 = 100;

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

    /// What has been counted since the last reset, the furthest that the clock was found behind
    /// since then, in microseconds, and when the reset was, in microseconds since 1970.
    pub(crate) fn statistics(&self) -> (Totals, u64, i64) {
        let (base, reset, at) = self.base();
        let behind = self.slots().iter().map(|slot| slot.clock_backward_max(reset));
        let behind = behind.max().unwrap_or(0);
        (since(&self.totals(), &base), behind, at)
    }

    /// Begins to count anew. Who reads meanwhile sees all of it or nothing.
    pub(crate) fn reset_statistics(&self, now: i64) {
        let statistics = &self.statistics.0;
        // A process that ends inside ends the server.
        while statistics.resetting.swap(true, Ordering::Acquire) {
            wait(RESET, WaitEvent::Reset);
        }
        let mut words = [0; WORDS + 2];
        words[..WORDS].copy_from_slice(&self.totals());
        words[WORDS] = self.base().1 + 1;
        words[WORDS + 1] = now.cast_unsigned();
        statistics.base.write(words);
        statistics.resetting.store(false, Ordering::Release);
    }

    /// Of each session that has generated ids: its process, and what it has counted.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (i32, Totals)> {
        self.slots().iter().filter_map(BackendSlot::session)
    }

    /// Takes all samples that are on their way; for the keeper alone.
    pub(crate) fn take_samples(&self) -> impl Iterator<Item = Sampled> {
        self.slots().iter().flat_map(|slot| std::iter::from_fn(|| slot.samples.pop())).map(
            |[id, at, pid, whose]| Sampled {
                id: id.cast_signed(),
                at: at.cast_signed(),
                pid: pid as i32,
                database: (whose >> 32) as u32,
                role: whose as u32,
            },
        )
    }

    /// What had been counted at the last reset, its number, and when it was.
    fn base(&self) -> (Totals, u64, i64) {
        let [base @ .., reset, at] = self.statistics.0.base.read();
        (base, reset, at.cast_signed())
    }

    /// What has been counted since the server's start.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = [0; WORDS];
        for slot in self.slots() {
            for (total, word) in totals.iter_mut().zip(slot.counters.read()) {
                *total += word;
            }
        }
        totals
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
        self.slots().get(usize::try_from(versions::my_number()).ok()?)
    }
}

impl Shared {
    /// Adds to what this process counts, in its own slot like any backend.
    pub(crate) fn count(&self, counter: Counter, by: u64) {
        if let Some(slot) = self.my_slot() {
            slot.counters.add(counter, by);
        }
    }
}

impl BackendSlot {
    /// The beginning of a session: what the last one left is not this one's.
    pub(crate) fn begin_session(&'static self) {
        self.last_id.store(NO_ID, Ordering::Relaxed);
        self.set_tick(ClaimedTick::default());
        self.drop_block();
        let mut session = [0; WORDS + 1];
        session[..WORDS].copy_from_slice(&self.counters.read());
        // SAFETY: reads the number of this process. The function below is called in it, before
        // it lets go of shared memory.
        unsafe {
            session[WORDS] = pg_sys::MyProcPid as u64;
            self.session.write(session);
            let slot = pg_sys::Datum::from(std::ptr::from_ref(self));
            pg_sys::before_shmem_exit(Some(end_session), slot);
        }
    }

    /// What this session has counted, and its process; `None` where there is none.
    pub(crate) fn session(&self) -> Option<(i32, Totals)> {
        // Together: another session may begin here meanwhile.
        let ([begin @ .., pid], now) = self.session.read_with(|| self.counters.read())?;
        (pid != 0).then(|| (pid as i32, since(&now, &begin)))
    }

    /// What is left of the backend's block is never issued.
    pub(crate) fn drop_block(&self) {
        self.counters.add(Counter::Dropped, self.block().len());
        self.set_block(Slots::default());
    }

    /// Sends a sample to the keeper, or drops it.
    pub(crate) fn sample(&self, sampled: &Sampled) {
        self.counters.add(Counter::Samples, 1);
        let whose = u64::from(sampled.database) << 32 | u64::from(sampled.role);
        let entry =
            [sampled.id.cast_unsigned(), sampled.at.cast_unsigned(), sampled.pid as u64, whose];
        if !self.samples.push(entry) {
            self.counters.add(Counter::SamplesDropped, 1);
        }
    }

    /// The clock was found behind the node's ids.
    pub(crate) fn clock_backward(&self, shared: &Shared, by: u64) {
        self.counters.add(Counter::ClockBackward, 1);
        let (_, reset, _) = shared.base();
        self.clock_backward_max.store(self.clock_backward_max(reset).max(by), Ordering::Relaxed);
        self.clock_backward_reset.store(reset, Ordering::Relaxed);
    }

    /// The furthest that it was, since the reset of that number.
    fn clock_backward_max(&self, reset: u64) -> u64 {
        let same = self.clock_backward_reset.load(Ordering::Relaxed) == reset;
        if same { self.clock_backward_max.load(Ordering::Relaxed) } else { 0 }
    }

    #[inline]
    pub(crate) fn tick(&self) -> ClaimedTick {
        ClaimedTick::from_words(self.tick.get())
    }

    pub(crate) fn set_tick(&self, tick: ClaimedTick) {
        self.tick.set(tick.into_words());
    }

    #[inline]
    pub(crate) fn block(&self) -> Slots {
        Slots::from_words(self.block.get())
    }

    pub(crate) fn set_block(&self, block: Slots) {
        self.block.set(block.into_words());
    }

    /// Some of the block were issued: its beginning has moved.
    #[inline]
    pub(crate) fn spend_block(&self, left: Slots) {
        let [next, _end] = left.into_words();
        self.block.0[0].store(next, Ordering::Relaxed);
    }
}

/// Words that one process writes and reads.
#[derive(Debug)]
#[repr(transparent)]
struct Words<const N: usize>([AtomicU64; N]);

impl<const N: usize> Words<N> {
    #[inline]
    fn get(&self) -> [u64; N] {
        std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed))
    }

    #[inline]
    fn set(&self, values: [u64; N]) {
        for (word, value) in self.0.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// The end of a session.
unsafe extern "C-unwind" fn end_session(_code: core::ffi::c_int, slot: pg_sys::Datum) {
    // SAFETY: `begin_session` registered it with the address of a slot, which is mapped until
    // the process ends.
    let slot = unsafe { &*slot.cast_mut_ptr::<BackendSlot>() };
    // A session that is terminated does not return from the call that it is in.
    slot.counters.end_call();
    slot.session.write([0; WORDS + 1]);
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
            (*memory).reset_statistics(WallClock.now());
        }
        SHARED.store(memory, Ordering::Release);
    }
}
