//! The keeper: the one background worker of a node. It alone opens the allocator, for a window
//! of id-time that it has reserved before, durably, for the node's number.
//!
//! It looks at the clock, the configuration and the allocator: four times in a window while ids
//! are being made, once a second otherwise, and whenever a backend asks. A look ends with ids
//! or with a [`Verdict`] that says why there are none; backends report that.
//!
//! That one process applies a changed worker id is what makes the change safe: backends notice
//! a reload one after the other, and datacenter and worker id change together.

mod clock;
mod high_water;
mod lease;
mod samples;
mod signals;

use crate::encoding;
use crate::error::Error;
use crate::report::{Report, State, Verdict};
use crate::settings::{self, OnCopy};
use crate::shared::{Shared, shared};
use crate::statistics::{self, Counter};
use crate::status;
use crate::tables::Unusable;
use crate::time::uptime;
use clock::Reading;
use high_water::{Failure, Home};
use lease::{Asked, Lessee};
use once_cell::unsync::OnceCell;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;
use snowflake_core::window::{
    self, Beginning, Conflict, Identity, KeptLease, LayoutChanged, NodeName, Number, Record,
    Running,
};
use snowflake_core::{ClockWatch, Field, Layout, Lease};
use snowflake_registry::{Contested, Held, Now, Status};
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A keeper that ended is started again after this time.
const RESTART_TIME: Duration = Duration::from_secs(1);
/// The longest time between two attempts to connect.
const LONGEST_PAUSE: u32 = 10;
/// How often it looks while nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// In microseconds.
const SECOND: i64 = 1_000_000;
/// Samples are written no more often than this, and old ones deleted; in microseconds.
const SAMPLING: i64 = SECOND / 10;
const FORGETTING: i64 = 10 * SECOND;
/// How often it looks at most while there are no ids, however many ask; and how often while a
/// lease is being taken.
const REFUSING: Duration = Duration::from_millis(100);
/// How long the end of the server may wait for the registry.
const FAREWELL: Duration = Duration::from_secs(1);
/// A node that ends in peace is back by then, or others may have its leased number: heartbeats.
const ABSENCE: u32 = 5;

/// Has the postmaster start the keeper; for `_PG_init` while preloading.
pub(crate) fn register() {
    BackgroundWorkerBuilder::new("snowflake_id keeper")
        .set_type("snowflake_id keeper")
        .set_library("snowflake_id")
        .set_function("snowflake_id_keeper_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(RESTART_TIME))
        .load();
}

/// Entry point of the background worker.
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub extern "C-unwind" fn snowflake_id_keeper_main(_argument: pg_sys::Datum) {
    signals::install();
    // The postmaster made both before it started this process.
    if let (Some(shared), Ok(layout)) = (shared(), settings::layout()) {
        connect(shared.report());
        if !signals::stop_requested() {
            Keeper::new(shared, layout).run();
        }
        shared.report().pid.store(0, Ordering::Relaxed);
    }
    // A background worker that returns, or exits with 0, is never started again: it
    // would be missed by a node that was told to end only this process.
    // SAFETY: ends the process, after PostgreSQL's own clean-up.
    unsafe { pg_sys::proc_exit(1) };
}

/// Connects to the keeper's database. PostgreSQL ends the process where that fails, and starts
/// it again: here, after pauses that grow.
#[allow(unsafe_code)]
fn connect(report: &Report) {
    let failed = report.failed_connections.load(Ordering::Relaxed);
    report.set_verdict(&if failed > 0 { State::NoDatabase } else { State::Starting }.into());
    if failed > 1 {
        let pause = Duration::from_secs(failed.min(LONGEST_PAUSE).into()) - RESTART_TIME;
        signals::rest(pause, pause);
    }
    if signals::stop_requested() {
        return;
    }
    report.failed_connections.store(failed.saturating_add(1), Ordering::Relaxed);
    high_water::connect(&settings::database_name());
    report.failed_connections.store(0, Ordering::Relaxed);
    // SAFETY: both are set for the life of the process.
    let (pid, latch) = unsafe { (pg_sys::MyProcPid, pg_sys::MyLatch) };
    report.latch.store(latch, Ordering::Release);
    report.pid.store(pid, Ordering::Relaxed);
}

struct Keeper {
    shared: &'static Shared,
    layout: &'static Layout,
    boot_id: String,
    home: OnceCell<Home>,
    watch: Option<ClockWatch>,
    lessee: Lessee,
    /// What the record says, or is to say, of the lease,
    kept: Option<KeptLease>,
    /// by which nonce it says it,
    recorded: RefCell<Option<String>>,
    /// whether there is one,
    remembers: Cell<bool>,
    /// and of the draining of this node.
    drained: bool,
    /// The lease of the number that is in use, or was last to be.
    leased: Option<Held>,
    /// The lease that this process has opened.
    open: Option<Open>,
    /// What is to be opened.
    opening: Option<Opening>,
    /// The nodes whose records have been seen.
    known: Vec<NodeName>,
    /// The greatest end of a window that was written, or was tried to be; by an earlier keeper, too.
    written: Cell<u64>,
    /// The last attempt to reserve failed, and is tried again whether anybody asks or not.
    failed: Cell<bool>,
    /// Why a changed number has to wait, as the log says.
    put_off: Option<State>,
    /// The node that has this node's number, as the log says.
    conflict: String,
    /// What the registry had answered, and not, at the last look.
    answers: (u64, u64),
    /// How many ids there had been, and when, by the machine's uptime.
    measured: Option<(u64, i64)>,
    /// When samples were written last, and old ones deleted, by the machine's uptime; and up to
    /// which id they are.
    sampled_at: i64,
    forgot_at: i64,
    forgotten: i64,
    /// Whether that failed the last time.
    samples_failed: bool,
    /// What the log says last.
    logged: Option<(State, String, Option<Number>)>,
}

struct Opening {
    number: Number,
    /// When it was first tried: the wall clock.
    since: i64,
    /// The records that decide where it begins, while it waits for the clock to come there: a node
    /// with the same number that goes on making ids cannot put it off again and again.
    records: Option<Vec<Record>>,
}

/// How long the keeper rests before the next look.
#[derive(Clone, Copy)]
struct Pause {
    /// Even if it is asked.
    at_least: Duration,
    /// If nobody asks.
    at_most: Duration,
}

impl Pause {
    const fn up_to(at_most: Duration) -> Self {
        Self { at_least: Duration::ZERO, at_most }
    }

    /// While there are no ids to be had: however many ask, not more often than that.
    fn unless_asked(at_most: Duration) -> Self {
        Self { at_least: REFUSING.min(at_most), at_most }
    }

    fn while_made() -> Self {
        Self::up_to(Duration::from_micros(settings::reservation() / 4).min(IDLE))
    }
}

/// The number that ids are to be made with.
#[derive(Clone)]
struct Assigned {
    number: Number,
    node: u64,
    /// The lease of it; none where it is set by hand.
    held: Option<Held>,
}

impl Assigned {
    /// No id of an earlier time, by its lease.
    fn floor(&self) -> Option<i64> {
        self.held.as_ref().map(|held| held.floor)
    }

    /// By what the registry knows its lease.
    fn nonce(&self) -> Option<String> {
        self.held.as_ref().map(|held| held.nonce.clone())
    }
}

#[derive(Clone)]
struct Open {
    assigned: Assigned,
    /// When it was opened: the wall clock.
    since: i64,
    /// Where the cursor was at the last look.
    cursor: u64,
}

impl Keeper {
    fn new(shared: &'static Shared, layout: &'static Layout) -> Self {
        Self {
            shared,
            layout,
            boot_id: clock::boot_id(),
            home: OnceCell::new(),
            watch: None,
            lessee: Lessee::default(),
            kept: None,
            recorded: RefCell::default(),
            remembers: Cell::new(false),
            drained: false,
            leased: None,
            open: None,
            opening: None,
            known: Vec::new(),
            written: Cell::new(0),
            failed: Cell::new(false),
            put_off: None,
            conflict: String::new(),
            answers: (0, 0),
            measured: None,
            sampled_at: 0,
            forgot_at: -FORGETTING,
            forgotten: i64::MIN,
            samples_failed: false,
            logged: None,
        }
    }

    fn run(mut self) {
        while !signals::stop_requested() {
            if BackgroundWorker::sighup_received() {
                // SAFETY: the context is that of a reload, as in PostgreSQL's own workers.
                #[allow(unsafe_code)]
                unsafe {
                    pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP)
                };
            }
            let report = self.shared.report();
            let asked = report.asked();
            let reading = Reading::take();
            report.set_estimate(reading.estimate);
            self.measure();
            let pause = self.look(&reading).unwrap_or_else(|verdict| {
                // A look that was interrupted by the end found nothing worth saying.
                if !signals::stop_requested() {
                    self.say(&verdict);
                }
                Pause::unless_asked(IDLE)
            });
            report.looked_at.store(reading.now, Ordering::Relaxed);
            report.heartbeat.store(uptime(), Ordering::Relaxed);
            report.answer(asked);
            self.write_samples(&reading);
            signals::rest(pause.at_least, pause.at_most);
        }
        self.close();
    }

    /// Adds to what the keeper counts, in its own slot like any backend.
    fn count(&self, counter: Counter, by: u64) {
        if let Some(slot) = self.shared.my_slot() {
            slot.counters.add(counter, by);
        }
    }

    /// How many ids are being made, over the last second or so.
    fn measure(&mut self) {
        let (ids, now) = (statistics::ids(&self.shared.totals()), uptime());
        let (before, then) = *self.measured.get_or_insert((ids, now));
        let micros = now - then;
        if micros >= SECOND {
            let rate = (ids - before) as f64 * SECOND as f64 / micros as f64;
            self.shared.report().rate.store(rate as i64, Ordering::Relaxed);
            self.measured = Some((ids, now));
        }
    }

    /// Writes down the samples that backends have sent. Those of a failure are lost, and counted.
    fn write_samples(&mut self, reading: &Reading) {
        if uptime() - self.sampled_at < SAMPLING {
            return;
        }
        let samples: Vec<_> = self.shared.take_samples().collect();
        if samples.is_empty() {
            return;
        }
        self.sampled_at = uptime();
        let failed = samples::write(&samples).err();
        if failed.is_some() {
            self.count(Counter::SamplesDropped, samples.len() as u64);
        }
        let failed = failed.or_else(|| self.forget_samples(reading).err());
        if let Some(failure) = failed.as_ref().filter(|_| !self.samples_failed) {
            let text = format!("snowflake_id: samples cannot be written or deleted: {failure}");
            encoding::say(PgLogLevel::WARNING, &text);
        }
        self.samples_failed = failed.is_some();
    }

    /// Deletes old samples, now and then.
    fn forget_samples(&mut self, reading: &Reading) -> Result<(), Failure> {
        // A clock that is not believed deletes nothing.
        let ready = self.shared.report().verdict().state == State::Ready;
        let due = ready && uptime() - self.forgot_at >= FORGETTING;
        let oldest = settings::sample_retention()
            .filter(|_| due)
            .and_then(|retention| reading.now.checked_sub_unsigned(retention));
        if let Some(oldest) = oldest {
            self.forgot_at = uptime();
            let bound = self.layout.lower_bound(oldest);
            self.forgotten = samples::forget(self.forgotten, bound)?;
        }
        Ok(())
    }

    /// Counts what the registry has answered since the last look.
    fn count_answers(&mut self, status: &Status) {
        let (renewals, failures) = self.answers;
        // A holder that is new begins at 0.
        let since = |now: u64, then| now.checked_sub(then).unwrap_or(now);
        self.count(Counter::LeaseRenewals, since(status.renewals, renewals));
        self.count(Counter::LeaseFailures, since(status.failures, failures));
        self.answers = (status.renewals, status.failures);
    }

    /// One look: opens or extends the window, and says when to look again; or why there are
    /// no ids.
    fn look(&mut self, reading: &Reading) -> Result<Pause, Verdict> {
        // What cannot be done now is refused, not done later.
        let (drain, another) =
            (self.shared.report().take_drain(), self.shared.report().take_another());
        let source = match source(self.layout) {
            Ok(source) => source,
            Err(state) => {
                self.opening = None;
                self.end_lease();
                self.lessee.stop();
                publish(&Status::default(), self.shared.report());
                return Err(state.into());
            }
        };
        self.recall(reading)?;
        let clock = self.check_clock(reading);
        self.lessee.trust(clock.is_ok().then(|| self.now(reading)));
        clock?;
        if let Some(drain) = drain {
            self.drain(drain, reading)?;
        }
        if self.drained {
            // A lease that it holds goes on.
            publish(&self.lessee.status(), self.shared.report());
            return Err(State::Drained.into());
        }
        let assigned = match (self.assigned(source, another), self.open.clone()) {
            (Ok(Some(assigned)), _) => assigned,
            // By other settings there was a number: it is used until there is a new one.
            (waiting, Some(mut open)) => {
                if let Err(verdict) = waiting {
                    self.put_off(&verdict);
                }
                // By other terms, its lease may go on.
                let held = self.lessee.status().held;
                let held = held.filter(|held| held.number == open.assigned.node);
                if open.assigned.held.is_some() && held.is_some() {
                    open.assigned.held = held;
                }
                return self.extend(open, reading);
            }
            (Ok(None), None) => {
                self.shared.report().set_verdict(&State::Starting.into());
                return Ok(Pause::unless_asked(REFUSING));
            }
            (Err(verdict), None) => return Err(verdict),
        };
        self.shared.report().assigned.store(assigned.node.cast_signed(), Ordering::Relaxed);
        let Some(open) = self.open.clone() else { return self.begin(assigned, reading) };
        if open.assigned.number == assigned.number {
            self.put_off = None;
            if assigned.held.is_none() && self.leased.take().is_some() {
                // Its lease ends by itself: nobody else shall have the number before.
                self.lessee.stop();
            }
            if assigned.floor() > open.assigned.floor() {
                // Others may have had the number meanwhile.
                self.end_lease();
                return self.begin(assigned, reading);
            }
            self.opening = None;
            return self.extend(Open { assigned, ..open }, reading);
        }
        // The old number is used until the new one can be.
        let begun = self.begin(assigned.clone(), reading);
        if let Some(open) = self.open.clone()
            && open.assigned.number != assigned.number
        {
            if let Err(verdict) = &begun {
                self.put_off(verdict);
            }
            self.extend(open, reading)?;
        }
        begun.or(Ok(Pause::unless_asked(IDLE)))
    }

    /// The time that a lease is for: ids may run ahead of the clock.
    fn now(&self, reading: &Reading) -> Now {
        let cursor = self.shared.allocator.position(self.layout).cursor;
        let ahead = reading.now.saturating_add_unsigned(settings::max_ahead());
        let ids = window::time_of_slot(self.layout, cursor).max(ahead);
        Now { wall: reading.now, ids }
    }

    /// At the first look: what this node has recorded of itself.
    fn recall(&mut self, reading: &Reading) -> Result<(), Failure> {
        if self.watch.is_some() {
            return Ok(());
        }
        let home = self.home()?.clone();
        let records = high_water::read()?;
        let own = || records.iter().filter(|record| record.node == home.name);
        let newest = own().max_by_key(|record| record.updated_at);
        self.drained = newest.is_some_and(|record| record.drained);
        self.kept = newest.and_then(|record| record.lease.clone());
        self.remembers.set(own().any(|record| record.has_mark()));
        self.written.set(own().filter_map(|record| record.slot(self.layout)).max().unwrap_or(0));
        self.recorded.replace(self.kept_nonce());
        // The clock is compared with what this node trusted since the machine was started.
        let this_run =
            |record: &&Record| record.boot_id == self.boot_id && !self.boot_id.is_empty();
        let trusted = own().filter(this_run).map(|record| record.booted_at).max();
        self.watch = Some(ClockWatch::new(trusted.unwrap_or(reading.booted_at)));
        Ok(())
    }

    /// The number to make ids with; none while one is being leased.
    fn assigned(&mut self, source: Source, another: bool) -> Result<Option<Assigned>, Verdict> {
        let asked = match source {
            Source::Setting(assigned) => {
                if self.leased.is_none() {
                    self.lessee.stop();
                }
                publish(&Status::default(), self.shared.report());
                return Ok(Some(assigned));
            }
            Source::Registry(asked) => asked,
        };
        let home = self.home()?.clone();
        if another {
            self.exchange()?;
        }
        let (kept, remembers) = (self.kept.as_ref(), self.remembers.get());
        let status = self.lessee.follow(&asked, &home, self.layout, kept, remembers);
        let status = status.map_err(|why| Verdict::of(State::NoLease, 0, why))?;
        self.count_answers(&status);
        publish(&status, self.shared.report());
        let claimed = self.claimed(&status);
        let open = self.open.as_ref().and_then(|open| open.assigned.nonce());
        if let Some(Contested { nonce, by }) = status.contested
            && Some(nonce) == open
            && self.end_lease().is_some()
        {
            let same = by.node == home.name.to_string();
            let lost = Error::WorkerIdLost { to: format!("{} ({})", by.node, by.host), same };
            lost.report(PgLogLevel::WARNING, "snowflake_id: ");
            // It shall not come back as the holder.
            self.kept = None;
            self.amend()?;
        }
        if let Some(held) = status.held {
            let part = |field| {
                let part = self.layout.number_in(field, held.number)?;
                u32::try_from(part).ok()
            };
            let number =
                Number { datacenter_id: part(Field::Datacenter), worker_id: part(Field::Worker) };
            self.kept = Some(kept_of(&held));
            if let Some(leased) = self.leased.as_mut().filter(|leased| leased.number == held.number)
            {
                leased.clone_from(&held);
            }
            return Ok(Some(Assigned { number, node: held.number, held: Some(held) }));
        }
        match (claimed, status.trouble) {
            (_, Some(trouble)) => {
                Err(Verdict::of(State::NoLease, 0, lease::in_words(&trouble.error)))
            }
            (Some(claimed), None) => Err(claimed),
            (None, None) => Ok(None),
        }
    }

    /// That a number has been claimed, to which others may object.
    fn claimed(&self, status: &Status) -> Option<Verdict> {
        let (number, until) = status.claimed.filter(|_| status.trouble.is_none())?;
        let id = self.layout.number_in(Field::Worker, number).unwrap_or(number);
        Some(Verdict::of(State::LeaseClaimed, until as u64, id.to_string()))
    }

    /// Whether the number in use is a leased one.
    fn is_leased(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.assigned.held.is_some())
    }

    /// Gives the leased number back and has another one leased.
    fn exchange(&mut self) -> Result<(), Failure> {
        let ended = if self.is_leased() { self.end_lease() } else { None };
        let last = ended.map_or(self.written.get(), |(_, end)| end);
        let last = window::time_of_next_tick(self.layout, last);
        self.kept = None;
        // Written before: a node that believed itself the holder could come back as such.
        self.amend()?;
        if let Some(before) = self.leased.take() {
            self.lessee.give_back(&before, last);
        }
        self.lessee.another(last);
        self.shared.report().exchanges.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Ends the making of ids until further notice, or begins it again.
    fn drain(&mut self, drain: bool, reading: &Reading) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.drained, drain);
        let ended = if drain { self.end_lease() } else { None };
        let written = match &ended {
            Some((open, end)) => self.write(&open.assigned, *end, reading),
            None => self.amend().and_then(|found| {
                // A record without a mark.
                let nothing = Assigned { number: Number::default(), node: 0, held: None };
                if found { Ok(()) } else { self.write(&nothing, 0, reading) }
            }),
        };
        // What is not written down is not so.
        written.inspect_err(|_| self.drained = before)?;
        self.shared.report().drains.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Opens the allocator for a number: at the start, and when it was changed. A number that is
    /// open already stays so until the new one is reserved.
    fn begin(&mut self, assigned: Assigned, reading: &Reading) -> Result<Pause, Verdict> {
        self.check_lease(&assigned, reading.now)?;
        let home = self.home()?.clone();
        let report = self.shared.report();
        let number = assigned.number;
        let opening = self.opening.take().filter(|opening| opening.number == number);
        let mut opening = opening.unwrap_or(Opening { number, since: reading.now, records: None });
        // A clock that was put right since is the better one.
        opening.since = opening.since.min(reading.now);
        let since = opening.since;
        let settled = opening.records.take();
        self.opening = Some(opening);
        let records = match settled {
            Some(records) => records,
            None => high_water::read()?,
        };
        let (guard, max_ahead) = (settings::promotion_guard(), settings::max_ahead());
        let leased_from = assigned.floor();
        let running = self.open.is_some();
        let beginning = Beginning { since, max_ahead, guard, running, leased_from };
        let identity = self.identity(&home, number);
        let start =
            window::start(&records, &identity, &beginning).map_err(|LayoutChanged(record)| {
                Verdict::of(State::LayoutChanged, record.epoch as u64, &*record.layout)
            })?;
        let copy = start.conflict.filter(|conflict| conflict.copy);
        if let Some(copy) = copy.filter(|_| settings::on_copy() == OnCopy::Refuse) {
            let name = copy.record.node.to_string();
            report.set_conflict(&name);
            return Err(Verdict::of(State::Copy, 0, name));
        }
        self.warn(start.conflict);
        let floor = start.floor;
        // Before anybody asks, nothing is reserved: there may be records still to come, from a
        // dump that is being restored.
        let wanted = running || self.is_asked() || self.failed.get();
        // Slot 0: nothing has been issued, and before the epoch calls wait for the clock themselves.
        let wait = match floor {
            0 => 0,
            floor => window::until(self.layout, reading.now, floor, max_ahead),
        };
        if wait > window::patience(self.layout, settings::reservation(), guard) {
            return Err(Verdict::of(State::ClockBehind, wait, ""));
        }
        if wait > 0 {
            if !running {
                let until = reading.now.saturating_add_unsigned(wait);
                report.set_verdict(&Verdict::of(State::Starting, until as u64, ""));
            }
            if let Some(opening) = self.opening.as_mut().filter(|_| wanted) {
                opening.records = Some(records);
            }
            return Ok(Pause::unless_asked(Duration::from_micros(wait).min(IDLE)));
        }
        if !wanted {
            if assigned.nonce() != *self.recorded.borrow() {
                // By its lease on record, the node has the same number at once after its next start.
                self.write(&assigned, floor, reading)?;
                self.leave(&assigned, self.written.get());
            }
            self.say(&State::Ready.into());
            return Ok(Pause::up_to(IDLE));
        }
        let cursor = self.shared.allocator.position(self.layout).cursor.max(floor);
        let limit = self.reserve(&assigned, cursor, 0, reading)?;
        let lease = Lease { node: assigned.node, floor, limit };
        let end = self.shared.allocator.change_lease(self.layout, lease);
        self.leave(&assigned, end);
        let other = |open: &Open| open.assigned.number != number;
        self.count(Counter::WorkerIdChanges, u64::from(self.open.as_ref().is_some_and(other)));
        self.open = Some(Open { assigned, since: reading.now, cursor });
        self.opening = None;
        self.known = names(&records);
        self.say(&State::Ready.into());
        Ok(Pause::while_made())
    }

    /// A number is in use from now on: that of an earlier lease, with which there are no ids
    /// from `end` on, is not needed any more.
    fn leave(&mut self, assigned: &Assigned, end: u64) {
        let Some(before) = std::mem::replace(&mut self.leased, assigned.held.clone()) else {
            return;
        };
        if assigned.node != before.number {
            // If another node has it by now, that changes nothing.
            self.lessee.give_back(&before, window::time_of_next_tick(self.layout, end));
        }
        if assigned.held.is_none() {
            self.lessee.stop();
            self.kept = None;
        }
    }

    /// Reserves more while ids are being made, or were asked for.
    fn extend(&mut self, open: Open, reading: &Reading) -> Result<Pause, Verdict> {
        let position = self.shared.allocator.position(self.layout);
        let reservation = settings::reservation();
        let remaining =
            window::remaining(self.layout, reading.now, position.cursor, position.limit);
        let asked = self.is_asked();
        let made = position.cursor != open.cursor;
        self.open = Some(open.clone());
        self.check_lease(&open.assigned, reading.now)?;
        let nonce = open.assigned.nonce();
        if nonce.is_some() && nonce == self.kept_nonce() && nonce != *self.recorded.borrow() {
            // By that the node has the same number at once after a crash.
            self.amend()?;
        }
        if (made || asked || self.failed.get()) && remaining < reservation / 2 {
            let mark = self.look_at_others(&open)?;
            if mark > position.cursor {
                // It begins anew, above a record that has been restored.
                self.end_lease();
                return self.begin(open.assigned, reading);
            }
            let used = window::time_of_slot(self.layout, position.cursor)
                - window::time_of_slot(self.layout, open.cursor);
            let used = u64::try_from(used).unwrap_or(0);
            let limit = self.reserve(&open.assigned, position.cursor, used, reading)?;
            self.shared.allocator.extend(self.layout, limit);
        }
        self.open = Some(Open { cursor: position.cursor, ..open });
        self.say(&State::Ready.into());
        Ok(if made || asked { Pause::while_made() } else { Pause::up_to(IDLE) })
    }

    /// Writes the record of a window that begins at `cursor`, and returns its end.
    fn reserve(
        &self,
        assigned: &Assigned,
        cursor: u64,
        used: u64,
        reading: &Reading,
    ) -> Result<u64, Verdict> {
        // Ids that run ahead of the clock use up windows faster than it does: then as much is
        // reserved as they will use until the next looks.
        let end = window::end(
            self.layout,
            reading.now,
            cursor,
            settings::reservation(),
            used.saturating_mul(4),
            settings::max_ahead(),
        );
        let open = self.shared.allocator.position(self.layout).limit;
        let leased = assigned.held.as_ref().map(|held| window::lease_end(self.layout, held.until));
        let limit = end.max(open).min(leased.unwrap_or(u64::MAX));
        if window::remaining(self.layout, reading.now, cursor, limit) == 0 {
            self.check_lease(assigned, i64::MAX)?;
        }
        if limit == open && self.written.get() >= limit {
            // The lease allows no more for now.
            return Ok(limit);
        }
        self.failed.set(true);
        let begun = uptime();
        // Until the number has changed, ids of the old one are made up to its limit.
        self.write(assigned, limit.max(open), reading)?;
        self.failed.set(false);
        self.count(Counter::Windows, 1);
        self.count(Counter::WindowTime, u64::try_from(uptime() - begun).unwrap_or(0));
        Ok(limit)
    }

    /// Whether a leased number may be used for ids of a time.
    fn check_lease(&self, assigned: &Assigned, time: i64) -> Result<(), Verdict> {
        let Some(held) = assigned.held.as_ref().filter(|held| held.until <= time) else {
            return Ok(());
        };
        let status = self.lessee.status();
        if let Some(claimed) = self.claimed(&status) {
            return Err(claimed);
        }
        let why = match (held.followed, status.trouble) {
            (true, _) => "another node has the worker id now".to_owned(),
            (false, Some(trouble)) => lease::in_words(&trouble.error),
            (false, None) => String::new(),
        };
        Err(Verdict::of(State::LeaseEnded, held.until as u64, why))
    }

    fn write(&self, assigned: &Assigned, end: u64, reading: &Reading) -> Result<(), Failure> {
        let (home, report) = (self.home()?, self.shared.report());
        let trusted = self.watch.map_or(reading.booted_at, |watch| watch.booted_at());
        report.writing_since.store(reading.now, Ordering::Relaxed);
        self.written.set(self.written.get().max(end));
        // While another number is being leased, what is kept may be of that one already.
        let lease = assigned.held.as_ref().map(|held| match &self.kept {
            Some(kept) if kept.nonce == held.nonce => kept.clone(),
            _ => kept_of(held),
        });
        let nonce = lease.as_ref().map(|lease| lease.nonce.clone());
        let written = high_water::write(&Record {
            node: home.name.clone(),
            reserved_until: self.layout.id(assigned.node, end),
            number: assigned.number,
            layout: self.layout.to_string(),
            epoch: self.layout.epoch(),
            timeline: home.timeline,
            updated_at: reading.now,
            boot_id: self.boot_id.clone(),
            booted_at: trusted,
            host: home.host.clone(),
            data_directory: home.data_directory.clone(),
            lease,
            drained: self.drained,
        });
        report.writing_since.store(0, Ordering::Relaxed);
        if written.is_ok() {
            self.remembers.set(self.remembers.get() || end > 0);
            self.recorded.replace(nonce);
        }
        written
    }

    /// Changes only what the record says of the lease and of the draining, and says whether there
    /// is one.
    fn amend(&self) -> Result<bool, Failure> {
        let found = high_water::amend(&self.home()?.name, self.kept.as_ref(), self.drained)?;
        if found {
            self.recorded.replace(self.kept_nonce());
        }
        Ok(found)
    }

    fn kept_nonce(&self) -> Option<String> {
        self.kept.as_ref().map(|kept| kept.nonce.clone())
    }

    /// Who and where this node is.
    fn home(&self) -> Result<&Home, Failure> {
        self.home.get_or_try_init(|| {
            let home = Home::find()?;
            let report = self.shared.report();
            report.set_node(&home.name.to_string());
            report.timeline.store(home.timeline, Ordering::Relaxed);
            Ok(home)
        })
    }

    const fn identity<'a>(&self, home: &'a Home, number: Number) -> Identity<'a> {
        Identity { node: &home.name, number, layout: self.layout, timeline: home.timeline }
    }

    /// Whether the clock can be believed.
    fn check_clock(&mut self, reading: &Reading) -> Result<(), Verdict> {
        let watch = self.watch.get_or_insert(ClockWatch::new(reading.booted_at));
        let report = self.shared.report();
        if report.take_accept_clock() {
            watch.accept(reading.booted_at);
        }
        let jump = watch.look(reading.booted_at, settings::max_clock_jump());
        let jumped = jump.err().unwrap_or(0) as i64;
        if report.clock_jump.swap(jumped, Ordering::Relaxed) == 0 && jumped != 0 {
            self.count(Counter::ClockForward, 1);
        }
        jump.map_err(|by| Verdict::of(State::ClockJumped, by, ""))?;
        let Some(max) = settings::max_clock_error() else { return Ok(()) };
        let error = reading.estimate.ok_or(State::ClockUnknown)?.error.max(0) as u64;
        if error > max { Err(Verdict::of(State::ClockError, error, "")) } else { Ok(()) }
    }

    /// Other nodes' records can come while this one runs: by logical replication that of
    /// a node with the same number, with restored data an old one. The mark of the latter.
    fn look_at_others(&mut self, open: &Open) -> Result<u64, Failure> {
        let home = self.home()?.clone();
        let identity = self.identity(&home, open.assigned.number);
        let records = high_water::read()?;
        // While another number is to be opened, it is that one's conflicts that matter.
        if self.opening.is_none() {
            let conflict = window::conflict(&records, &identity);
            // Whose a leased number is, the registry knows.
            self.warn(conflict.filter(|_| open.assigned.held.is_none()));
        }
        let (since, known, written) = (open.since, &self.known[..], self.written.get());
        let mark = window::late_mark(&records, &identity, &Running { since, known, written });
        self.known = names(&records);
        Ok(mark)
    }

    /// Whether a backend waits for this look.
    fn is_asked(&self) -> bool {
        let report = self.shared.report();
        !report.is_answered(report.asked())
    }

    /// Says whose record has this node's number, once.
    fn warn(&mut self, conflict: Option<Conflict<'_>>) {
        let name = conflict.map(|conflict| conflict.record.node.to_string()).unwrap_or_default();
        self.shared.report().set_conflict(&name);
        if self.conflict == name {
            return;
        }
        self.conflict = name;
        if let Some(Conflict { record, copy }) = conflict {
            // Where it is, is for the log only: not everybody may know that.
            let by = format!("{} ({}:{})", record.node, record.host, record.data_directory);
            Error::WorkerIdInUse { by, copy, updated_at: record.updated_at }
                .report(PgLogLevel::WARNING, "snowflake_id: ");
        }
    }

    /// Publishes a verdict, and logs it if it is a new one.
    fn say(&mut self, verdict: &Verdict) {
        self.shared.report().set_verdict(verdict);
        let number = self.open.as_ref().map(|open| open.assigned.number);
        let number = number.or(self.opening.as_ref().map(|opening| opening.number));
        let now = Some((verdict.state, verdict.text.clone(), number));
        if self.logged == now {
            return;
        }
        self.logged = now;
        match status::error_of(verdict.clone()) {
            Some(error) => error.report(gravity(verdict.state), "snowflake_id: no ids: "),
            None => log!("snowflake_id: ids flow with {}", Numbered(number.unwrap_or_default())),
        }
    }

    /// Says, once, why a changed number is not used yet.
    fn put_off(&mut self, verdict: &Verdict) {
        if self.put_off.replace(verdict.state) == Some(verdict.state) {
            return;
        }
        if let Some(error) = status::error_of(verdict.clone()) {
            error.report(gravity(verdict.state), "snowflake_id: the new worker id must wait: ");
        }
    }

    /// Takes the allocator away, for good or until there is a number again.
    fn end_lease(&mut self) -> Option<(Open, u64)> {
        // It may have been opened by a keeper that did not end in peace.
        if self.shared.allocator.position(self.layout).limit == 0 {
            self.open = None;
            return None;
        }
        let end = self.shared.allocator.end_lease(self.layout);
        self.open.take().map(|open| (open, end))
    }

    /// The end in peace: records exactly what was issued, so that the next start waits for
    /// nothing, and lets go of the lease.
    fn close(mut self) {
        self.shared.report().set_verdict(&State::Starting.into());
        let ended = self.end_lease();
        let reading = Reading::take();
        let held = self.lessee.status().held;
        if let Some(held) = &held {
            let last = ended.as_ref().map_or(self.written.get(), |(_, end)| *end);
            let last = window::time_of_next_tick(self.layout, last);
            let back = settings::terms().heartbeat.as_micros() as u64 * u64::from(ABSENCE);
            let until = last.max(reading.now.saturating_add_unsigned(back)).min(held.until);
            self.kept = Some(KeptLease { nonce: held.nonce.clone(), until });
        }
        high_water::hurry();
        let written = match &ended {
            Some((open, end)) => self.write(&open.assigned, *end, &reading),
            None if held.is_some() => self.amend().map(drop),
            None => Ok(()),
        };
        if let Err(failure) = written {
            // The old record stands: the next start is as after a crash.
            let verdict = Verdict::from(failure);
            let text = format!("snowflake_id: could not record the last id: {}", verdict.text);
            encoding::say(PgLogLevel::LOG, &text);
            return;
        }
        // Not before: the node must know itself that its lease ends sooner now.
        let until = self.kept.as_ref().map_or(0, |kept| kept.until);
        if let Err(error) = self.lessee.release(until, FAREWELL) {
            let text =
                format!("snowflake_id: the lease was not given back, and ends by itself: {error}");
            encoding::say(PgLogLevel::LOG, &text);
        }
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoExtension(why) => Self::of(State::NoExtension, 0, why),
            Failure::SchemaTaken => State::SchemaTaken.into(),
            // The keeper has just created it.
            Failure::Unusable(Unusable::NoExtension) => State::NoExtension.into(),
            Failure::Unusable(Unusable::Changed(what)) => {
                Self::of(State::TableChanged, 0, what.to_line())
            }
            Failure::Failed(why) => Self::of(State::CannotReserve, 0, why),
        }
    }
}

/// How a state is logged: what is in order needs nobody.
const fn gravity(state: State) -> PgLogLevel {
    match state {
        State::LeaseClaimed | State::Drained => PgLogLevel::LOG,
        _ => PgLogLevel::WARNING,
    }
}

/// What is kept of a lease while it is held.
fn kept_of(held: &Held) -> KeptLease {
    KeptLease { nonce: held.nonce.clone(), until: held.until }
}

fn names(records: &[Record]) -> Vec<NodeName> {
    records.iter().map(|record| record.node.clone()).collect()
}

fn publish(status: &Status, report: &Report) {
    let until = status.held.as_ref().map_or(0, |held| held.until);
    report.lease_until.store(until, Ordering::Relaxed);
    let trouble = status.trouble.as_ref();
    report.set_trouble(trouble.map(|trouble| (trouble.since, lease::in_words(&trouble.error))));
}

/// Where the node's number comes from.
enum Source {
    Setting(Assigned),
    Registry(Asked),
}

/// Where the node's number comes from, by the settings; why there is none.
fn source(layout: &Layout) -> Result<Source, State> {
    let (worker_id, registry) = (settings::worker_id(), settings::registry());
    match (worker_id, &registry) {
        (Some(_), Some(_)) => return Err(State::TwoSources),
        (None, None) => return Err(State::NoWorkerId),
        _ => (),
    }
    let datacenter_id = settings::datacenter_id();
    if datacenter_id.is_none() && layout.bits(Field::Datacenter) > 0 {
        return Err(State::NoDatacenterId);
    }
    // A number for a field that the layout does not have is 0, and is not part of the id.
    let part = |field, id: Option<u32>| id.filter(|_| layout.bits(field) > 0);
    let datacenter_id = part(Field::Datacenter, datacenter_id);
    if let Some(registry) = registry {
        let worker_id = part(Field::Worker, Some(0));
        let base = layout.node(datacenter_id, worker_id).map_err(|_| State::NoDatacenterId)?;
        let (range, terms) = (settings::worker_id_range(layout), settings::terms());
        return Ok(Source::Registry(Asked { registry, range, base, terms }));
    }
    let number = Number { datacenter_id, worker_id: part(Field::Worker, worker_id) };
    // The check hooks refuse numbers that do not fit.
    let node = layout.node(number.datacenter_id, number.worker_id);
    let node = node.map_err(|_| State::NoWorkerId)?;
    Ok(Source::Setting(Assigned { number, node, held: None }))
}

/// A node's number in words.
struct Numbered(Number);

impl std::fmt::Display for Numbered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(datacenter_id) = self.0.datacenter_id {
            write!(f, "datacenter id {datacenter_id}, ")?;
        }
        write!(f, "worker id {}", self.0.worker_id.unwrap_or_default())
    }
}
