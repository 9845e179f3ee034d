//! The allocator under every interleaving that the memory model allows: claims
//! of two backends against a change of window by the keeper. And the ring of samples, and what is
//! published of a session.
//!
//! Run by `make test`: `RUSTFLAGS="--cfg loom" cargo test -p snowflake-core --release --test loom`.
#![cfg(loom)]
#![allow(missing_docs, clippy::unwrap_used)]

use loom::sync::Arc;
use loom::thread;
use snowflake_core::published::Published;
use snowflake_core::reserved::{Journal, at_once};
use snowflake_core::ring::Ring;
use snowflake_core::{Allocator, Claim, ClaimedTick, Clock, Layout, Reserved, Seen};
use std::convert::Infallible;

fn old() -> Reserved {
    reserved(1, 6)
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

/// 4 slots a tick; the clock stands at tick 0 and ids may run 3 ticks ahead.
fn layout() -> Layout {
    Layout::parse("timestamp:8,worker:4,sequence:2", Some(0)).unwrap()
}

/// Stands at tick 0 without being a part of the model.
struct Still;

impl Clock for Still {
    fn now(&self) -> i64 {
        0
    }
}

/// What one claim of two slots got: (node, slot) of each.
fn claim(allocator: &Allocator, layout: &Layout) -> Vec<(u32, u64)> {
    let mut claimed = Vec::new();
    if let Claim::Ready(mut slots) = allocator.claim(layout, &Still, 2, 3000) {
        while let Some(id) = slots.next_id(layout) {
            let fields = layout.unpack(id).unwrap();
            let slot = layout.first_slot(fields.tick) + u64::from(fields.sequence.unwrap());
            claimed.push((fields.worker.unwrap(), slot));
        }
    }
    claimed
}

/// Backends that make some claims each, while the keeper changes the window.
/// `preemptions` bounds how often the model switches away from a thread that could
/// go on; `None` explores every interleaving.
fn claims_against_a_change_of_window(backends: usize, claims: usize, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.open(&layout, 0, old());

        let backends: Vec<_> = (0..backends)
            .map(|_| {
                let allocator = Arc::clone(&allocator);
                thread::spawn(move || -> Vec<_> {
                    (0..claims).flat_map(|_| claim(&allocator, &layout)).collect()
                })
            })
            .collect();
        let end_of_old = allocator.open(&layout, 4, reserved(2, 8));

        let mut all = Vec::new();
        for backend in backends {
            let claimed = backend.join().unwrap();
            assert!(claimed.is_sorted_by_key(|&(_, slot)| slot), "not increasing: {claimed:?}");
            all.extend(claimed);
        }
        for &(node, slot) in &all {
            assert!([1, 2].contains(&node));
            let window = if node == 1 { 0..6 } else { 4..8 };
            assert!(window.contains(&slot), "outside the window: {all:?}");
            if node == 1 {
                assert!(slot < end_of_old, "issued after the window was closed: {all:?}");
            } else {
                assert!(slot >= end_of_old, "below the end of the old window: {all:?}");
            }
        }
        let claimed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), claimed, "claimed twice: {all:?}");
    });
}

#[test]
fn one_backend_against_a_change_of_window() {
    claims_against_a_change_of_window(1, 3, None);
}

#[test]
fn two_backends_against_a_change_of_window() {
    claims_against_a_change_of_window(2, 1, Some(4));
}

/// Backends that go on with a tick that they claimed from before, while the keeper changes the
/// window, and then changes it back.
#[test]
fn prepared_ticks_against_changes_of_window() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        // The sequence above the worker id: all windows then are of one tick.
        let layout = Layout::parse("timestamp:8,sequence:2,worker:4", Some(0)).unwrap();
        let allocator = Arc::new(Allocator::default());
        allocator.open(&layout, 0, reserved(1, 2));
        let Claim::Ready(slots) = allocator.claim(&layout, &Still, 1, 0) else { panic!() };
        let tick = ClaimedTick::of(&layout, &slots);
        let backends: Vec<_> = (0..2)
            .map(|_| {
                let allocator = Arc::clone(&allocator);
                thread::spawn(move || [(); 2].map(|()| allocator.claim_next(&layout, 0, &tick, 0)))
            })
            .collect();
        // Only node and limit tell the windows apart.
        let first_end = allocator.open(&layout, 0, reserved(2, 3));
        let second_end = allocator.open(&layout, 0, reserved(1, 3));
        assert_eq!(second_end, first_end, "a slot of the second node was taken for the first");
        let mut all: Vec<_> = Vec::new();
        for backend in backends {
            let got: Vec<_> = backend.join().unwrap().into_iter().flatten().collect();
            assert!(got.is_sorted(), "not increasing: {got:?}");
            all.extend(got);
        }
        all.sort_unstable();
        // From the first slot that was left on, without a gap, and before the limit.
        let expected = [layout.id(1, 1), layout.id(1, 2)];
        assert!(expected.starts_with(&all), "{all:?}");
    });
}

#[test]
fn nothing_is_issued_behind_the_end_of_a_window() {
    loom::model(|| {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.open(&layout, 0, old());
        let backend = {
            let allocator = Arc::clone(&allocator);
            thread::spawn(move || [claim(&allocator, &layout), claim(&allocator, &layout)].concat())
        };
        let end = allocator.close(&layout);
        for (_, slot) in backend.join().unwrap() {
            assert!(slot < end, "slot {slot} was issued, and the window's end is {end}");
        }
    });
}

/// Who has seen the next window, of the same node, issues nothing of a block of the one before.
#[test]
fn a_block_ends_before_the_next_window_begins() {
    loom::model(|| {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.open(&layout, 0, reserved(1, 3));
        let Claim::Ready(mut block) = allocator.claim(&layout, &Still, 2, 3000) else { panic!() };
        let backend = {
            let allocator = Arc::clone(&allocator);
            thread::spawn(move || {
                let tick = ClaimedTick::of(&layout, &block);
                let claimed = claim(&allocator, &layout);
                let id = allocator.next_claimed(&layout, 0, &tick, &mut block, 3000);
                (claimed, id)
            })
        };
        allocator.open(&layout, 4, reserved(1, 8));
        let (claimed, id) = backend.join().unwrap();
        if claimed.iter().any(|&(_, slot)| slot >= 4) {
            assert_eq!(id, None);
        }
    });
}

/// A backend whose ids must exceed one that was seen elsewhere, beyond the window, against one that
/// goes on as ever, while the keeper makes the window longer, or another node's. Ids are distinct,
/// increase, keep to the windows, and exceed what was seen.
fn an_id_that_was_seen_against_the_keeper(change: fn(&Allocator, &Layout), nodes: &'static [u32]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.open(&layout, 2, reserved(1, 3));
        // Of tick 0, by a node whose ids of a tick are greater than theirs: slot 4 is the first to exceed it.
        let seen = layout.id(3, 0);
        let after = {
            let allocator = Arc::clone(&allocator);
            thread::spawn(move || {
                let seen = Seen::new(&layout, seen).unwrap();
                let got = [(); 2].map(|()| allocator.claim_after(&layout, &Still, 1, seen, 3000));
                got.into_iter()
                    .filter_map(|claim| match claim {
                        Claim::Ready(mut slots) => slots.next_id(&layout),
                        Claim::NeedWindow => None,
                        other => panic!("{other:?}"),
                    })
                    .collect::<Vec<_>>()
            })
        };
        let other = {
            let allocator = Arc::clone(&allocator);
            thread::spawn(move || [claim(&allocator, &layout), claim(&allocator, &layout)].concat())
        };
        change(&allocator, &layout);
        let after = after.join().unwrap();
        assert!(after.is_sorted(), "not increasing: {after:?}");
        assert!(after.iter().all(|&id| id > seen), "{after:?} after {seen}");
        let mut all: Vec<_> = after
            .iter()
            .map(|&id| (layout.unpack(id).unwrap().worker.unwrap(), layout.slot_of(id).unwrap()))
            .collect();
        all.extend(other.join().unwrap());
        assert!(all.iter().all(|&(node, slot)| nodes.contains(&node) && slot < 8), "{all:?}");
        let count = all.len();
        all.sort_unstable_by_key(|&(_, slot)| slot);
        all.dedup_by_key(|&mut (_, slot)| slot);
        assert_eq!(all.len(), count, "claimed twice: {all:?}");
    });
}

#[test]
fn an_id_that_was_seen_while_the_window_grows() {
    an_id_that_was_seen_against_the_keeper(|at, layout| at.extend(layout, reserved(1, 8)), &[1]);
}

#[test]
fn an_id_that_was_seen_while_the_window_changes() {
    let change = |at: &Allocator, layout: &Layout| {
        at.open(layout, 0, reserved(2, 8));
    };
    an_id_that_was_seen_against_the_keeper(change, &[1, 2]);
}

#[test]
fn a_limit_that_moves_forward_is_never_exceeded() {
    loom::model(|| {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.open(&layout, 0, reserved(1, 2));
        let backend = {
            let allocator = Arc::clone(&allocator);
            thread::spawn(move || [claim(&allocator, &layout), claim(&allocator, &layout)].concat())
        };
        allocator.extend(&layout, reserved(1, 3));
        let claimed = backend.join().unwrap();
        let slots: Vec<_> = claimed.iter().map(|&(_, slot)| slot).collect();
        assert!([&[0, 1][..], &[0, 1, 2]].contains(&&slots[..]), "{slots:?}");
    });
}

#[test]
fn what_the_keeper_wrote_before_a_window_is_seen_with_it() {
    use loom::sync::atomic::{AtomicU64, Ordering};
    loom::model(|| {
        let layout = layout();
        let shared = Arc::new((AtomicU64::new(0), Allocator::default()));
        let backend = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if !claim(&shared.1, &layout).is_empty() {
                    assert_eq!(shared.0.load(Ordering::Relaxed), 1);
                }
            })
        };
        shared.0.store(1, Ordering::Relaxed);
        shared.1.open(&layout, 0, old());
        backend.join().unwrap();
    });
}

/// A writer against a reader: each entry that was taken comes out once, whole and in order.
#[test]
fn a_ring_loses_and_tears_nothing() {
    loom::model(|| {
        let ring = Arc::new(Ring::<2, 2>::default());
        let writer = Arc::clone(&ring);
        let writer = thread::spawn(move || -> Vec<[u64; 2]> {
            (1..=3).map(|i| [i, 10 * i]).filter(|&entry| writer.push(entry)).collect()
        });
        let mut read: Vec<_> = (0..2).filter_map(|_| ring.pop()).collect();
        let written = writer.join().unwrap();
        read.extend(std::iter::from_fn(|| ring.pop()));
        assert_eq!(read, written);
        // Two always fit.
        assert!(written.len() >= 2);
    });
}

/// Two sessions, one after the other, count in one place, which nobody sets back: whoever reads takes
/// off what there was when the session began. Nobody sees the one's counts as the other's.
#[test]
fn a_session_never_shows_its_neighbours_counts() {
    use loom::sync::atomic::{AtomicU64, Ordering};
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let slot = Arc::new((Published::<2>::default(), AtomicU64::new(0)));
        let sessions = Arc::clone(&slot);
        let sessions = thread::spawn(move || {
            let (session, counter) = &*sessions;
            for (pid, number) in [(1, 3), (2, 5)] {
                let before = counter.load(Ordering::Relaxed);
                session.write([pid, before]);
                counter.store(before + number, Ordering::Relaxed);
            }
        });
        let (session, counter) = &*slot;
        if let Some(([pid, begin], now)) = session.read_with(|| counter.load(Ordering::Relaxed)) {
            let allowed = [&[0][..], &[0, 3], &[0, 5]][pid as usize];
            assert!(allowed.contains(&(now - begin)), "session {pid}: {}", now - begin);
        }
        sessions.join().unwrap();
    });
}
