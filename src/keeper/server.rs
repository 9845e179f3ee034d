//! The server as the keeper sees it: what `snowflake_core::keeper` decides by, and acts through.

use super::starter::Starter;
use super::{high_water, home, signals};
use crate::encoding;
use crate::error::Error;
use crate::report::Report;
use crate::settings::{self, OnCopy};
use crate::shared::Shared;
use crate::statistics::Counter;
use crate::status;
use crate::time::{WallClock, uptime};
use pgrx::prelude::*;
use snowflake_core::keeper::{
    Counted, Failure, Home, Notice, Order, Outcome, Settings, Shown, State, Verdict, World,
};
use snowflake_core::tenancy::{Asked, Held, KeptLease, LeaseStatus, Now};
use snowflake_core::window::{Conflict, NodeName, Number, Record};
use snowflake_core::{Allocator, Clock, Layout};
use snowflake_registry::Lessee;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) struct Server {
    shared: &'static Shared,
    layout: &'static Layout,
    lessee: Lessee<Starter>,
}

impl Server {
    pub(super) fn new(shared: &'static Shared, layout: &'static Layout) -> Self {
        Self { shared, layout, lessee: Lessee::new(Starter) }
    }

    fn report(&self) -> &'static Report {
        self.shared.report()
    }
}

impl World for Server {
    fn allocator(&self) -> &Allocator {
        &self.shared.allocator
    }

    fn settings(&self) -> Settings {
        Settings {
            worker_id: settings::worker_id(),
            datacenter_id: settings::datacenter_id(),
            registry: settings::registry(),
            range: settings::worker_id_range(self.layout),
            terms: settings::terms(),
            reservation: settings::reservation(),
            max_ahead: settings::max_ahead(),
            max_wait: settings::max_wait().as_micros() as u64,
            promotion_guard: settings::promotion_guard(),
            max_clock_jump: settings::max_clock_jump(),
            max_clock_error: settings::max_clock_error(),
            refuse_copy: settings::on_copy() == OnCopy::Refuse,
        }
    }

    async fn home(&mut self) -> Result<Home, Failure> {
        Ok(home::find()?)
    }

    async fn records(&mut self) -> Result<Vec<Record>, Failure> {
        Ok(high_water::read()?)
    }

    async fn write(&mut self, record: &Record) -> Result<(), Failure> {
        let (report, begun) = (self.report(), uptime());
        report.writing_since.store(WallClock.now(), Ordering::Relaxed);
        let written = high_water::write(record);
        report.writing_since.store(0, Ordering::Relaxed);
        if written.is_ok() {
            let micros = u64::try_from(uptime() - begun).unwrap_or(0);
            self.shared.count(Counter::WindowTime, micros);
        }
        Ok(written?)
    }

    async fn amend(
        &mut self,
        node: &NodeName,
        lease: Option<&KeptLease>,
        drained: bool,
    ) -> Result<bool, Failure> {
        Ok(high_water::amend(node, lease, drained)?)
    }

    fn hurry(&mut self) {
        signals::close();
        high_water::hurry();
    }

    fn is_asked(&self) -> bool {
        let report = self.report();
        !report.is_answered(report.asked())
    }

    fn take_order(&mut self) -> Option<Order> {
        self.report().orders.take()
    }

    fn answer_order(&mut self, outcome: Outcome) {
        self.report().orders.answer(outcome);
    }

    fn trust(&mut self, now: Option<Now>) {
        self.lessee.trust(now);
    }

    fn follow(
        &mut self,
        asked: &Asked,
        home: &Home,
        kept: Option<&KeptLease>,
        remembers: bool,
    ) -> Result<LeaseStatus, String> {
        self.lessee.follow(asked, home, self.layout, kept, remembers)
    }

    fn lease(&self) -> LeaseStatus {
        self.lessee.status()
    }

    fn another(&mut self, last: i64) {
        self.lessee.another(last);
    }

    fn give_back(&mut self, held: &Held, last: i64) {
        self.lessee.give_back(held, last);
    }

    fn let_go(&mut self) {
        self.lessee.let_go();
    }

    async fn release(&mut self, held: &Held, until: i64, at_most: Duration) -> Result<(), String> {
        self.lessee.release(held, until, at_most)
    }

    fn show(&mut self, what: Shown<'_>) {
        let report = self.report();
        match what {
            Shown::Home(home) => {
                report.set_node(&home.name.to_string());
                report.timeline.store(home.timeline, Ordering::Relaxed);
            }
            // A look that was interrupted by the end found nothing worth saying.
            Shown::Verdict(verdict) if signals::stop_requested() && is_bad(verdict) => (),
            Shown::Verdict(verdict) => {
                report.set_verdict(verdict);
                if is_failure(verdict) {
                    report.set_last_failure(WallClock.now(), verdict);
                }
            }
            Shown::Conflict(node) => report.set_conflict(node),
            Shown::Assigned(node) => report.assigned.store(node.cast_signed(), Ordering::Relaxed),
            Shown::Lease(status) => {
                let until = status.held.as_ref().map_or(0, |held| held.until);
                report.lease_until.store(until, Ordering::Relaxed);
                let trouble = status.trouble.as_ref();
                report.set_trouble(trouble.map(|trouble| (trouble.since, trouble.why.clone())));
            }
            Shown::ClockJump(by) => report.clock_jump.store(by as i64, Ordering::Relaxed),
        }
    }

    fn log(&mut self, notice: Notice<'_>) {
        match notice {
            Notice::Ready(number) => say(&format!("ids flow with {}", Numbered(number))),
            Notice::Stopped(_) if signals::stop_requested() => (),
            Notice::Stopped(verdict) => report(verdict, "snowflake_id: no ids: "),
            Notice::SettingsNotUsed(verdict) => {
                report(verdict, "snowflake_id: the node goes on as it was: ");
            }
            Notice::NewWorkerIdWaits(verdict) => {
                report(verdict, "snowflake_id: the new worker id must wait: ");
            }
            Notice::WorkerIdInUse(Conflict { record, copy }) => {
                // Where it is, is for the log only: not everybody may know that.
                Error::WorkerIdInUse {
                    by: record.node.to_string(),
                    place: format!("{}:{}", record.host, record.data_directory),
                    copy,
                    updated_at: record.updated_at,
                }
                .report(PgLogLevel::WARNING, "snowflake_id: ");
            }
            Notice::WorkerIdLost { to, same } => {
                Error::WorkerIdLost { to, same }.report(PgLogLevel::WARNING, "snowflake_id: ");
            }
            Notice::LeaseNotRenewed { trouble, until } => {
                let (why, since) = (trouble.why.clone(), trouble.since);
                Error::LeaseNotRenewed { why, since, until }
                    .report(PgLogLevel::WARNING, "snowflake_id: ");
            }
            Notice::LeaseRenewed => say("the lease is renewed again"),
            Notice::LastIdNotRecorded(verdict) => {
                say(&format!("could not record the last id: {}", verdict.text));
            }
            Notice::LeaseNotGivenBack(why) => {
                say(&format!("the lease was not given back, and ends by itself: {why}"));
            }
        }
    }

    fn count(&mut self, what: Counted, by: u64) {
        let counter = match what {
            Counted::Windows => Counter::Windows,
            Counted::LeaseRenewals => Counter::LeaseRenewals,
            Counted::LeaseFailures => Counter::LeaseFailures,
            Counted::ClockJumps => Counter::ClockForward,
            Counted::WorkerIdChanges => Counter::WorkerIdChanges,
        };
        self.shared.count(counter, by);
    }
}

/// A line in the log that asks for nothing.
fn say(text: &str) {
    encoding::say(PgLogLevel::LOG, &format!("snowflake_id: {text}"));
}

/// Whether it says that there are no ids.
const fn is_bad(verdict: &Verdict) -> bool {
    !matches!(verdict.state, State::Starting | State::Ready)
}

/// Whether it needs somebody: not where the node waits in due course, or as it was told to.
const fn is_failure(verdict: &Verdict) -> bool {
    is_bad(verdict) && !matches!(verdict.state, State::LeaseClaimed | State::Drained)
}

/// Puts a verdict into the log.
fn report(verdict: &Verdict, prefix: &str) {
    let level = if is_failure(verdict) { PgLogLevel::WARNING } else { PgLogLevel::LOG };
    if let Some(error) = status::error_of(verdict.clone(), WallClock.now()) {
        error.report(level, prefix);
    }
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
