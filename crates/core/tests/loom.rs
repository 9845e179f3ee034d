//! The allocator under every interleaving that the memory model allows: claims
//! of two backends against a change of lease by the keeper. And the ring of samples, and what is
//! published of a session.
//!
//! Run by `make test`: `RUSTFLAGS="--cfg loom" cargo test -p snowflake-core --release --test loom`.
#![cfg(loom)]
#![allow(missing_docs, clippy::unwrap_used)]

use loom::sync::Arc;
use loom::thread;
use snowflake_core::published::Published;
use snowflake_core::ring::Ring;
use snowflake_core::{Allocator, Claim, ClaimedTick, Clock, Layout, Lease};

const OLD: Lease = Lease { node: 1, floor: 0, limit: 6 };
const NEW: Lease = Lease { node: 2, floor: 4, limit: 8 };

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

/// Backends that make some claims each, while the keeper changes the lease.
/// `preemptions` bounds how often the model switches away from a thread that could
/// go on; `None` explores every interleaving.
fn claims_against_a_change_of_lease(backends: usize, claims: usize, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.change_lease(&layout, OLD);

        let backends: Vec<_> = (0..backends)
            .map(|_| {
                let allocator = Arc::clone(&allocator);
                thread::spawn(move || -> Vec<_> {
                    (0..claims).flat_map(|_| claim(&allocator, &layout)).collect()
                })
            })
            .collect();
        let end_of_old = allocator.change_lease(&layout, NEW);

        let mut all = Vec::new();
        for backend in backends {
            let claimed = backend.join().unwrap();
            assert!(claimed.is_sorted_by_key(|&(_, slot)| slot), "not increasing: {claimed:?}");
            all.extend(claimed);
        }
        for &(node, slot) in &all {
            let lease = if node == 1 { OLD } else { NEW };
            assert_eq!(u64::from(node), lease.node);
            assert!((lease.floor..lease.limit).contains(&slot), "outside the lease: {all:?}");
            if node == 1 {
                assert!(slot < end_of_old, "issued after the lease had ended: {all:?}");
            } else {
                assert!(slot >= end_of_old, "below the end of the old lease: {all:?}");
            }
        }
        let claimed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), claimed, "claimed twice: {all:?}");
    });
}

#[test]
fn one_backend_against_a_change_of_lease() {
    claims_against_a_change_of_lease(1, 3, None);
}

#[test]
fn two_backends_against_a_change_of_lease() {
    claims_against_a_change_of_lease(2, 1, Some(4));
}

/// Backends that go on with a tick that they claimed from before, while the keeper changes the
/// lease, and then changes it back.
#[test]
fn prepared_ticks_against_changes_of_lease() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.change_lease(&layout, Lease { limit: 2, ..OLD });
        let Claim::Ready(slots) = allocator.claim(&layout, &Still, 1, 0) else { panic!() };
        let tick = ClaimedTick::of(&layout, &slots);
        let backends: Vec<_> = (0..2)
            .map(|_| {
                let allocator = Arc::clone(&allocator);
                thread::spawn(move || [(); 2].map(|()| allocator.claim_next(&layout, 0, &tick, 0)))
            })
            .collect();
        // All in one tick, so that only node and limit tell the leases apart.
        let lease = |node, limit| Lease { node, floor: 0, limit };
        let first_end = allocator.change_lease(&layout, lease(2, 3));
        let second_end = allocator.change_lease(&layout, lease(1, 3));
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
fn nothing_is_issued_behind_the_end_of_a_lease() {
    loom::model(|| {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.change_lease(&layout, OLD);
        let backend = {
            let allocator = Arc::clone(&allocator);
            thread::spawn(move || [claim(&allocator, &layout), claim(&allocator, &layout)].concat())
        };
        let end = allocator.end_lease(&layout);
        for (_, slot) in backend.join().unwrap() {
            assert!(slot < end, "slot {slot} was issued, and the lease's end is {end}");
        }
    });
}

#[test]
fn a_limit_that_moves_forward_is_never_exceeded() {
    loom::model(|| {
        let layout = layout();
        let allocator = Arc::new(Allocator::default());
        allocator.change_lease(&layout, Lease { limit: 2, ..OLD });
        let backend = {
            let allocator = Arc::clone(&allocator);
            thread::spawn(move || [claim(&allocator, &layout), claim(&allocator, &layout)].concat())
        };
        allocator.extend(&layout, 3);
        let claimed = backend.join().unwrap();
        let slots: Vec<_> = claimed.iter().map(|&(_, slot)| slot).collect();
        assert!([&[0, 1][..], &[0, 1, 2]].contains(&&slots[..]), "{slots:?}");
    });
}

#[test]
fn what_the_keeper_wrote_before_a_lease_is_seen_with_it() {
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
        shared.1.change_lease(&layout, OLD);
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
