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
mod signals;

use crate::error::Error;
use crate::report::{Report, State, Verdict};
use crate::settings::{self, OnCopy};
use crate::shared::{Shared, shared};
use crate::status;
use crate::time::uptime;
use clock::Reading;
use high_water::{Failure, Home};
use once_cell::unsync::OnceCell;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;
use snowflake_core::window::{
    self, Beginning, Conflict, Identity, LayoutChanged, NodeName, Number, Record, Running,
};
use snowflake_core::{ClockWatch, Field, Layout, Lease};
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A keeper that ended is started again after this time.
const RESTART_TIME: Duration = Duration::from_secs(1);
/// The longest time between two attempts to connect.
const LONGEST_PAUSE: u32 = 10;
/// How often it looks while nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// How often it looks at most while there are no ids, however many ask.
const REFUSING: Duration = Duration::from_millis(100);

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
    high_water::connect(&settings::database());
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
    /// The lease that this process has opened.
    open: Option<Open>,
    /// What is to be opened.
    opening: Option<Opening>,
    /// The nodes whose records have been seen.
    known: Vec<NodeName>,
    /// The greatest end of a window that was written, or was tried to be.
    written: Cell<u64>,
    /// The last attempt to reserve failed, and is tried again whether anybody asks or not.
    failed: Cell<bool>,
    /// Why a changed number has to wait, as the log says.
    put_off: Option<State>,
    /// The node that has this node's number, as the log says.
    conflict: String,
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

#[derive(Clone, Copy)]
struct Open {
    number: Number,
    node: u64,
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
            open: None,
            opening: None,
            known: Vec::new(),
            written: Cell::new(0),
            failed: Cell::new(false),
            put_off: None,
            conflict: String::new(),
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
            report_clock(report, &reading);
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
            signals::rest(pause.at_least, pause.at_most);
        }
        self.close();
    }

    /// One look: opens or extends the window, and says when to look again; or why there are
    /// no ids.
    fn look(&mut self, reading: &Reading) -> Result<Pause, Verdict> {
        let (number, node) = match configured(self.layout) {
            Ok(configured) => configured,
            Err(state) => {
                self.opening = None;
                self.end_lease();
                return Err(state.into());
            }
        };
        let Some(open) = self.open else { return self.begin(number, node, reading) };
        self.check_clock(reading, &[])?;
        if open.number == number {
            self.opening = None;
            self.put_off = None;
            return self.extend(open, reading);
        }
        // The old number is used until the new one can be.
        let begun = self.begin(number, node, reading);
        if self.open.is_some_and(|open| open.number != number) {
            if let Err(verdict) = &begun {
                self.put_off(verdict);
            }
            self.extend(open, reading)?;
        }
        begun.or(Ok(Pause::unless_asked(IDLE)))
    }

    /// Opens the allocator for a number: at the start, and when it was changed. A number that is
    /// open already stays so until the new one is reserved.
    fn begin(&mut self, number: Number, node: u64, reading: &Reading) -> Result<Pause, Verdict> {
        let home = self.home()?.clone();
        let report = self.shared.report();
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
        self.check_clock(reading, &records)?;
        let (guard, max_ahead) = (settings::promotion_guard(), settings::max_ahead());
        let beginning = Beginning { since, max_ahead, guard, running: self.open.is_some() };
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
        let wanted = self.open.is_some() || self.is_asked() || self.failed.get();
        // Slot 0: nothing has been issued, and before the epoch calls wait for the clock themselves.
        let wait = match floor {
            0 => 0,
            floor => window::until(self.layout, reading.now, floor, max_ahead),
        };
        if wait > window::patience(self.layout, settings::reservation(), guard) {
            return Err(Verdict::of(State::ClockBehind, wait, ""));
        }
        if wait > 0 {
            if self.open.is_none() {
                let until = reading.now.saturating_add_unsigned(wait);
                report.set_verdict(&Verdict::of(State::Starting, until as u64, ""));
            }
            if let Some(opening) = self.opening.as_mut().filter(|_| wanted) {
                opening.records = Some(records);
            }
            return Ok(Pause::unless_asked(Duration::from_micros(wait).min(IDLE)));
        }
        if !wanted {
            self.say(&State::Ready.into());
            return Ok(Pause::up_to(IDLE));
        }
        let cursor = self.shared.allocator.position(self.layout).cursor.max(floor);
        let limit = self.reserve(number, node, cursor, 0, reading)?;
        self.shared.allocator.change_lease(self.layout, Lease { node, floor, limit });
        self.open = Some(Open { number, node, since: reading.now, cursor });
        self.opening = None;
        self.known = names(&records);
        self.say(&State::Ready.into());
        Ok(Pause::while_made())
    }

    /// Reserves more while ids are being made, or were asked for.
    fn extend(&mut self, open: Open, reading: &Reading) -> Result<Pause, Verdict> {
        let position = self.shared.allocator.position(self.layout);
        let reservation = settings::reservation();
        let remaining =
            window::remaining(self.layout, reading.now, position.cursor, position.limit);
        let asked = self.is_asked();
        let made = position.cursor != open.cursor;
        if (made || asked || self.failed.get()) && remaining < reservation / 2 {
            let mark = self.look_at_others(open)?;
            if mark > position.cursor {
                // It begins anew, above a record that has been restored.
                self.end_lease();
                return self.begin(open.number, open.node, reading);
            }
            let used = window::time_of_slot(self.layout, position.cursor)
                - window::time_of_slot(self.layout, open.cursor);
            let used = u64::try_from(used).unwrap_or(0);
            let limit = self.reserve(open.number, open.node, position.cursor, used, reading)?;
            self.shared.allocator.extend(self.layout, limit);
        }
        self.open = Some(Open { cursor: position.cursor, ..open });
        self.say(&State::Ready.into());
        Ok(if made || asked { Pause::while_made() } else { Pause::up_to(IDLE) })
    }

    /// Writes the record of a window that begins at `cursor`, and returns its end.
    fn reserve(
        &self,
        number: Number,
        node: u64,
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
        let end = end.max(self.shared.allocator.position(self.layout).limit);
        self.failed.set(true);
        self.write(number, node, end, reading)?;
        self.failed.set(false);
        Ok(end)
    }

    fn write(&self, number: Number, node: u64, end: u64, reading: &Reading) -> Result<(), Failure> {
        let (home, report) = (self.home()?, self.shared.report());
        let trusted = self.watch.map_or(reading.booted_at, |watch| watch.booted_at());
        report.writing_since.store(reading.now, Ordering::Relaxed);
        self.written.set(self.written.get().max(end));
        let written = high_water::write(&Record {
            node: home.name.clone(),
            reserved_until: self.layout.id(node, end),
            number,
            layout: self.layout.to_string(),
            epoch: self.layout.epoch(),
            timeline: home.timeline,
            updated_at: reading.now,
            boot_id: self.boot_id.clone(),
            booted_at: trusted,
            host: home.host.clone(),
            data_directory: home.data_directory.clone(),
        });
        report.writing_since.store(0, Ordering::Relaxed);
        written
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

    /// Whether the clock can be believed. The first look compares it with the record that this
    /// node wrote since the machine was started.
    fn check_clock(&mut self, reading: &Reading, records: &[Record]) -> Result<(), Verdict> {
        let watch = self.watch.get_or_insert_with(|| {
            let name = self.home.get().map(|home| &home.name);
            let own = records.iter().filter(|record| {
                Some(&record.node) == name
                    && record.boot_id == self.boot_id
                    && !self.boot_id.is_empty()
            });
            let trusted = own.map(|record| record.booted_at).max();
            ClockWatch::new(trusted.unwrap_or(reading.booted_at))
        });
        let report = self.shared.report();
        if report.take_accept_clock() {
            watch.accept(reading.booted_at);
        }
        let jump = watch.look(reading.booted_at, settings::max_clock_jump());
        report.clock_jump.store(jump.err().unwrap_or(0) as i64, Ordering::Relaxed);
        jump.map_err(|by| Verdict::of(State::ClockJumped, by, ""))?;
        let error = reading.error.max(0) as u64;
        if settings::max_clock_error().is_some_and(|max| error > max) {
            return Err(Verdict::of(State::ClockError, error, ""));
        }
        Ok(())
    }

    /// Other nodes' records can come while this one runs: by logical replication that of
    /// a node with the same number, with restored data an old one. The mark of the latter.
    fn look_at_others(&mut self, open: Open) -> Result<u64, Failure> {
        let home = self.home()?.clone();
        let identity = self.identity(&home, open.number);
        let records = high_water::read()?;
        // While another number is to be opened, it is that one's conflicts that matter.
        if self.opening.is_none() {
            self.warn(window::conflict(&records, &identity));
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
        let number = self.open.map(|open| open.number);
        let number = number.or(self.opening.as_ref().map(|opening| opening.number));
        let now = Some((verdict.state, verdict.text.clone(), number));
        if self.logged == now {
            return;
        }
        self.logged = now;
        match status::error_of(verdict.clone()) {
            Some(error) => error.report(PgLogLevel::WARNING, "snowflake_id: no ids: "),
            None => log!("snowflake_id: ids flow with {}", Numbered(number.unwrap_or_default())),
        }
    }

    /// Says, once, why a changed number is not used yet.
    fn put_off(&mut self, verdict: &Verdict) {
        if self.put_off.replace(verdict.state) == Some(verdict.state) {
            return;
        }
        if let Some(error) = status::error_of(verdict.clone()) {
            error.report(PgLogLevel::WARNING, "snowflake_id: the new worker id must wait: ");
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
    /// nothing.
    fn close(mut self) {
        self.shared.report().set_verdict(&State::Starting.into());
        let Some((open, end)) = self.end_lease() else { return };
        high_water::hurry();
        if let Err(failure) = self.write(open.number, open.node, end, &Reading::take()) {
            // The old record stands: the next start is as after a crash.
            let verdict = Verdict::from(failure);
            log!("snowflake_id: could not record the last id: {}", verdict.text);
        }
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoExtension => State::NoExtension.into(),
            Failure::Failed(why) => Self::of(State::CannotReserve, 0, why),
        }
    }
}

fn names(records: &[Record]) -> Vec<NodeName> {
    records.iter().map(|record| record.node.clone()).collect()
}

fn report_clock(report: &Report, reading: &Reading) {
    report.clock_error.store(reading.error, Ordering::Relaxed);
    report.clock_offset.store(reading.offset, Ordering::Relaxed);
    report.clock_synchronized.store(reading.synchronized, Ordering::Relaxed);
}

/// The node's number that is configured, in its two parts and as one; why there is none.
fn configured(layout: &Layout) -> Result<(Number, u64), State> {
    let worker_id = settings::worker_id().ok_or(State::NoWorkerId)?;
    let datacenter_id = settings::datacenter_id();
    if datacenter_id.is_none() && layout.bits(Field::Datacenter) > 0 {
        return Err(State::NoDatacenterId);
    }
    // A number for a field that the layout does not have is 0, and is not part of the id.
    let part = |field, id: Option<u32>| id.filter(|_| layout.bits(field) > 0);
    let number = Number {
        datacenter_id: part(Field::Datacenter, datacenter_id),
        worker_id: part(Field::Worker, Some(worker_id)),
    };
    // The check hooks refuse numbers that do not fit.
    let node = layout.node(number.datacenter_id, number.worker_id);
    node.map(|node| (number, node)).map_err(|_| State::NoWorkerId)
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
