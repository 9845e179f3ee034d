//! What the arithmetic costs, without PostgreSQL: `make bench-core`.
//!
//! With several threads, a time is that of one thread's call, and so is the rate beside it:
//! all of them together make as many times more, on as many cores. With more threads than
//! cores, it has the waiting for a core in it.
//!
//! Ids may run ahead of the clock without end here, and the window has none: every claim is
//! given all that it asks for, which each of them checks.
#![allow(missing_docs, clippy::unwrap_used)]

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use snowflake_core::layout::DEFAULT_EPOCH;
use snowflake_core::reserved::{Journal, at_once};
use snowflake_core::{
    Allocator, Claim, ClaimedTick, Clock, Fields, Layout, ManualClock, Reserved, Slots,
};
use std::cell::Cell;
use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

/// 2026-01-01 00:00:00 UTC.
const NOW: i64 = DEFAULT_EPOCH + 365 * 86_400 * 1_000_000;
/// All ids of one tick.
const TICK: u64 = 4096;

fn main() {
    divan::main();
}

fn layout() -> Layout {
    Layout::parse("default", None).unwrap()
}

/// An id of 2026, with something in each of its fields.
fn id(layout: &Layout) -> i64 {
    let tick = layout.tick_at(NOW).unwrap();
    layout
        .pack(&Fields { tick, datacenter: None, worker: Some(682), sequence: Some(2730) })
        .unwrap()
}

/// The machine's clock, as std reads it: that is 10 ns dearer than what the extension does,
/// for which it needs `unsafe`.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
    }
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

fn open(layout: &Layout) -> Allocator {
    let allocator = Allocator::default();
    allocator.open(layout, 0, reserved(1, u64::MAX));
    allocator
}

/// Claims `n` slots. A tick is a multiple of `n`, so that no claim meets its end.
fn claim(allocator: &Allocator, layout: &Layout, clock: &impl Clock, n: u64) -> Slots {
    match allocator.claim(layout, clock, n, u64::MAX) {
        Claim::Ready(slots) if slots.len() == n => slots,
        other => panic!("{n} slots were asked for: {other:?}"),
    }
}

/// Threads that claim from one allocator, as the backends of a node do.
#[divan::bench_group(
    threads = [1, 2, 4, 8, 16],
    // Long enough that more threads than cores take turns: of samples that last 3 ms or less, most
    // were seen to run alone.
    sample_size = 2_000_000,
    sample_count = 32,
)]
mod claims {
    use super::*;

    const SLOTS: [u64; 3] = [1, 16, 64];

    /// The allocator alone.
    #[divan::bench(args = SLOTS)]
    fn fixed_clock(bencher: Bencher, slots: u64) {
        measure(bencher, &ManualClock::new(NOW), slots);
    }

    #[divan::bench(args = SLOTS)]
    fn system_clock(bencher: Bencher, slots: u64) {
        measure(bencher, &SystemClock, slots);
    }

    /// One id, as a backend makes it with `snowflake_id.backend_block` at this number.
    #[divan::bench(args = SLOTS)]
    fn one_id_by_blocks_of(bencher: Bencher, slots: u64) {
        thread_local! {
            static LAST: Cell<(ClaimedTick, Slots)> = Cell::default();
        }
        let layout = layout();
        let allocator = open(&layout);
        bencher.bench(|| {
            let (mut tick, mut block) = LAST.get();
            let id = if slots == 1 {
                allocator.claim_next(&layout, black_box(NOW), &tick, u64::MAX)
            } else {
                allocator.next_claimed(&layout, black_box(NOW), &tick, &mut block, u64::MAX)
            };
            let id = id.unwrap_or_else(|| {
                block = claim(&allocator, &layout, &ManualClock::new(NOW), slots);
                tick = ClaimedTick::of(&layout, &block);
                block.next_id(&layout).unwrap()
            });
            LAST.set((tick, block));
            id
        });
    }

    fn measure(bencher: Bencher, clock: &(impl Clock + Sync), slots: u64) {
        let layout = layout();
        let allocator = open(&layout);
        bencher
            .counter(ItemsCount::new(slots))
            .bench(|| claim(&allocator, &layout, clock, black_box(slots)));
    }
}

mod ids {
    use super::*;

    /// Ids of slots that have been claimed.
    #[divan::bench(args = [1, 16, 64, TICK])]
    fn fill(bencher: Bencher, slots: u64) {
        let layout = layout();
        let claimed = claim(&open(&layout), &layout, &ManualClock::new(NOW), slots);
        bencher
            .counter(ItemsCount::new(slots))
            .with_inputs(|| vec![0; slots as usize])
            .bench_local_refs(|ids| black_box(claimed).fill(&layout, ids));
    }

    #[divan::bench]
    fn decode(bencher: Bencher) {
        let layout = layout();
        let id = id(&layout);
        bencher.bench(|| {
            let fields = layout.unpack(black_box(id)).unwrap();
            (fields, layout.time_of(fields.tick))
        });
    }

    #[divan::bench]
    fn encode(bencher: Bencher) {
        let layout = layout();
        let fields = layout.unpack(id(&layout)).unwrap();
        bencher.bench(|| {
            let tick = layout.tick_at(black_box(NOW)).unwrap();
            layout.pack(&Fields { tick, ..black_box(fields) }).unwrap()
        });
    }
}

mod texts {
    use super::*;
    use snowflake_core::text;

    #[divan::bench]
    fn to_base62(bencher: Bencher) {
        let id = id(&layout());
        bencher.bench(|| text::to_base62(black_box(id)).unwrap());
    }

    #[divan::bench]
    fn from_base62(bencher: Bencher) {
        let text = text::to_base62(id(&layout())).unwrap();
        bencher.bench(|| text::from_base62(black_box(&text)).unwrap());
    }

    #[divan::bench]
    fn to_base32(bencher: Bencher) {
        let id = id(&layout());
        bencher.bench(|| text::to_base32(black_box(id)).unwrap());
    }

    #[divan::bench]
    fn from_base32(bencher: Bencher) {
        let text = text::to_base32(id(&layout())).unwrap();
        bencher.bench(|| text::from_base32(black_box(&text)).unwrap());
    }
}
