//! What backends and keeper count. Each process counts in its own slot of shared memory, with
//! plain stores; whoever reads adds the slots up, and takes off what there was at the last reset.
//!
//! A counter of a slot never goes back, and outlives the session that counted, so that the sum is
//! exact whoever has come and gone. Where the server was restarted, or a process crashed,
//! all begin at 0 (PostgreSQL then makes all shared memory anew).

use crate::time::uptime;
use snowflake_core::sync::{AtomicI64, AtomicU64, Ordering};

/// What is counted. The one of the fast path comes first: it shares a cache line with what that
/// touches anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Calls for one id that issued it: the only counter of the fast path.
    Single,
    /// Ids issued for batches,
    Batched,
    /// and the calls for these, whether they issued any or not.
    Batches,
    /// Calls for one id that ended with an error.
    SingleFailed,
    /// Blocks claimed (`snowflake_id.backend_block`),
    Blocks,
    /// and ids of them that were never issued.
    Dropped,
    /// Waits for the next tick.
    TicksExhausted,
    /// Calls that found the clock behind the node's ids.
    ClockBackward,
    /// Microseconds waited, for whatever reason.
    WaitTime,
    /// Calls that ended with an error: because of the clock,
    RefusedClock,
    /// because there is no window, or no keeper that would reserve one,
    RefusedWindow,
    /// because there is no lease,
    RefusedLease,
    /// because of the node's configuration, or because it is drained,
    RefusedSetup,
    /// because the layout has no more time.
    RefusedTime,
    /// Windows that the keeper has reserved,
    Windows,
    /// and the microseconds that writing their records took.
    WindowTime,
    /// Heartbeats that the registry has answered,
    LeaseRenewals,
    /// and calls to it that failed.
    LeaseFailures,
    /// Jumps of the clock that were not believed.
    ClockForward,
    /// Changes of the worker id.
    WorkerIdChanges,
    /// Ids sampled (`snowflake_id.sample_rate`),
    Samples,
    /// and samples that were lost before the keeper could write them down.
    SamplesDropped,
    /// Claims that were cancelled while they waited.
    Cancelled,
}

/// How many counters there are, the histogram of waits aside.
pub(crate) const COUNTERS: usize = Counter::Cancelled as usize + 1;
/// Classes of waits: the one of number k is for 2^k up to 2^(k+1) microseconds. The last one is
/// for all that is longer, above half an hour.
pub(crate) const CLASSES: usize = 32;
/// All words.
pub(crate) const WORDS: usize = COUNTERS + CLASSES;

/// The counters of one slot, or sums of them.
pub(crate) type Totals = [u64; WORDS];

/// What one process alone counts.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Counters {
    words: [AtomicU64; WORDS],
    /// What the call that is under way will have been if it does not return: a bit for each counter,
    due: AtomicU64,
    /// and since when it has been waiting, by the machine's uptime; 0 while it is not.
    waiting: AtomicI64,
}

/// Something that is counted at the end of a call, and when it began to wait. Also where the call is
/// cancelled, which unwinds, and where the session is terminated, which does not: then whoever ends
/// the session calls [`Counters::end_call`].
pub(crate) struct Due<'a> {
    counters: &'a Counters,
    counter: Counter,
}

impl Due<'_> {
    /// It did not come to that.
    pub(crate) fn cancel(self) {
        self.counters.take_due(self.counter);
    }
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        if self.counters.take_due(self.counter) {
            self.counters.add(self.counter, 1);
        }
    }
}

/// A wait, likewise.
pub(crate) struct Waiting<'a>(&'a Counters);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.end_wait();
    }
}

impl Counters {
    /// Will count something at the end of the call, unless it is cancelled.
    pub(crate) fn due(&self, counter: Counter) -> Due<'_> {
        self.due.store(self.due.load(Ordering::Relaxed) | bit(counter), Ordering::Relaxed);
        Due { counters: self, counter }
    }

    /// Whether that was to be counted; it is no more.
    fn take_due(&self, counter: Counter) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        self.due.store(due & !bit(counter), Ordering::Relaxed);
        due & bit(counter) != 0
    }

    /// The call waits from now on.
    pub(crate) fn begin_wait(&self) -> Waiting<'_> {
        self.waiting.store(uptime(), Ordering::Relaxed);
        Waiting(self)
    }

    fn end_wait(&self) {
        let since = self.waiting.swap(0, Ordering::Relaxed);
        if since != 0 {
            self.add_wait(u64::try_from(uptime() - since).unwrap_or(0));
        }
    }

    /// Counts what the session's last call has left.
    pub(crate) fn end_call(&self) {
        let due = self.due.swap(0, Ordering::Relaxed);
        for place in (0..COUNTERS).filter(|place| due >> place & 1 != 0) {
            self.add_at(place, 1);
        }
        self.end_wait();
    }

    /// Adds to a counter.
    #[inline]
    pub(crate) fn add(&self, counter: Counter, by: u64) {
        self.add_at(counter as usize, by);
    }

    fn add_wait(&self, micros: u64) {
        self.add(Counter::WaitTime, micros);
        let class = micros.max(1).ilog2() as usize;
        self.add_at(COUNTERS + class.min(CLASSES - 1), 1);
    }

    /// How they stand.
    pub(crate) fn read(&self) -> Totals {
        std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn add_at(&self, place: usize, by: u64) {
        // Nobody else writes it.
        let counter = &self.words[place];
        counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
    }
}

const fn bit(counter: Counter) -> u64 {
    1 << counter as usize
}

/// A column of the views that show what was counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Column {
    /// How often.
    Count(u64),
    /// How long: milliseconds.
    Time(f64),
}

/// What was counted, by the name of its column; `None` for one that shows something else.
pub(crate) fn column(totals: &Totals, name: &str) -> Option<Column> {
    use Counter as C;
    let count = |counters: &[Counter]| {
        Column::Count(counters.iter().map(|&counter| totals[counter as usize]).sum())
    };
    let time = |counter: Counter| Column::Time(totals[counter as usize] as f64 / 1000.0);
    Some(match name {
        "ids" => Column::Count(ids(totals)),
        "calls" => count(&[C::Single, C::Batches, C::SingleFailed]),
        "batches" => count(&[C::Batches]),
        "blocks" => count(&[C::Blocks]),
        "dropped" => count(&[C::Dropped]),
        "ticks_exhausted" => count(&[C::TicksExhausted]),
        "waits" => Column::Count(waits(totals).iter().sum()),
        "wait_time" => time(C::WaitTime),
        "clock_backward" => count(&[C::ClockBackward]),
        "clock_forward" => count(&[C::ClockForward]),
        "refused" => count(&[
            C::RefusedClock,
            C::RefusedWindow,
            C::RefusedLease,
            C::RefusedSetup,
            C::RefusedTime,
        ]),
        "refused_clock" => count(&[C::RefusedClock]),
        "refused_window" => count(&[C::RefusedWindow]),
        "refused_lease" => count(&[C::RefusedLease]),
        "refused_setup" => count(&[C::RefusedSetup]),
        "refused_time" => count(&[C::RefusedTime]),
        "cancelled" => count(&[C::Cancelled]),
        "windows" => count(&[C::Windows]),
        "window_time" => time(C::WindowTime),
        "lease_renewals" => count(&[C::LeaseRenewals]),
        "lease_failures" => count(&[C::LeaseFailures]),
        "worker_id_changes" => count(&[C::WorkerIdChanges]),
        "samples" => count(&[C::Samples]),
        "samples_dropped" => count(&[C::SamplesDropped]),
        _ => return None,
    })
}

/// How many waits there were, by their class.
pub(crate) fn waits(totals: &Totals) -> &[u64] {
    &totals[COUNTERS..]
}

/// How many ids were issued.
pub(crate) const fn ids(totals: &Totals) -> u64 {
    totals[Counter::Single as usize] + totals[Counter::Batched as usize]
}

/// What has been counted since.
pub(crate) fn since(now: &Totals, then: &Totals) -> Totals {
    std::array::from_fn(|i| now[i].wrapping_sub(then[i]))
}

/// The classes of waits, of which a wait of the given share of all is no longer than the result:
/// the upper end of its class, in microseconds. `None` where nobody has waited.
pub(crate) fn quantile(classes: &[u64], share: f64) -> Option<f64> {
    let all: u64 = classes.iter().sum();
    let rank = (share * all as f64).ceil().max(1.0) as u64;
    let mut seen = 0;
    let class = classes.iter().position(|&number| {
        seen += number;
        seen >= rank
    });
    class.filter(|_| all > 0).map(|class| 2f64.powi(class as i32 + 1))
}
