//! The claim of slots: how the backends of one node share out id-time without
//! a lock.
//!
//! # The words
//!
//! ```text
//! cursor   node | slot     the next unissued slot, and the node that owns it
//! limit    node | slot     the exclusive end of the window the node may issue from
//! begin    node | slot     where that window began: what was claimed below is not issued
//! ```
//!
//! Each is one `u64` with the node's number above the slot (tick and sequence). A
//! layout has 63 bits at most, so both always fit. Because the node is in the
//! word, claiming a slot and knowing whose slot it is are one atomic step: a
//! change of window cannot tear.
//!
//! # Who writes
//!
//! Any backend moves the cursor forward, by compare-and-swap. One process, the
//! keeper, writes the limit and the beginning, and moves the cursor to another node's number.
//!
//! # Why no slot is claimed twice
//!
//! A claim succeeds only if the cursor still is what the claim was computed
//! from, and every write to the cursor makes its slot greater: two claims never
//! overlap. The check against the limit uses the slot, never the clock, so a
//! pause between check and swap cannot make a claim exceed the limit that was
//! read.
//!
//! The limit that a claim read can be older than its cursor. It then is either
//! of another node, which refuses, or an earlier limit of the same node: and
//! every limit was durably reserved before it was published, so a claim below
//! an old one is as good as below the present one.
//!
//! # One id at a time
//!
//! Most claims are for one id, and follow another of the same tick. [`ClaimedTick`] keeps
//! what they have in common: from when until when the clock allows the tick, and the id of its
//! first slot. [`Allocator::claim_next`] then compares, swaps and adds. It claims nothing that
//! [`Allocator::claim`] would not: it is that function for the case that nothing has changed
//! but the sequence, and leaves every other case to it.
//!
//! # An id that was seen elsewhere
//!
//! [`Allocator::claim_after`] begins where a node's ids are greater than it. It is a claim like any
//! other, only that it may leave slots out, which are never issued.
//!
//! # Taking a window away
//!
//! [`Allocator::open`] and [`Allocator::close`] shut the limit, then
//! change the cursor. A claim that had read the old limit either swaps the cursor
//! before the keeper does, and is counted in the cursor that the keeper gets back, or fails its swap and
//! starts over, sees the new node and the limit that belongs to it. So after the
//! swap no slot of the old node is issued, and the keeper knows the last one.
//!
//! # What was claimed and is not issued yet
//!
//! A backend's block is of the window that it was claimed from, and ends with it: when the next one
//! is open, of the same node or not, it lies below its beginning ([`Allocator::next_claimed`]). The
//! window may be another one because nothing below some slot may be issued any more.
//!
//! # Memory orderings
//!
//! The keeper's swap of the cursor is a release, a backend's load of it an
//! acquire: who sees the new node in the cursor sees the limit closed or the new
//! one, never the old. Stores of the limit release and loads acquire, so that
//! whatever the keeper wrote before (its record, the state) is seen by who sees
//! the limit. Uniqueness itself would hold with relaxed orderings, since all that
//! it depends on is in the one word that is swapped.

use crate::clock::Clock;
use crate::error::FieldError;
use crate::layout::{Field, Layout};
use crate::reserved::Reserved;
use crate::sync::{AtomicU64, CacheLine, Ordering};

/// The words. Zeroed memory is a closed allocator.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Allocator {
    cursor: CacheLine<AtomicU64>,
    window: CacheLine<Window>,
}

/// What the keeper alone writes.
#[derive(Debug, Default)]
#[repr(C)]
struct Window {
    limit: AtomicU64,
    begin: AtomicU64,
}

/// Slots that a claim took, all of one tick: for its taker alone. Both are words as the cursor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    next: u64,
    end: u64,
}

/// The tick of a backend's last claim. The default is no tick, of which nothing can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedTick {
    /// Its first slot with the node's number, as in the cursor, and the id of that.
    first: u64,
    id: i64,
    /// The greatest limit that the node can have.
    node_end: u64,
    /// Clock readings between which it is the present one.
    begin: i64,
    end: i64,
}

/// An id that was seen elsewhere, which those to be generated here must exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    id: i64,
    slot: u64,
}

/// Where an allocator stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The number of the node that owns it, see [`Layout::node`].
    pub node: u64,
    /// The next slot that has not been claimed.
    pub cursor: u64,
    /// The first slot that may not be issued now; 0 where none may.
    pub limit: u64,
}

/// What came of a claim, and what the caller must do if it got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// At least one slot, at most as many as were asked for.
    Ready(Slots),
    /// The present tick is used up: claim again in so many microseconds.
    TickExhausted {
        /// Microseconds until the next tick.
        wait: u64,
    },
    /// The clock stands behind the node's ids: claim again when it has caught up.
    ClockBehind {
        /// Microseconds until it has.
        by: u64,
    },
    /// The id that was seen is of a time which the clock, with what ids may be ahead of it, has not
    /// reached: claim again when it has.
    SeenAhead {
        /// That id.
        id: i64,
        /// Microseconds until it has.
        by: u64,
    },
    /// The window does not reach this far, or there is none.
    NeedWindow,
    /// The layout's time field is used up, for ever.
    TimeExhausted,
}

impl Allocator {
    /// Claims up to `n` slots (at least 1).
    ///
    /// The slots are of one tick: the present one or, where the node's ids already run
    /// ahead of the clock, a later one, which begins at most `max_ahead` microseconds
    /// from now. A claim never waits; it says what to wait for.
    #[inline]
    pub fn claim(&self, layout: &Layout, clock: &impl Clock, n: u64, max_ahead: u64) -> Claim {
        self.claim_from(layout, clock, n, None, max_ahead)
    }

    /// The same for slots whose ids are greater than one that was seen. The cursor moves up to
    /// them, and so never farther than `max_ahead` from the clock.
    pub fn claim_after(
        &self,
        layout: &Layout,
        clock: &impl Clock,
        n: u64,
        seen: Seen,
        max_ahead: u64,
    ) -> Claim {
        self.claim_from(layout, clock, n, Some(seen), max_ahead)
    }

    #[inline(always)]
    fn claim_from(
        &self,
        layout: &Layout,
        clock: &impl Clock,
        n: u64,
        seen: Option<Seen>,
        max_ahead: u64,
    ) -> Claim {
        let bits = layout.slot_bits();
        let mut now = since_epoch(layout, clock);
        let mut cursor = self.cursor.0.load(Ordering::Acquire);
        let mut clock_read_after_cursor = false;
        loop {
            let Some(present) = first_present_slot(layout, now) else {
                return Claim::TimeExhausted;
            };
            let (node, slot) = (cursor >> bits, cursor & layout.last_slot());
            let limit = self.limit_of(layout, node);
            let own = slot.max(present);
            let start = seen.map_or(own, |seen| own.max(seen.first_after(layout, node)));
            let taken = start.saturating_add(n.max(1)).min(end_of_tick(layout, start)).min(limit);
            let wait = wait_for(layout, start, now, max_ahead);
            if wait > 0 || taken <= start {
                // A process can be held up for long between reading the clock and the
                // cursor, and the others go on with the clock. Only a clock that was
                // read after the cursor can be said to stand behind it.
                if !clock_read_after_cursor {
                    now = since_epoch(layout, clock);
                    clock_read_after_cursor = true;
                    continue;
                }
                return match seen {
                    Some(seen) if start > own => {
                        self.refusal_after(layout, cursor, seen, start, limit, wait)
                    }
                    _ => refusal(layout, start, limit, wait),
                };
            }
            match self.cursor.0.compare_exchange_weak(
                cursor,
                node << bits | taken,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    let node = node << bits;
                    return Claim::Ready(Slots { next: node | start, end: node | taken });
                }
                Err(current) => {
                    cursor = current;
                    clock_read_after_cursor = false;
                }
            }
        }
    }

    /// Claims the next slot and returns its id, if it is of the tick of the caller's last claim,
    /// and the clock, read just now, allows that tick. Else, or if there is any reason to wait,
    /// `None`: [`Self::claim`] knows what to do.
    #[inline]
    pub fn claim_next(
        &self,
        layout: &Layout,
        now: i64,
        tick: &ClaimedTick,
        max_ahead: u64,
    ) -> Option<i64> {
        self.claim_next_if(layout, now, tick, max_ahead, |_| true)
    }

    /// The same if the id fits; else nothing is claimed.
    #[inline]
    pub fn claim_next_if(
        &self,
        layout: &Layout,
        now: i64,
        tick: &ClaimedTick,
        max_ahead: u64,
        fits: impl Fn(i64) -> bool,
    ) -> Option<i64> {
        if !tick.is_open(now, max_ahead) {
            return None;
        }
        // Loading the cursor first, asking for its cache line to write, guessing it from the last
        // claim, and fetch_add, which could not be taken back, were measured against each other
        // with eight backends on two cores: less than 5 % apart.
        let mut cursor = self.cursor.0.load(Ordering::Acquire);
        loop {
            let id = tick.id(layout, cursor)?;
            if !fits(id) || !self.reaches(tick, cursor) {
                return None;
            }
            // The limit lies beyond the cursor, so there is one more slot in the word.
            match self.cursor.0.compare_exchange_weak(
                cursor,
                cursor + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(id),
                Err(current) => cursor = current,
            }
        }
    }

    /// The id of the next of slots that were claimed earlier, all in one tick, if they may be
    /// issued now: the window that they were claimed from is still open, nobody has had them dropped
    /// ([`Self::drop_claimed`]), and their tick is the present one, or one that is not too far ahead of
    /// the clock. The id thus carries the time at which it is made. If `None`, they are never issued.
    #[inline]
    pub fn next_claimed(
        &self,
        layout: &Layout,
        now: i64,
        tick: &ClaimedTick,
        slots: &mut Slots,
        max_ahead: u64,
    ) -> Option<i64> {
        self.next_claimed_if(layout, now, tick, slots, max_ahead, |_| true)
    }

    /// The same if the id fits.
    #[inline]
    pub fn next_claimed_if(
        &self,
        layout: &Layout,
        now: i64,
        tick: &ClaimedTick,
        slots: &mut Slots,
        max_ahead: u64,
        fits: impl Fn(i64) -> bool,
    ) -> Option<i64> {
        if slots.is_empty() || !tick.is_open(now, max_ahead) || !self.holds(slots) {
            return None;
        }
        let id = tick.id(layout, slots.next).filter(|&id| fits(id))?;
        slots.next += 1;
        Some(id)
    }

    /// Opens a window for a node, or for the same node anew. The slots begin at `floor` or, if
    /// that is greater, where the last ones ended; with another node's number they begin in the
    /// next tick where its ids would else be less than those before.
    ///
    /// Returns the end of what was issued before: every slot of the node that held
    /// the allocator is below it, and no other will be issued.
    ///
    /// For one process, the keeper.
    pub fn open(&self, layout: &Layout, floor: u64, reserved: Reserved) -> u64 {
        self.shut();
        let before = self.position(layout).node;
        let node = reserved.node();
        let end =
            self.move_cursor(layout, |end| (node, in_order(layout, before, node, end).max(floor)));
        self.drop_claimed();
        self.publish(layout, node, reserved.limit());
        end
    }

    /// Closes the window. Returns the end of what was issued, as [`Self::open`] does.
    ///
    /// For one process, the keeper.
    pub fn close(&self, layout: &Layout) -> u64 {
        self.shut();
        let node = self.position(layout).node;
        // A claim that is under way fails only if the cursor changes: one slot is dropped.
        self.move_cursor(layout, |end| (node, end + 1))
    }

    /// What has been claimed up to now and is not issued yet, never is.
    ///
    /// For one process, the keeper.
    pub fn drop_claimed(&self) {
        self.window.0.begin.store(self.cursor.0.load(Ordering::Acquire), Ordering::Release);
    }

    /// Moves the limit of the window forward.
    ///
    /// For one process, the keeper. It does nothing without a window, or with one of another
    /// node, and never takes anything away.
    pub fn extend(&self, layout: &Layout, reserved: Reserved) {
        let position = self.position(layout);
        let same = position.limit > 0 && position.node == reserved.node();
        if same && reserved.limit() > position.limit {
            self.publish(layout, position.node, reserved.limit());
        }
    }

    /// Where the allocator stands. The two words are read one after the other.
    pub fn position(&self, layout: &Layout) -> Position {
        let cursor = self.cursor.0.load(Ordering::Acquire);
        let (node, cursor) = (cursor >> layout.slot_bits(), cursor & layout.last_slot());
        Position { node, cursor, limit: self.limit_of(layout, node) }
    }

    fn publish(&self, layout: &Layout, node: u64, limit: u64) {
        let limit = limit.min(layout.last_slot());
        self.window.0.limit.store(node << layout.slot_bits() | limit, Ordering::Release);
    }

    /// Moves the cursor to a node and a slot, given the slot where it stands, which is returned.
    fn move_cursor(&self, layout: &Layout, to: impl Fn(u64) -> (u64, u64)) -> u64 {
        let mut cursor = self.cursor.0.load(Ordering::Acquire);
        loop {
            let end = cursor & layout.last_slot();
            let (node, slot) = to(end);
            match self.cursor.0.compare_exchange_weak(
                cursor,
                node << layout.slot_bits() | slot.min(layout.last_slot()),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return end,
                Err(current) => cursor = current,
            }
        }
    }

    /// The exclusive end of what a node may issue now. 0, so nothing, where there is no
    /// window, or another node's.
    #[inline]
    fn limit_of(&self, layout: &Layout, node: u64) -> u64 {
        let limit = self.window.0.limit.load(Ordering::Acquire);
        if limit >> layout.slot_bits() == node { limit & layout.last_slot() } else { 0 }
    }

    /// Whether slots that were claimed earlier all lie in the window that is open.
    ///
    /// Those of another node do not: of its number and its slots, the beginning and the limit have
    /// the same number, and one of them is in the way.
    #[inline]
    fn holds(&self, slots: &Slots) -> bool {
        let Window { limit, begin } = &self.window.0;
        // In this order: who sees the limit of a window sees its beginning, or that of a later one.
        slots.end <= limit.load(Ordering::Acquire) && begin.load(Ordering::Acquire) <= slots.next
    }

    /// Whether a slot of a tick lies before the limit, and the limit is that of the tick's node.
    #[inline]
    fn reaches(&self, tick: &ClaimedTick, word: u64) -> bool {
        let limit = self.window.0.limit.load(Ordering::Acquire);
        word < limit && limit <= tick.node_end
    }

    /// Why a claim got nothing that would begin at `start`, beyond the node's own ids, because of an
    /// id that was seen.
    ///
    /// Where only the window is missing, the cursor moves up to its end: the keeper reserves from there on,
    /// and further with each look.
    #[cold]
    fn refusal_after(
        &self,
        layout: &Layout,
        cursor: u64,
        seen: Seen,
        start: u64,
        limit: u64,
        wait: u64,
    ) -> Claim {
        if wait > layout.tick_length() && limit > 0 {
            return Claim::SeenAhead { id: seen.id, by: wait };
        }
        let refusal = refusal(layout, start, limit, wait);
        let end = cursor & !layout.last_slot() | limit;
        if refusal == Claim::NeedWindow && cursor < end {
            // If it fails, others have moved it, and the next claim sees how far.
            let _ =
                self.cursor.0.compare_exchange(cursor, end, Ordering::AcqRel, Ordering::Acquire);
        }
        refusal
    }

    /// Takes the window away: claims get [`Claim::NeedWindow`], but one that is under way
    /// may still succeed.
    fn shut(&self) {
        // Limit 0 of node 0 lets nothing pass, for any node.
        self.window.0.limit.store(0, Ordering::Release);
    }
}

/// The clock's reading in microseconds since the layout's epoch.
#[inline]
fn since_epoch(layout: &Layout, clock: &impl Clock) -> i64 {
    clock.now().saturating_sub(layout.epoch())
}

/// The first slot of the tick in which `now` lies; of tick 0 before the epoch, `None`
/// behind the layout's last tick.
#[inline]
fn first_present_slot(layout: &Layout, now: i64) -> Option<u64> {
    let tick = layout.ticks(now.max(0) as u64);
    (tick <= layout.max(Field::Timestamp)).then(|| layout.first_slot(tick))
}

/// The end of the tick that a slot is of.
#[inline]
fn end_of_tick(layout: &Layout, slot: u64) -> u64 {
    layout.first_slot(layout.tick_of_slot(slot) + 1).min(layout.last_slot())
}

/// From which slot on a node's ids are greater than those that another has issued below `end`.
fn in_order(layout: &Layout, before: u64, node: u64, end: u64) -> u64 {
    let follows = |last| layout.id(node, end) > layout.id(before, last);
    match end.checked_sub(1) {
        Some(last) if node != before && !follows(last) => end_of_tick(layout, last),
        _ => end,
    }
}

/// Microseconds until a slot's tick begins or, with `max_ahead`, until it is no farther
/// ahead than that. 0: it may be issued now.
#[inline]
pub(crate) fn wait_for(layout: &Layout, slot: u64, now: i64, max_ahead: u64) -> u64 {
    let begins = layout.tick_of_slot(slot).saturating_mul(layout.tick_length());
    let allowed = now.saturating_add_unsigned(max_ahead);
    match u64::try_from(allowed) {
        Ok(allowed) => begins.saturating_sub(allowed),
        Err(_) => begins.saturating_add(allowed.unsigned_abs()),
    }
}

/// Why a claim that would begin at `start` got nothing.
#[cold]
fn refusal(layout: &Layout, start: u64, limit: u64, wait: u64) -> Claim {
    // Without a window at all, waiting for the clock would be in vain.
    if limit == 0 || (wait == 0 && start < layout.last_slot()) {
        Claim::NeedWindow
    } else if start >= layout.last_slot() {
        Claim::TimeExhausted
    } else if wait <= layout.tick_length() {
        // The present tick is used up. A clock that stepped back by less than a tick
        // looks the same, and is waited for as long.
        Claim::TickExhausted { wait }
    } else {
        // The clock once read more than it does now, or has not reached the epoch.
        Claim::ClockBehind { by: wait }
    }
}

impl Seen {
    /// An id that was seen. An error if it is none of the layout.
    #[inline]
    pub fn new(layout: &Layout, id: i64) -> Result<Self, FieldError> {
        layout.slot_of(id).map(|slot| Self { id, slot })
    }

    /// Whether it is less than another id.
    #[inline]
    pub const fn is_less(self, id: i64) -> bool {
        self.id < id
    }

    /// The first slot of a node whose id is greater; the greatest end where there is none.
    fn first_after(self, layout: &Layout, node: u64) -> u64 {
        let tick = layout.tick_of_slot(self.slot);
        // In its tick another node's ids are all greater, or all less, or it depends on the sequence:
        // the layout says which.
        let next_tick = layout.first_slot(tick).saturating_add(layout.first_slot(1));
        let candidates =
            [layout.first_slot(tick), self.slot, self.slot.saturating_add(1), next_tick];
        let last = layout.last_slot();
        let greater = |slot: &u64| *slot < last && layout.id(node, *slot) > self.id;
        candidates.into_iter().find(greater).unwrap_or(last)
    }
}

impl Slots {
    /// How many are left.
    #[inline]
    pub const fn len(&self) -> u64 {
        self.end - self.next
    }

    /// Whether none is left.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.next == self.end
    }

    /// The slots as plain numbers, to be kept in shared memory.
    #[inline]
    pub const fn into_words(self) -> [u64; 2] {
        [self.next, self.end]
    }

    /// The slots that [`Self::into_words`] wrote.
    #[inline]
    pub const fn from_words([next, end]: [u64; 2]) -> Self {
        Self { next, end }
    }

    /// The id of the last slot. There must be one.
    #[inline]
    pub const fn last_id(&self, layout: &Layout) -> i64 {
        layout.id_of_word(self.end - 1)
    }

    /// The id of the next slot.
    #[inline]
    pub fn next_id(&mut self, layout: &Layout) -> Option<i64> {
        if self.is_empty() {
            return None;
        }
        let id = layout.id_of_word(self.next);
        self.next += 1;
        Some(id)
    }

    /// Writes ids into the beginning of `out`, as many as fit and are left, and
    /// says how many.
    #[inline]
    pub fn fill(&mut self, layout: &Layout, out: &mut [i64]) -> usize {
        let count = out.len().min(self.len() as usize);
        // All of one tick, they differ in the sequence alone.
        let first = layout.id_of_word(self.next);
        for (id, sequence) in out[..count].iter_mut().zip(0..) {
            *id = first + layout.sequence_in_id(sequence);
        }
        self.next += count as u64;
        count
    }
}

impl Default for ClaimedTick {
    fn default() -> Self {
        Self { first: 0, id: 0, node_end: 0, begin: i64::MIN, end: i64::MIN }
    }
}

impl ClaimedTick {
    /// The tick of slots that were claimed just now. There must be one slot at least.
    pub fn of(layout: &Layout, slots: &Slots) -> Self {
        let slot = slots.next & layout.last_slot();
        let tick = layout.tick_of_slot(slot);
        let length = layout.tick_length().cast_signed();
        let end = layout.time_of(tick).and_then(|begin| begin.checked_add(length));
        // Beyond what a clock can read: no claim is worth preparing for.
        let Some(end) = end else { return Self::default() };
        let first = slots.next - (slot - layout.first_slot(tick));
        let (id, node_end) = (layout.id_of_word(first), slots.next | layout.last_slot());
        Self { first, id, node_end, begin: end - length, end }
    }

    /// The tick as plain numbers, to be kept in shared memory.
    #[inline]
    pub const fn into_words(self) -> [u64; 5] {
        [
            self.first,
            self.id.cast_unsigned(),
            self.node_end,
            self.begin.cast_unsigned(),
            self.end.cast_unsigned(),
        ]
    }

    /// The tick that [`Self::into_words`] wrote.
    #[inline]
    pub const fn from_words([first, id, node_end, begin, end]: [u64; 5]) -> Self {
        let (id, begin, end) = (id.cast_signed(), begin.cast_signed(), end.cast_signed());
        Self { first, id, node_end, begin, end }
    }

    /// Whether it is the present tick, or one that is not too far ahead of the clock.
    #[inline]
    const fn is_open(&self, now: i64, max_ahead: u64) -> bool {
        // Of two i64, the lesser taken from the greater always fits a u64.
        now < self.end
            && (self.begin <= now || self.begin.wrapping_sub(now).cast_unsigned() <= max_ahead)
    }

    /// The id of a slot that is of this tick and node.
    #[inline]
    const fn id(&self, layout: &Layout, word: u64) -> Option<i64> {
        let sequence = word.wrapping_sub(self.first);
        if layout.tick_of_slot(sequence) == 0 {
            Some(self.id + layout.sequence_in_id(sequence))
        } else {
            None
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::reserved::{Journal, at_once};

    /// The keeper's order of writes never shows such a pair; that is no reason to
    /// trust in it.
    #[test]
    fn another_nodes_limit_lets_nothing_pass() {
        let layout = Layout::parse("default", Some(0)).expect("a preset");
        let allocator = Allocator::default();
        struct Anything;
        impl Journal for Anything {
            type Error = ();
            async fn write(&mut self, _node: u64, _mark: u64) -> Result<(), ()> {
                Ok(())
            }
        }
        let reserved = at_once(Reserved::write(&mut Anything, 1, u64::MAX, 0));
        allocator.open(&layout, 0, reserved.expect("at once").expect("written"));
        let now = ManualClock::new(1_000_000);
        let Claim::Ready(slots) = allocator.claim(&layout, &now, 1, 0) else { panic!() };
        let tick = ClaimedTick::of(&layout, &slots);
        assert!(allocator.claim_next(&layout, now.now(), &tick, 0).is_some());
        let word = 2 << layout.slot_bits() | layout.last_slot();
        allocator.window.0.limit.store(word, Ordering::Relaxed);
        assert_eq!(allocator.claim(&layout, &now, 1, 0), Claim::NeedWindow);
        assert_eq!(allocator.claim_next(&layout, now.now(), &tick, 0), None);
    }
}
