//! What a backend needs to generate ids: the shared state, its slot, the layout.
//! Claims slots and does what a claim says must be done when there are none.

use crate::error::Error;
use crate::settings;
use crate::shared::{self, BackendSlot, NO_ID, Sampled, Shared};
use crate::statistics::Counter;
use crate::status;
use crate::time::WallClock;
use crate::wait::{WaitEvent, wait};
use once_cell::sync::OnceCell;
use pgrx::pg_sys;
use snowflake_core::sync::Ordering;
use snowflake_core::{Claim, ClaimedTick, Clock, Layout, Seen, Slots};
use std::time::{Duration, Instant};

/// One backend's access to the node's ids.
pub(crate) struct Generator {
    shared: &'static Shared,
    slot: &'static BackendSlot,
    layout: &'static Layout,
}

static GENERATOR: OnceCell<Generator> = OnceCell::new();

/// The generator of this process, made at the first call. What can keep it from being
/// made (the library is not preloaded) is an error each time.
#[inline]
pub(crate) fn generator() -> Result<&'static Generator, Error> {
    GENERATOR.get_or_try_init(|| {
        let shared = shared::shared().ok_or(Error::NotPreloaded)?;
        let slot = shared.my_slot().ok_or(Error::NotPreloaded)?;
        slot.begin_session();
        Ok(Generator { shared, slot, layout: settings::layout()? })
    })
}

/// One id, if there is one without waiting, making the generator, or an error.
#[inline]
pub(crate) fn next_at_once() -> Option<i64> {
    GENERATOR.get()?.next_at_once()
}

/// The same for an id that is greater than one that was seen.
#[inline]
pub(crate) fn next_after_at_once(seen: i64) -> Option<i64> {
    GENERATOR.get()?.next_after_at_once(seen)
}

impl Generator {
    pub(crate) const fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// One id for a call that found none at once, with everything that it may take.
    pub(crate) fn next(&self) -> Result<i64, Error> {
        self.one(None)
    }

    /// The same for an id that is greater than one that was seen.
    pub(crate) fn next_after(&self, id: i64) -> Result<i64, Error> {
        self.one(Some(Seen::new(self.layout, id).map_err(|why| Error::field(why, self.layout))?))
    }

    fn one(&self, seen: Option<Seen>) -> Result<i64, Error> {
        self.slot.drop_block();
        let failed = self.slot.counters.due(Counter::SingleFailed);
        let slots = self.claim(settings::backend_block(), seen)?;
        failed.cancel();
        Ok(self.first_of(slots))
    }

    #[inline]
    fn next_at_once(&self) -> Option<i64> {
        self.next_prepared(|_| true, Self::next_of_another_tick)
    }

    #[inline]
    fn next_after_at_once(&self, seen: i64) -> Option<i64> {
        let seen = Seen::new(self.layout, seen).ok()?;
        let otherwise = |generator: &Self| generator.next_of_another_tick_after(seen);
        self.next_prepared(|id| seen.is_less(id), otherwise)
    }

    /// One id of the tick that the last claim was of, if there is one that fits; else what is said
    /// otherwise.
    #[inline(always)]
    fn next_prepared(
        &self,
        fits: impl Fn(i64) -> bool,
        otherwise: impl FnOnce(&Self) -> Option<i64>,
    ) -> Option<i64> {
        // Before all else: what is loaded after this call need not be kept over it.
        let now = WallClock.now();
        let (allocator, tick) = (&self.shared.allocator, self.slot.tick());
        let max_ahead = settings::max_ahead();
        let mut block = self.slot.block();
        let id = if settings::backend_block() > 1 {
            let id =
                allocator.next_claimed_if(self.layout, now, &tick, &mut block, max_ahead, fits);
            self.slot.spend_block(block);
            id
        } else if block.is_empty() {
            allocator.claim_next_if(self.layout, now, &tick, max_ahead, fits)
        } else {
            // Left over from when blocks were allowed.
            None
        };
        id.map_or_else(|| otherwise(self), |id| Some(self.issued(id)))
    }

    /// One id, if there is one without waiting, where the last claim is of no more use.
    #[inline(never)]
    fn next_of_another_tick(&self) -> Option<i64> {
        self.slot.drop_block();
        match self.try_claim(settings::backend_block(), None) {
            Claim::Ready(slots) => Some(self.first_of(slots)),
            _ => None,
        }
    }

    /// The same for an id that is greater than one that was seen. A function of its own: an argument
    /// for both costs `next_at_once` three instructions.
    #[inline(never)]
    fn next_of_another_tick_after(&self, seen: Seen) -> Option<i64> {
        self.slot.drop_block();
        match self.try_claim(settings::backend_block(), Some(seen)) {
            Claim::Ready(slots) => Some(self.first_of(slots)),
            _ => None,
        }
    }

    /// The first id of a claim. What follows it is the backend's block.
    fn first_of(&self, mut slots: Slots) -> i64 {
        self.slot.counters.add(Counter::Blocks, u64::from(settings::backend_block() > 1));
        self.slot.set_tick(ClaimedTick::of(self.layout, &slots));
        let id = slots.next_id(self.layout);
        self.slot.set_block(slots);
        // A claim never comes back empty.
        self.issued(id.unwrap_or(NO_ID))
    }

    /// A call generated this one id.
    #[inline]
    fn issued(&self, id: i64) -> i64 {
        self.set_last_id(id);
        self.slot.counters.add(Counter::Single, 1);
        if settings::sample().is_some_and(|sample| sample.takes(id)) {
            self.sample(id);
        }
        id
    }

    /// Notes an id that belongs to the sample.
    #[cold]
    fn sample(&self, id: i64) {
        // SAFETY: numbers of this process that do not change while it runs a query.
        #[allow(unsafe_code)]
        let (pid, database, role) =
            unsafe { (pg_sys::MyProcPid, pg_sys::MyDatabaseId, pg_sys::GetSessionUserId()) };
        let (database, role) = (database.to_u32(), role.to_u32());
        self.slot.sample(&Sampled { id, at: WallClock.now(), pid, database, role });
    }

    /// Slots for up to `n` ids, for a caller that makes ids of all of them and says which
    /// one was the last. It counts as a part of a call.
    pub(crate) fn some(&self, n: u64) -> Result<Slots, Error> {
        // What is left of a block is older than what is claimed now.
        self.slot.drop_block();
        let slots = self.claim(n, None)?;
        self.slot.counters.add(Counter::Batched, slots.len());
        if let Some(sample) = settings::sample() {
            let mut rest = slots;
            while let Some(id) = rest.next_id(self.layout) {
                if sample.takes(id) {
                    self.sample(id);
                }
            }
        }
        Ok(slots)
    }

    /// The session got this id.
    #[inline]
    pub(crate) fn set_last_id(&self, id: i64) {
        self.slot.last_id.store(id, Ordering::Relaxed);
    }

    /// A batch was asked for.
    pub(crate) fn count_batch(&self) {
        self.slot.counters.add(Counter::Batches, 1);
    }

    /// The session's last id.
    pub(crate) fn last_id(&self) -> Option<i64> {
        Some(self.slot.last_id.load(Ordering::Relaxed)).filter(|&id| id != NO_ID)
    }

    #[inline(always)]
    fn try_claim(&self, n: u64, seen: Option<Seen>) -> Claim {
        let (allocator, max_ahead) = (&self.shared.allocator, settings::max_ahead());
        match seen {
            None => allocator.claim(self.layout, &WallClock, n, max_ahead),
            Some(seen) => allocator.claim_after(self.layout, &WallClock, n, seen, max_ahead),
        }
    }

    #[inline]
    fn claim(&self, n: u64, seen: Option<Seen>) -> Result<Slots, Error> {
        match self.try_claim(n, seen) {
            Claim::Ready(slots) => Ok(slots),
            refused => self.claim_late(n, seen, refused),
        }
    }

    /// Waits as long as may be waited for, and claims again.
    #[cold]
    fn claim_late(&self, n: u64, seen: Option<Seen>, mut claim: Claim) -> Result<Slots, Error> {
        let waiting = self.slot.counters.begin_wait();
        let cancelled = self.slot.counters.due(Counter::Cancelled);
        // Since when has been waited for a clock that is behind.
        let (mut behind_since, mut ahead_since) = (None, None);
        let mut asked = None;
        let result = loop {
            match claim {
                Claim::Ready(slots) => break Ok(slots),
                Claim::TickExhausted { wait: micros } => {
                    self.slot.counters.add(Counter::TicksExhausted, 1);
                    wait(micros, WaitEvent::Tick);
                }
                Claim::ClockBehind { by } => {
                    let since = *behind_since.get_or_insert_with(|| {
                        self.slot.clock_backward(self.shared, by);
                        Instant::now()
                    });
                    if let Err((now, max_wait)) = wait_for_clock(by, since) {
                        break Err(Error::ClockBehind { by, now, max_wait });
                    }
                }
                Claim::SeenAhead { id, by } => {
                    let since = *ahead_since.get_or_insert_with(Instant::now);
                    if let Err((now, max_wait)) = wait_for_clock(by, since) {
                        break Err(Error::SeenAhead { id, by, now, max_wait });
                    }
                }
                Claim::NeedWindow => {
                    let asked = asked.get_or_insert_with(|| status::Question::ask(self.shared));
                    if let Err(error) = asked.wait() {
                        break Err(error);
                    }
                }
                Claim::TimeExhausted => break Err(Error::TimeExhausted { layout: *self.layout }),
            }
            claim = self.try_claim(n, seen);
        };
        cancelled.cancel();
        drop(waiting);
        result.inspect_err(|error| self.slot.counters.add(error.refusal(), 1))
    }
}

/// Waits for a clock that is behind, unless that would be longer than may be waited: then what the
/// clock reads, and how long that is. A clock that steps back again and again is not waited for longer
/// than one that did so once.
fn wait_for_clock(by: u64, since: Instant) -> Result<(), (i64, Duration)> {
    let max_wait = settings::max_wait();
    if since.elapsed() + Duration::from_micros(by) > max_wait {
        return Err((WallClock.now(), max_wait));
    }
    wait(by, WaitEvent::Clock);
    Ok(())
}
