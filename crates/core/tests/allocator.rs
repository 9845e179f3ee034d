//! The allocator against a clock that does what it likes, and under threads.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(not(loom))]

use proptest::prelude::*;
use snowflake_core::reserved::{Journal, at_once};
use snowflake_core::{
    Allocator, Claim, ClaimedTick, Clock, Field, FieldError, Layout, ManualClock, Position,
    Reserved, Seen, Slots,
};
use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

fn layout() -> Layout {
    Layout::parse("timestamp:41,worker:10,sequence:12", Some(0)).unwrap()
}

/// Takes any limit for written.
struct Anything;

impl Journal for Anything {
    type Error = Infallible;
    async fn write(&mut self, _node: u64, _mark: u64) -> Result<(), Infallible> {
        Ok(())
    }
}

fn reserved(node: u64, limit: u64) -> Reserved {
    let Ok(reserved) = at_once(Reserved::write(&mut Anything, node, limit, 0)).unwrap();
    reserved
}

fn open(layout: &Layout, node: u64) -> Allocator {
    let allocator = Allocator::default();
    allocator.open(layout, 0, reserved(node, u64::MAX));
    allocator
}

/// A claim at a moment: microseconds since the layout's epoch, which is 0 here.
fn claim(allocator: &Allocator, layout: &Layout, n: u64, now: i64, max_ahead: u64) -> Claim {
    allocator.claim(layout, &ManualClock::new(now), n, max_ahead)
}

fn ids(layout: &Layout, claim: Claim) -> Vec<i64> {
    let Claim::Ready(mut slots) = claim else { panic!("{claim:?}") };
    std::iter::from_fn(|| slots.next_id(layout)).collect()
}

/// One id, as a backend makes it: by what its last claim left, or by another claim.
fn next(
    allocator: &Allocator,
    layout: &Layout,
    clock: &impl Clock,
    tick: &mut ClaimedTick,
    max_ahead: u64,
) -> Result<i64, Claim> {
    if let Some(id) = allocator.claim_next(layout, clock.now(), tick, max_ahead) {
        return Ok(id);
    }
    match allocator.claim(layout, clock, 1, max_ahead) {
        Claim::Ready(slots) => {
            *tick = ClaimedTick::of(layout, &slots);
            Ok(slots.last_id(layout))
        }
        refused => Err(refused),
    }
}

#[test]
fn a_closed_allocator_gives_nothing() {
    let (layout, allocator) = (layout(), Allocator::default());
    assert_eq!(claim(&allocator, &layout, 1, 1_000_000, 0), Claim::NeedWindow);
    assert_eq!(claim(&allocator, &layout, 1, -1, 0), Claim::NeedWindow);
    let allocator = open(&layout, 7);
    allocator.close(&layout);
    assert_eq!(claim(&allocator, &layout, 1, 1_000_000, 0), Claim::NeedWindow);
}

#[test]
fn a_tick_is_used_up_and_the_next_one_begins() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    let first = ids(&layout, claim(&allocator, &layout, 4000, 7_000_250, 0));
    let rest = ids(&layout, claim(&allocator, &layout, 4000, 7_000_260, 0));
    assert_eq!((first.len(), rest.len()), (4000, 96));
    assert_eq!(first[0], layout.min_id(7000).unwrap() | 5 << 12);
    assert_eq!(rest[95], layout.min_id(7000).unwrap() | 5 << 12 | 4095);
    let exhausted = Claim::TickExhausted { wait: 700 };
    assert_eq!(claim(&allocator, &layout, 1, 7_000_300, 0), exhausted);
    let next = ids(&layout, claim(&allocator, &layout, 1, 7_001_000, 0));
    assert_eq!(next, [layout.min_id(7001).unwrap() | 5 << 12]);
}

#[test]
fn a_clock_that_stepped_back_is_measured() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    assert_eq!(ids(&layout, claim(&allocator, &layout, 1, 20_000_500, 0)).len(), 1);
    // Id-time stands in tick 20,000; the clock has to reach its beginning.
    assert_eq!(claim(&allocator, &layout, 1, 5_000_400, 0), Claim::ClockBehind { by: 14_999_600 });
    assert_eq!(claim(&allocator, &layout, 1, 19_997_000, 0), Claim::ClockBehind { by: 3000 });
    // Allowed to run ahead by that much, it need not wait.
    assert_eq!(ids(&layout, claim(&allocator, &layout, 1, 19_997_000, 3000)).len(), 1);
    assert_eq!(ids(&layout, claim(&allocator, &layout, 1, 20_000_000, 0)).len(), 1);
}

#[test]
fn a_reading_that_is_older_than_the_cursor_is_not_a_step_back() {
    /// The first reading is an old one, as of a process that was held up after it.
    struct HeldUp(AtomicU64);
    impl Clock for HeldUp {
        fn now(&self) -> i64 {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 { 5_000_000 } else { 20_000_700 }
        }
    }
    let (layout, allocator) = (layout(), open(&layout(), 5));
    assert_eq!(ids(&layout, claim(&allocator, &layout, 1, 20_000_500, 0)).len(), 1);
    let claimed = allocator.claim(&layout, &HeldUp(AtomicU64::new(0)), 1, 0);
    assert_eq!(ids(&layout, claimed), [layout.min_id(20_000).unwrap() | 5 << 12 | 1]);
}

#[test]
fn a_clock_before_the_epoch_is_behind() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    assert_eq!(claim(&allocator, &layout, 1, -5_000_000, 0), Claim::ClockBehind { by: 5_000_000 });
    assert_eq!(claim(&allocator, &layout, 1, i64::MIN, 0), Claim::ClockBehind { by: 1 << 63 });
    assert_eq!(
        claim(&allocator, &layout, 1, i64::MIN, 1000),
        Claim::ClockBehind { by: (1 << 63) - 1000 }
    );
}

#[test]
fn ids_run_ahead_as_far_as_they_may() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    for tick in 1000..1010 {
        let claimed = ids(&layout, claim(&allocator, &layout, u64::MAX, 1_000_000, 9_999));
        assert_eq!(claimed.len(), 4096);
        assert_eq!(layout.unpack(claimed[0]).unwrap().tick, tick);
        assert_eq!(layout.unpack(claimed[4095]).unwrap().tick, tick);
    }
    let exhausted = Claim::TickExhausted { wait: 1 };
    assert_eq!(claim(&allocator, &layout, 1, 1_000_000, 9_999), exhausted);
    // A tick farther back it is the clock.
    let behind = Claim::ClockBehind { by: 1001 };
    assert_eq!(claim(&allocator, &layout, 1, 999_000, 9_999), behind);
}

#[test]
fn the_window_ends_a_claim() {
    let (layout, allocator) = (layout(), Allocator::default());
    allocator.open(&layout, 4096 * 50 + 10, reserved(1, 4096 * 50 + 20));
    let claimed = ids(&layout, claim(&allocator, &layout, 100, 50_000, 0));
    let sequences: Vec<_> = claimed.iter().map(|&id| layout.unpack(id).unwrap().sequence).collect();
    assert_eq!(sequences, (10..20).map(Some).collect::<Vec<_>>());
    assert_eq!(claim(&allocator, &layout, 1, 50_000, 0), Claim::NeedWindow);
    assert_eq!(claim(&allocator, &layout, 1, 51_000, 0), Claim::NeedWindow);
}

#[test]
fn another_node_begins_where_the_last_one_ended() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    let last = ids(&layout, claim(&allocator, &layout, 3, 1_000_000, 0))[2];
    let end = allocator.open(&layout, 0, reserved(6, u64::MAX));
    assert_eq!(end, layout.first_slot(1000) + 3);
    let next = layout.unpack(ids(&layout, claim(&allocator, &layout, 1, 1_000_000, 0))[0]).unwrap();
    let last = layout.unpack(last).unwrap();
    assert_eq!((last.worker, last.sequence), (Some(5), Some(2)));
    assert_eq!((next.worker, next.sequence), (Some(6), Some(3)));
}

/// A node's ids increase whatever its worker id becomes: within a tick, those of another one
/// may be less.
#[test]
fn ids_increase_over_a_change_of_the_worker_id() {
    for (text, next_tick) in [
        ("timestamp:41,worker:10,sequence:12", true),
        ("timestamp:41,sequence:12,worker:10", false),
    ] {
        let layout = Layout::parse(text, Some(0)).unwrap();
        let allocator = open(&layout, 9);
        let last = ids(&layout, claim(&allocator, &layout, 3, 1_000_000, 0))[2];
        let end = allocator.open(&layout, 0, reserved(3, u64::MAX));
        assert_eq!(end, layout.first_slot(1000) + 3);
        let first = if next_tick { layout.first_slot(1001) } else { end };
        assert_eq!(allocator.position(&layout).cursor, first);
        let next = ids(&layout, claim(&allocator, &layout, 1, 1_001_000, 0))[0];
        assert!(next > last, "{text}");
        // Where nothing has been issued, there is nothing to be above.
        let allocator = Allocator::default();
        allocator.open(&layout, 0, reserved(9, u64::MAX));
        allocator.open(&layout, 0, reserved(3, u64::MAX));
        assert_eq!(allocator.position(&layout).cursor, 0);
    }
}

#[test]
fn the_time_field_is_used_up() {
    let layout = Layout::parse("timestamp:4,worker:2,sequence:2", Some(0)).unwrap();
    let allocator = open(&layout, 3);
    // 16 ticks of 4; the very last slot stands for the end.
    assert_eq!(ids(&layout, claim(&allocator, &layout, 100, 15_000, 0)).len(), 3);
    assert_eq!(claim(&allocator, &layout, 1, 15_000, 0), Claim::TimeExhausted);
    assert_eq!(claim(&allocator, &layout, 1, 16_000, 0), Claim::TimeExhausted);
    assert_eq!(claim(&allocator, &layout, 1, i64::MAX, u64::MAX), Claim::TimeExhausted);
}

#[test]
fn the_widest_layouts_do_not_overflow() {
    for text in [
        "timestamp:63",
        "timestamp:32,sequence:31",
        "timestamp:1,datacenter:31,worker:31",
        "timestamp:32@1s,worker:31",
        "timestamp:63@1us",
        "timestamp:63@3600s",
    ] {
        let layout = Layout::parse(text, Some(0)).unwrap();
        let max = |field| (layout.bits(field) > 0).then(|| layout.max(field) as u32);
        let allocator =
            open(&layout, layout.node(max(Field::Datacenter), max(Field::Worker)).unwrap());
        let id = ids(&layout, claim(&allocator, &layout, 1, 0, 0))[0];
        let fields = layout.unpack(id).unwrap();
        assert_eq!(
            (fields.tick, fields.datacenter, fields.worker),
            (0, max(Field::Datacenter), max(Field::Worker))
        );
        claim(&allocator, &layout, u64::MAX, i64::MAX, u64::MAX);
        claim(&allocator, &layout, u64::MAX, i64::MIN, u64::MAX);
        for now in [0, i64::MIN, i64::MAX] {
            let mut tick = ClaimedTick::default();
            for _ in 0..3 {
                let _ = next(&allocator, &layout, &ManualClock::new(now), &mut tick, u64::MAX);
            }
        }
    }
}

#[test]
fn leftover_slots_are_good_while_their_tick_and_window_last() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    let Claim::Ready(mut slots) = claim(&allocator, &layout, 7, 7_000_000, 0) else { panic!() };
    let tick = ClaimedTick::of(&layout, &slots);
    let next = |slots: &mut _, now, max_ahead| {
        allocator.next_claimed(&layout, now, &tick, slots, max_ahead)
    };
    let id = |sequence| Some(layout.id(5, layout.first_slot(7000) + sequence));
    assert_eq!(next(&mut slots, 7_000_999, 0), id(0));
    assert_eq!(next(&mut slots, 7_001_000, 0), None);
    assert_eq!(next(&mut slots, 6_999_999, 0), None);
    assert_eq!(next(&mut slots, 6_999_999, 1), id(1));
    // Not without a window.
    allocator.close(&layout);
    assert_eq!(next(&mut slots, 7_000_999, 0), None);
    // Another node's number, and the own one anew.
    allocator.open(&layout, 0, reserved(6, u64::MAX));
    assert_eq!(next(&mut slots, 7_000_999, 0), None);
    allocator.open(&layout, 0, reserved(5, u64::MAX));
    assert_eq!(next(&mut slots, 7_000_999, 0), None);
    // A tick that they are not of.
    let Claim::Ready(mut slots) = claim(&allocator, &layout, 7, 7_001_000, 0) else { panic!() };
    assert_eq!(next(&mut slots, 7_000_999, 5000), None);
}

#[test]
fn slots_fill_an_array_with_the_ids_that_they_have() {
    for (text, node) in [
        ("default", 5),
        ("mastodon", 0),
        ("timestamp:41@7us,sequence:9,unused:2,worker:8,datacenter:3", 0o1234),
    ] {
        let layout = Layout::parse(text, Some(0)).unwrap();
        let allocator = open(&layout, node);
        let Claim::Ready(slots) = claim(&allocator, &layout, 300, 5_000_000, 0) else { panic!() };
        let mut rest = slots;
        let expected: Vec<_> = std::iter::from_fn(|| rest.next_id(&layout)).collect();
        assert_eq!(expected.len(), 300);
        let (mut rest, mut ids) = (slots, [-1; 310]);
        assert_eq!(rest.fill(&layout, &mut ids[..7]), 7);
        assert_eq!(rest.fill(&layout, &mut ids[7..]), 293);
        assert_eq!(ids[..300], expected);
        assert_eq!(ids[300..], [-1; 10]);
    }
}

#[test]
fn the_next_id_of_a_tick_takes_one_look() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    let Claim::Ready(slots) = claim(&allocator, &layout, 1, 7_000_250, 0) else { panic!() };
    let tick = ClaimedTick::of(&layout, &slots);
    let next = |now, max_ahead| allocator.claim_next(&layout, now, &tick, max_ahead);
    let id = |sequence| Some(layout.id(5, layout.first_slot(7000) + sequence));
    assert_eq!(next(7_000_000, 0), id(1));
    assert_eq!(next(7_000_999, 0), id(2));
    assert_eq!(next(7_001_000, 0), None);
    assert_eq!(next(6_999_999, 0), None);
    assert_eq!(next(6_999_999, 1), id(3));
    for now in [i64::MIN, -1, 0, 7_000_000, i64::MAX] {
        let unset = ClaimedTick::default();
        assert_eq!(allocator.claim_next(&layout, now, &unset, u64::MAX), None);
    }
    // To the tick's end, and not into the next one.
    let rest: Vec<_> = (0..9999).map_while(|_| next(7_000_500, 5000)).collect();
    assert_eq!(rest, (4..4096).filter_map(id).collect::<Vec<_>>());
    // Kept with the words of shared memory.
    assert_eq!(ClaimedTick::from_words(tick.into_words()), tick);
}

#[test]
fn the_next_id_keeps_to_the_window() {
    let (layout, allocator) = (layout(), Allocator::default());
    let limit = |sequence| layout.first_slot(7000) + sequence;
    allocator.open(&layout, limit(0), reserved(5, limit(2)));
    let Claim::Ready(slots) = claim(&allocator, &layout, 1, 7_000_000, 0) else { panic!() };
    let tick = ClaimedTick::of(&layout, &slots);
    let next = || allocator.claim_next(&layout, 7_000_000, &tick, 0);
    assert_eq!(next(), Some(layout.id(5, limit(1))));
    assert_eq!(next(), None);
    allocator.extend(&layout, reserved(5, limit(3)));
    assert_eq!(next(), Some(layout.id(5, limit(2))));
    // Another node's number.
    allocator.open(&layout, 0, reserved(6, u64::MAX));
    assert_eq!(next(), None);
    allocator.open(&layout, 0, reserved(4, u64::MAX));
    assert_eq!(next(), None);
    // The same one anew, whose next id is of the next tick: of this one there were greater ones.
    allocator.open(&layout, 0, reserved(5, u64::MAX));
    assert_eq!(next(), None);
    let Claim::Ready(slots) = claim(&allocator, &layout, 1, 7_001_000, 0) else { panic!() };
    assert_eq!(slots.last_id(&layout), layout.id(5, layout.first_slot(7001)));
    let tick = ClaimedTick::of(&layout, &slots);
    let next = || allocator.claim_next(&layout, 7_001_000, &tick, 0);
    assert_eq!(next(), Some(layout.id(5, layout.first_slot(7001) + 1)));
    allocator.close(&layout);
    assert_eq!(next(), None);
}

#[test]
fn a_window_is_issued_to_its_end_and_extended() {
    let (layout, allocator) = (layout(), Allocator::default());
    let limit = |tick, sequence| layout.first_slot(tick) + sequence;
    allocator.extend(&layout, reserved(5, limit(9000, 0)));
    assert_eq!(allocator.position(&layout), Position::default(), "there is no window to extend");
    allocator.open(&layout, limit(7000, 0), reserved(5, limit(7000, 10)));
    assert_eq!(ids(&layout, claim(&allocator, &layout, 99, 7_000_000, 0)).len(), 10);
    assert_eq!(claim(&allocator, &layout, 1, 7_000_000, 0), Claim::NeedWindow);
    // A clock that jumped is beyond the window as well.
    assert_eq!(claim(&allocator, &layout, 1, 9_000_000, 0), Claim::NeedWindow);
    allocator.extend(&layout, reserved(5, limit(7000, 3)));
    assert_eq!(claim(&allocator, &layout, 1, 7_000_000, 0), Claim::NeedWindow);
    allocator.extend(&layout, reserved(5, limit(7001, 1)));
    assert_eq!(ids(&layout, claim(&allocator, &layout, 9999, 7_000_000, 0)).len(), 4086);
    assert_eq!(ids(&layout, claim(&allocator, &layout, 9999, 7_001_000, 0)).len(), 1);
    let position = Position { node: 5, cursor: limit(7001, 1), limit: limit(7001, 1) };
    assert_eq!(allocator.position(&layout), position);
}

#[test]
fn the_end_of_a_window_is_exact_and_final() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    ids(&layout, claim(&allocator, &layout, 3, 7_000_000, 0));
    let end = layout.first_slot(7000) + 3;
    assert_eq!(allocator.close(&layout), end);
    assert_eq!(claim(&allocator, &layout, 1, 7_000_000, 0), Claim::NeedWindow);
    allocator.extend(&layout, reserved(5, u64::MAX));
    assert_eq!(claim(&allocator, &layout, 1, 7_000_000, 0), Claim::NeedWindow);
    // The same node takes up where it was, less the one slot that ending dropped.
    allocator.open(&layout, end, reserved(5, u64::MAX));
    let next = ids(&layout, claim(&allocator, &layout, 1, 7_000_000, 0));
    assert_eq!(next, [layout.id(5, end + 1)]);
}

/// A claim of one id that is greater than another, at a moment.
fn claim_after(
    allocator: &Allocator,
    layout: &Layout,
    seen: i64,
    now: i64,
    max_ahead: u64,
) -> Claim {
    let seen = Seen::new(layout, seen).unwrap();
    allocator.claim_after(layout, &ManualClock::new(now), 1, seen, max_ahead)
}

#[test]
fn an_id_exceeds_one_that_was_seen_and_by_no_more_than_it_must() {
    // In which slot of tick 7000 the first greater id is, seen from worker 5 with sequence 10; 4096 is
    // the first of the next tick.
    for (text, worker, slot) in [
        ("timestamp:41,worker:10,sequence:12", 4, 4096),
        ("timestamp:41,worker:10,sequence:12", 5, 11),
        ("timestamp:41,worker:10,sequence:12", 6, 0),
        ("timestamp:41,sequence:12,worker:10", 4, 11),
        ("timestamp:41,sequence:12,worker:10", 5, 11),
        ("timestamp:41,sequence:12,worker:10", 6, 10),
    ] {
        let layout = Layout::parse(text, Some(0)).unwrap();
        let tick = layout.first_slot(7000);
        let seen = layout.id(5, tick + 10);
        let allocator = open(&layout, worker);
        assert_eq!(
            ids(&layout, claim_after(&allocator, &layout, seen, 7_000_000, 1000)),
            [layout.id(worker, tick + slot)],
            "{text}, worker {worker}"
        );
        assert!(layout.id(worker, tick + slot) > seen);
        assert!(slot == 0 || layout.id(worker, tick + slot - 1) <= seen);
        // What lies below the own ids changes nothing.
        assert_eq!(
            ids(&layout, claim_after(&allocator, &layout, 0, 7_000_000, 1000)),
            [layout.id(worker, tick + slot + 1)]
        );
    }
    let layout = layout();
    assert_eq!(Seen::new(&layout, -1), Err(FieldError::NotOfLayout(-1)));
}

#[test]
fn an_id_that_was_seen_is_waited_for_as_far_as_it_is_ahead() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    // Of 900 ms later, by another node.
    let seen = layout.id(9, layout.first_slot(7900));
    let after = |now, max_ahead| claim_after(&allocator, &layout, seen, now, max_ahead);
    // Node 5's ids of its tick are all less, so it takes the next one.
    assert_eq!(after(7_000_000, 0), Claim::SeenAhead { id: seen, by: 901_000 });
    assert_eq!(after(7_000_000, 899_999), Claim::SeenAhead { id: seen, by: 1001 });
    // The last tick of it is waited for as any other.
    assert_eq!(after(7_000_000, 900_000), Claim::TickExhausted { wait: 1000 });
    assert_eq!(allocator.position(&layout).cursor, 0, "what is refused moves nothing");
    let first = layout.first_slot(7901);
    assert_eq!(ids(&layout, after(7_000_000, 901_000)), [layout.id(5, first)]);
    // Others go on from there.
    assert_eq!(claim(&allocator, &layout, 1, 7_000_000, 0), Claim::ClockBehind { by: 901_000 });
    assert_eq!(
        ids(&layout, claim(&allocator, &layout, 1, 7_000_000, 901_000)),
        [layout.id(5, first + 1)]
    );
    // Without a window, it is the window that is missing.
    assert_eq!(claim_after(&Allocator::default(), &layout, seen, 7_000_000, 0), Claim::NeedWindow);
    // Beyond the end of the layout there is nothing to wait for.
    let last = layout.max_id(layout.max(Field::Timestamp)).unwrap();
    assert_eq!(claim_after(&allocator, &layout, last, 7_000_000, u64::MAX), Claim::TimeExhausted);
}

#[test]
fn a_window_is_made_up_to_an_id_that_was_seen() {
    let (layout, allocator) = (layout(), Allocator::default());
    let first = |tick| layout.first_slot(tick);
    allocator.open(&layout, 0, reserved(5, first(7100)));
    let seen = layout.id(5, first(7250));
    let after = || claim_after(&allocator, &layout, seen, 7_000_000, 1_000_000);
    for end in [7100, 7200] {
        allocator.extend(&layout, reserved(5, first(end)));
        assert_eq!(after(), Claim::NeedWindow);
        // The keeper sees the ids at the end of the window, and reserves from there on.
        assert_eq!(allocator.position(&layout).cursor, first(end));
    }
    allocator.extend(&layout, reserved(5, first(7300)));
    assert_eq!(ids(&layout, after()), [layout.id(5, first(7250) + 1)]);
    // Never for one that is too far ahead.
    let far = layout.id(5, first(9000));
    let refused = claim_after(&allocator, &layout, far, 7_000_000, 1_000_000);
    assert_eq!(refused, Claim::SeenAhead { id: far, by: 1_000_000 });
    assert_eq!(allocator.position(&layout).cursor, first(7250) + 2);
}

#[test]
fn what_was_prepared_is_used_only_if_it_fits() {
    let (layout, allocator) = (layout(), open(&layout(), 5));
    let Claim::Ready(mut slots) = claim(&allocator, &layout, 3, 7_000_000, 0) else { panic!() };
    let tick = ClaimedTick::of(&layout, &slots);
    let id = |sequence| Some(layout.id(5, layout.first_slot(7000) + sequence));
    let next = |above| allocator.claim_next_if(&layout, 7_000_000, &tick, 0, |id| id > above);
    assert_eq!(next(id(3).unwrap()), None);
    assert_eq!(next(id(2).unwrap()), id(3));
    let mut block = |above| {
        allocator.next_claimed_if(&layout, 7_000_000, &tick, &mut slots, 0, |id| id > above)
    };
    assert_eq!(block(id(0).unwrap()), None);
    assert_eq!(block(0), id(0));
    assert_eq!(block(id(0).unwrap()), id(1));
}

#[test]
fn a_block_ends_with_its_window() {
    let layout = layout();
    let first = |tick| layout.first_slot(tick);
    // Its tick is a second ahead, and stays open for that long.
    let claimed = || {
        let allocator = Allocator::default();
        allocator.open(&layout, first(8000), reserved(5, first(9000)));
        let Claim::Ready(slots) = claim(&allocator, &layout, 3, 7_000_000, 1_000_000) else {
            panic!()
        };
        (allocator, slots)
    };
    let next = |allocator: &Allocator, slots: &mut Slots| {
        let tick = ClaimedTick::of(&layout, slots);
        allocator.next_claimed(&layout, 7_000_000, &tick, slots, 1_000_000)
    };
    let (allocator, mut slots) = claimed();
    assert_eq!(next(&allocator, &mut slots), Some(layout.id(5, first(8000))));
    // More of the same window changes nothing.
    allocator.extend(&layout, reserved(5, first(9500)));
    assert_eq!(next(&allocator, &mut slots), Some(layout.id(5, first(8000) + 1)));
    allocator.drop_claimed();
    assert_eq!(next(&allocator, &mut slots), None);

    // Another one of the same node: it begins higher, or at once, or after that of another node.
    for floor in [first(8500), 0] {
        let (allocator, mut slots) = claimed();
        allocator.open(&layout, floor, reserved(5, first(9000)));
        assert_eq!(next(&allocator, &mut slots), None);
        let (allocator, mut slots) = claimed();
        allocator.open(&layout, floor, reserved(6, first(9000)));
        allocator.open(&layout, floor, reserved(5, first(9000)));
        assert_eq!(next(&allocator, &mut slots), None);
    }
}

/// A clock that remembers what it last showed.
struct Reading<'a> {
    clock: &'a ManualClock,
    last: Cell<i64>,
}

impl Clock for Reading<'_> {
    fn now(&self) -> i64 {
        self.last.set(self.clock.now());
        self.last.get()
    }
}

#[test]
fn tens_of_millions_of_slots_from_threads_are_distinct() {
    const THREADS: u64 = 4;
    const PER_THREAD: usize = 8_000_000;
    let layout = layout();
    let allocator = open(&layout, 9);
    let clock = ManualClock::new(1_000_000);
    // One bit for each slot of the ticks that the threads can come to.
    let ticks = THREADS * PER_THREAD as u64 / 4096 + 2;
    let seen: Vec<AtomicU64> = (0..ticks * 4096 / 64).map(|_| AtomicU64::new(0)).collect();
    let duplicates = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (allocator, clock, seen, duplicates) = (&allocator, &clock, &seen, &duplicates);
            scope.spawn(move || {
                // Blocks of different lengths, so that the threads interleave in every way.
                let length = [1, 3, 64, 1000][thread as usize];
                let reading = Reading { clock, last: Cell::new(0) };
                let mut last = -1;
                let mut count = 0;
                let mut got = |id: i64| {
                    assert!(id > last, "not increasing");
                    last = id;
                    count += 1;
                    let fields = layout.unpack(id).unwrap();
                    assert_eq!(fields.worker, Some(9));
                    let bit = (fields.tick - 1000) * 4096 + u64::from(fields.sequence.unwrap());
                    let before =
                        seen[(bit / 64) as usize].fetch_or(1 << (bit % 64), Ordering::Relaxed);
                    duplicates.fetch_add(before >> (bit % 64) & 1, Ordering::Relaxed);
                    count < PER_THREAD
                };
                let mut tick = ClaimedTick::default();
                let mut more = true;
                while more {
                    let claim = if length == 1 {
                        match next(allocator, &layout, &reading, &mut tick, 0) {
                            Ok(id) => {
                                more = got(id);
                                continue;
                            }
                            Err(refused) => refused,
                        }
                    } else {
                        allocator.claim(&layout, &reading, length, 0)
                    };
                    match claim {
                        Claim::Ready(mut slots) => {
                            while let Some(id) = slots.next_id(&layout) {
                                more = got(id);
                            }
                        }
                        // The clock moves when a tick is used up, to the next one, and never
                        // backward: it must never be found to stand behind.
                        Claim::TickExhausted { wait } => {
                            clock.advance_to(reading.last.get() + wait as i64);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(duplicates.into_inner(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two nodes with the same history, one of which prepares its ticks: they make the same
    /// ids, and refuse the same.
    #[test]
    fn a_prepared_tick_changes_nothing(
        steps in proptest::collection::vec((-3000i64..3000, 0u64..3000, 0u64..5, 0u8..40), 1..300)
    ) {
        // Ticks that are soon used up.
        let layout = Layout::parse("timestamp:41,worker:4,sequence:3", Some(0)).unwrap();
        let (plain, prepared) = (open(&layout, 1), open(&layout, 1));
        let (mut now, mut node, mut tick) = (1_000_000, 1, ClaimedTick::default());
        for (step, max_ahead, n, event) in steps {
            now += if event % 2 == 0 { step } else { step / 100 };
            let limit = layout.first_slot(now as u64 / 1000 + 2) + n;
            for allocator in [&plain, &prepared] {
                match event {
                    0 => { allocator.open(&layout, 0, reserved(n, limit)); }
                    1 => { allocator.open(&layout, 0, reserved(node, u64::MAX)); }
                    2 => { allocator.close(&layout); }
                    3..10 => allocator.extend(&layout, reserved(node, limit)),
                    10..15 => { claim(allocator, &layout, n, now, max_ahead); }
                    _ => {}
                }
            }
            node = if event == 0 { n } else { node };
            let clock = ManualClock::new(now);
            let expected = match plain.claim(&layout, &clock, 1, max_ahead) {
                Claim::Ready(slots) => Ok(slots.last_id(&layout)),
                refused => Err(refused),
            };
            prop_assert_eq!(next(&prepared, &layout, &clock, &mut tick, max_ahead), expected);
            prop_assert_eq!(prepared.position(&layout), plain.position(&layout));
        }
    }

    /// Any layout, any node, any id that was seen of the same time: the id that follows is greater,
    /// and the node has no lesser one that would be.
    #[test]
    fn the_next_id_after_any_other(
        order in 0usize..6, seen in (5u64..8, 0u64..16), node in 0u64..16, begin in 0u64..64
    ) {
        let text = [
            "timestamp:8,datacenter:2,worker:2,sequence:2", "timestamp:8,datacenter:2,sequence:2,worker:2",
            "timestamp:8,worker:2,datacenter:2,sequence:2", "timestamp:8,worker:2,sequence:2,datacenter:2",
            "timestamp:8,sequence:2,datacenter:2,worker:2", "timestamp:8,sequence:2,worker:2,datacenter:2",
        ][order];
        let layout = Layout::parse(text, Some(0)).unwrap();
        let of = |node, slot| layout.id(node, slot);
        for sequence in 0..4 {
            let seen = of(seen.1, layout.first_slot(seen.0) + sequence);
            let allocator = Allocator::default();
            allocator.open(&layout, begin, reserved(node, u64::MAX));
            let got = ids(&layout, claim_after(&allocator, &layout, seen, 0, 1_000_000))[0];
            let expected = (begin..).find(|&slot| of(node, slot) > seen).unwrap();
            prop_assert_eq!(got, of(node, expected), "{}, seen {}", text, seen);
        }
    }

    /// Any clock, any batch, any change of window: ids increase, keep to the window
    /// and never carry a time that is farther ahead of the clock than allowed.
    #[test]
    fn any_history(
        steps in proptest::collection::vec((0u64..6000, -5_000_000i64..5_000_000, 0u64..5000, 0u8..20), 1..200)
    ) {
        let layout = layout();
        let allocator = open(&layout, 0);
        let (mut last, mut node) = (0, 0);
        let mut now = 1_000_000_000;
        for (n, step, max_ahead, event) in steps {
            now += match event { 0 => step, 1..3 => step / 1000, _ => step.abs() / 1000 };
            if event == 3 {
                node += 1;
                allocator.open(&layout, 0, reserved(node, u64::MAX));
            }
            match claim(&allocator, &layout, n, now, max_ahead) {
                Claim::Ready(mut slots) => {
                    prop_assert!((1..=n.max(1)).contains(&slots.len()));
                    while let Some(id) = slots.next_id(&layout) {
                        let fields = layout.unpack(id).unwrap();
                        let slot = layout.first_slot(fields.tick) + u64::from(fields.sequence.unwrap());
                        prop_assert!(slot > last);
                        last = slot;
                        prop_assert_eq!(fields.worker.map(u64::from), Some(node));
                        let time = layout.time_of(fields.tick).unwrap();
                        prop_assert!(time <= now + max_ahead as i64);
                        prop_assert!(time > now - 1000);
                    }
                }
                Claim::TickExhausted { wait } => {
                    prop_assert!((1..=1000).contains(&wait));
                    now += wait as i64;
                    prop_assert!(matches!(claim(&allocator, &layout, 1, now, max_ahead), Claim::Ready(_)));
                    last += 1;
                    last = last.max(layout.first_slot(layout.tick_at(now).unwrap()));
                }
                Claim::ClockBehind { by } => {
                    prop_assert!(by > 1000);
                    let early = claim(&allocator, &layout, 1, now + by as i64 - 1, max_ahead);
                    prop_assert!(!matches!(early, Claim::Ready(_)));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
