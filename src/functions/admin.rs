//! The keeper seen from SQL: how the node stands, and what it can be told to do.

use crate::encoding::Text;
use crate::error::{Error, OrRaise};
use crate::report::Report;
use crate::rights::refuse_database_owner;
use crate::row::{Row, by_name};
use crate::settings;
use crate::shared::{Shared, shared};
use crate::status::{self, Question};
use crate::time::{WallClock, from_unix};
use pgrx::datum::Interval;
use pgrx::prelude::*;
use snowflake_core::keeper::{Order, Outcome};
use snowflake_core::orders::{Given, Orders};
use snowflake_core::window::floor;
use snowflake_core::{Clock, Field};
use std::sync::atomic::Ordering;

/// How far ahead of the clock a floor may be where `snowflake_id.max_clock_jump` is off: a day, in
/// microseconds.
const MAX_FLOOR: u64 = 86_400_000_000;

#[pg_extern(sql = false)]
fn snowflake_node(fcinfo: pg_sys::FunctionCallInfo) -> SetOfIterator<'static, Row> {
    let (state, error) = status::now();
    let (reason, hint) = error.map(|error| error.in_words()).unzip();
    // What the keeper said last holds only where it runs.
    let shared = shared().filter(|_| !status::in_recovery());
    let report = shared.map(Shared::report);
    let looked = report.filter(|report| report.looked_at.load(Ordering::Relaxed) != 0);
    let trouble = report.and_then(Report::trouble);
    let failure = report.and_then(Report::last_failure);
    let estimate = report.and_then(Report::estimate);

    let layout = settings::layout().ok();
    let position = shared.zip(layout).map(|(shared, layout)| status::Ends::of(shared, layout));
    let position = position.unwrap_or_default();
    // Before the first window it is the number that there will be.
    let assigned = report.map(|report| report.assigned.load(Ordering::Relaxed).cast_unsigned());
    let node = position.node.or(assigned.filter(|_| state == "ready"));

    let text = |text: String| Some(Text(text)).filter(|text| !text.is_empty()).into_datum();
    let time = |micros: i64| from_unix(micros).ok().filter(|_| micros != 0).into_datum();
    let interval = |micros: i64| Interval::new(0, 0, micros).ok().into_datum();
    let number = |field| i32::try_from(layout?.number_in(field, node?)?).ok().into_datum();
    let row = by_name(fcinfo, |name| match name {
        "state" => state.into_datum(),
        "reason" => text(reason.clone()?),
        "hint" => text(hint.clone()?),
        "last_error" => {
            let (at, verdict) = failure.clone()?;
            text(status::error_of(verdict, at)?.in_words().0)
        }
        "last_error_at" => time(failure.as_ref()?.0),
        "worker_id" => number(Field::Worker),
        "datacenter_id" => number(Field::Datacenter),
        "leased_until" => time(report?.lease_until.load(Ordering::Relaxed)),
        "registry_trouble" => text(trouble.clone()?.1),
        "registry_trouble_since" => time(trouble.as_ref()?.0),
        "node" => text(report?.node()),
        "conflict" => text(report?.conflict()),
        "issued_until" => time(position.issued?),
        "reserved_until" => time(position.reserved?),
        "clock" => time(WallClock.now()),
        "clock_jump" => interval(looked?.clock_jump.load(Ordering::Relaxed)),
        "clock_error" => interval(estimate?.error),
        "clock_offset" => interval(estimate?.offset),
        "clock_synchronized" => estimate?.synchronized.into_datum(),
        "database" => text(settings::database()),
        "timeline" => looked?.timeline.load(Ordering::Relaxed).cast_signed().into_datum(),
        "keeper_pid" => {
            Some(report?.pid.load(Ordering::Relaxed)).filter(|&pid| pid != 0).into_datum()
        }
        "keeper_looked_at" => time(report?.looked_at.load(Ordering::Relaxed)),
        "keeper_writing_since" => time(report?.writing_since.load(Ordering::Relaxed)),
        _ => None,
    });
    SetOfIterator::once(row)
}

/// The keeper's part of shared memory, where there is a keeper.
fn keeper() -> &'static Shared {
    let shared = shared().ok_or(Error::NotPreloaded).or_raise();
    if status::in_recovery() {
        Error::Standby.raise();
    }
    shared
}

#[pg_extern(sql = false)]
fn snowflake_accept_clock(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    refuse_database_owner(fcinfo);
    order(keeper(), Order::AcceptClock) == Outcome::Done
}

#[pg_extern(sql = false)]
fn snowflake_drain(fcinfo: pg_sys::FunctionCallInfo) {
    refuse_database_owner(fcinfo);
    order(keeper(), Order::Drain);
}

#[pg_extern(sql = false)]
fn snowflake_resume(fcinfo: pg_sys::FunctionCallInfo) {
    refuse_database_owner(fcinfo);
    order(keeper(), Order::Resume);
}

#[pg_extern(sql = false)]
fn snowflake_set_floor(
    id: Option<i64>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<TimestampWithTimeZone> {
    refuse_database_owner(fcinfo);
    let id = id?;
    let shared = keeper();
    let layout = settings::layout().or_raise();
    // Where no jump is too great, a floor is: it cannot be taken back.
    let max = settings::max_clock_jump().unwrap_or(MAX_FLOOR);
    let too_far = |ahead| Error::FloorTooFar { id, ahead, max, layout: *layout };
    let from = floor(layout, id, WallClock.now(), max).map_err(too_far).or_raise();
    order(shared, Order::SetFloor(id));
    Some(from_unix(from).map_err(|_| Error::NotATimestamp).or_raise())
}

/// Has the keeper do something; an error where it cannot, with the reason.
fn order(shared: &'static Shared, order: Order) -> Outcome {
    let orders = &shared.report().orders;
    let mut question = Question::ask(shared);
    let given = loop {
        match orders.give(order) {
            Some(given) => break given,
            // Another one is being carried out.
            None if question.is_in_time() => question.again(),
            None => not_done(shared),
        }
    };
    let waiting = Waiting::new(orders, given);
    question.again();
    loop {
        match orders.outcome(given) {
            Some(Outcome::Refused) => not_done(shared),
            Some(outcome) => return outcome,
            None if question.is_in_time() => question.rest(),
            // What the keeper has not begun, it never will.
            None if waiting.take_back() => not_done(shared),
            None => return orders.outcome(given).unwrap_or_else(|| not_done(shared)),
        }
    }
}

/// Waits for an order to be carried out. Whoever does so no longer, be it that the statement was
/// cancelled or the session terminated, takes it back: nobody would know of what is done later.
struct Waiting {
    orders: &'static Orders,
    given: Given,
}

impl Waiting {
    fn new(orders: &'static Orders, given: Given) -> Self {
        // SAFETY: the function and its argument are those that `drop` takes off again; it is called in
        // this process, before it lets go of shared memory.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::before_shmem_exit(Some(end_waiting), given.into_word().into());
        }
        Self { orders, given }
    }

    /// Whether the keeper has not begun with it, and never will.
    fn take_back(&self) -> bool {
        self.orders.take_back(self.given)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.take_back();
        // SAFETY: what `new` has registered, and nothing has been since.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::cancel_before_shmem_exit(Some(end_waiting), self.given.into_word().into());
        }
    }
}

/// The end of a session that waits: it unwinds nothing.
#[allow(unsafe_code)]
unsafe extern "C-unwind" fn end_waiting(_code: core::ffi::c_int, given: pg_sys::Datum) {
    if let Some(shared) = shared() {
        shared.report().orders.take_back(Given::from_word(given.value() as u64));
    }
}

/// Why the keeper has not done it.
fn not_done(shared: &'static Shared) -> ! {
    let keeper = || Error::KeeperNotReady { keeper: status::keeper(shared.report()) };
    status::now().1.unwrap_or_else(keeper).raise()
}

#[pg_extern(sql = false)]
fn snowflake_release_worker_id(fcinfo: pg_sys::FunctionCallInfo) {
    refuse_database_owner(fcinfo);
    let shared = keeper();
    match (settings::registry(), settings::worker_id()) {
        (None, _) => Error::NotLeased.raise(),
        (Some(_), Some(_)) => Error::TwoSources.raise(),
        (Some(_), None) => (),
    }
    order(shared, Order::Exchange);
}

/// For the installation script: says what is still missing for ids, as far as is known.
#[pg_extern(sql = false)]
fn snowflake_check_keeper() {
    if shared().is_none() {
        return Error::NotPreloaded.report(PgLogLevel::WARNING, "");
    }
    if status::in_recovery() {
        return;
    }
    // By the keeper's last look. Whoever asked it for another one would have it reserve ids, and
    // CREATE EXTENSION may be a part of a dump whose record is still to come.
    if let ("no_extension" | "no_database" | "schema_taken" | "table_changed", Some(error)) =
        status::now()
    {
        error.report(PgLogLevel::WARNING, "snowflake ids cannot be generated yet: ");
    }
}
