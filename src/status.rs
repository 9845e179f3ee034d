//! Whether ids can be had, and why not, in words: for errors and for `snowflake_status`.

use crate::error::{Error, Keeper};
use crate::report::{Report, State, Ticket, Verdict};
use crate::settings;
use crate::shared::{Shared, shared};
use crate::tables::Changed;
use crate::time::{WallClock, uptime};
use crate::wait::{WaitEvent, wait};
use pgrx::pg_sys;
use snowflake_core::window::time_of_slot;
use snowflake_core::{Clock, Layout};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the keeper may take to answer: longer than it takes to start, and than a commit
/// takes, also on a loaded machine.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a backend looks whether it has. Microseconds.
const LOOK: u64 = 1000;

/// Whether the server is a standby, or not yet through with its recovery.
pub(crate) fn in_recovery() -> bool {
    // SAFETY: no arguments; it reads a flag in shared memory.
    #[allow(unsafe_code)]
    unsafe {
        pg_sys::RecoveryInProgress()
    }
}

/// A backend that found no window asks the keeper for one.
pub(crate) struct Question {
    shared: &'static Shared,
    ticket: Ticket,
    since: Instant,
}

impl Question {
    pub(crate) fn ask(shared: &'static Shared) -> Self {
        let ticket = shared.report().ask();
        shared.wake_keeper();
        Self { shared, ticket, since: Instant::now() }
    }

    /// Waits a moment for the answer; the caller then tries again. An error where there is no
    /// window to be had, by a look that the keeper took after the question, or where it has
    /// taken too long.
    pub(crate) fn wait(&mut self) -> Result<(), Error> {
        if in_recovery() {
            return Err(Error::Standby);
        }
        let report = self.shared.report();
        let answered = report.is_answered(self.ticket);
        // A keeper without a database cannot answer: PostgreSQL starts it ever again.
        let decided = answered || report.verdict().state == State::NoDatabase;
        // Whether the clock is too far behind, is for the claim to say: there is a window.
        let open = report.verdict().state == State::ClockFellBehind;
        if let Some(error) = why_not(report).filter(|_| decided && !open) {
            return Err(error);
        }
        if self.since.elapsed() > KEEPER_TIMEOUT {
            return Err(Error::KeeperNotReady { keeper: keeper(report) });
        }
        if answered {
            // There was a window, and others have used it up.
            self.ticket = report.ask();
            self.shared.wake_keeper();
        }
        wait(LOOK, WaitEvent::Keeper);
        Ok(())
    }

    /// Whether the keeper may still take its time.
    pub(crate) fn is_in_time(&self) -> bool {
        self.since.elapsed() < KEEPER_TIMEOUT
    }

    /// Asks once more.
    pub(crate) fn again(&mut self) {
        self.ticket = self.shared.report().ask();
        self.shared.wake_keeper();
        self.rest();
    }

    /// Waits a moment.
    pub(crate) fn rest(&self) {
        wait(LOOK, WaitEvent::Keeper);
    }
}

/// Why the keeper makes no windows; `None` where it does or is about to.
fn why_not(report: &Report) -> Option<Error> {
    error_of(report.verdict(), WallClock.now())
}

/// A verdict of a moment in words; `None` for one by which ids flow, or are about to.
pub(crate) fn error_of(verdict: Verdict, now: i64) -> Option<Error> {
    let layout = || settings::layout().copied();
    let by = verdict.micros;
    let error = match verdict.state {
        State::Starting | State::Ready => return None,
        State::NoWorkerId => layout().map(|layout| Error::NoWorkerId { layout }),
        State::NoDatacenterId => layout().map(|layout| Error::NoDatacenterId { layout }),
        State::NoDatabase => Ok(Error::NoDatabase { database: settings::database() }),
        State::NoExtension => {
            Ok(Error::NoExtension { database: settings::database(), why: verdict.text })
        }
        State::SchemaTaken => Ok(Error::SchemaTaken { database: settings::database() }),
        State::TableChanged => {
            Ok(Error::TableChanged { what: Changed::of_line(&verdict.text), by_keeper: true })
        }
        State::CannotReserve => Ok(Error::CannotReserve { why: verdict.text }),
        State::ClockBehind => Ok(Error::ClockBehindRecord { by, now }),
        State::ClockFellBehind => {
            Ok(Error::ClockBehind { by, now, max_wait: settings::max_wait() })
        }
        State::ClockJumped => {
            let max = settings::max_clock_jump().unwrap_or(0);
            Ok(Error::ClockJumped { by, now, max })
        }
        State::ClockError => {
            let max = settings::max_clock_error().unwrap_or(0);
            Ok(Error::ClockUncertain { error: by, max })
        }
        State::ClockUnknown => {
            let max = settings::max_clock_error().unwrap_or(0);
            Ok(Error::ClockUnknown { max })
        }
        State::LayoutChanged => {
            let was = verdict.text;
            layout().map(|layout| Error::LayoutChanged { was, epoch: by as i64, layout })
        }
        State::Copy => Ok(Error::Copy { of: verdict.text }),
        State::TwoSources => Ok(Error::TwoSources),
        State::NoLease => Ok(Error::NoLease { why: verdict.text }),
        State::LeaseClaimed => Ok(Error::LeaseClaimed { number: verdict.text, until: by as i64 }),
        State::LeaseEnded => Ok(Error::LeaseEnded { at: by as i64, why: verdict.text }),
        State::Drained => Ok(Error::Drained),
        State::TimeExhausted => layout().map(|layout| Error::TimeExhausted { layout }),
    };
    Some(error.unwrap_or_else(|error| error))
}

/// What a keeper does that gives no answer.
pub(crate) fn keeper(report: &Report) -> Keeper {
    let pid = report.pid.load(Ordering::Relaxed);
    let verdict = report.verdict();
    match report.writing_since.load(Ordering::Relaxed) {
        _ if pid == 0 => Keeper::Missing,
        0 if verdict.state == State::Starting && verdict.micros > 0 => {
            Keeper::Waiting { until: verdict.micros as i64 }
        }
        0 => Keeper::Silent { pid },
        since => Keeper::Writing { pid, since },
    }
}

/// The word for what is the matter, and the error that a call would get now; without it, ids
/// flow or are about to. It neither waits nor asks the keeper.
pub(crate) fn now() -> (&'static str, Option<Error>) {
    let Some(shared) = shared() else { return ("not_preloaded", Some(Error::NotPreloaded)) };
    if in_recovery() {
        return ("standby", Some(Error::Standby));
    }
    let layout = match settings::layout() {
        Ok(layout) => layout,
        Err(error) => return ("bad_setting", Some(error)),
    };
    let report = shared.report();
    if let Some(error) = why_not(report) {
        return (report.verdict().state.word(), Some(error));
    }
    if layout.tick_at(WallClock.now()) == Err(snowflake_core::TimeError::AfterEnd) {
        return ("time_exhausted", Some(Error::TimeExhausted { layout: *layout }));
    }
    let state = report.verdict().state;
    match keeper(report) {
        keeper @ Keeper::Missing => return (state.word(), Some(Error::KeeperNotReady { keeper })),
        keeper if !is_alert(report) => {
            return ("keeper_stuck", Some(Error::KeeperNotReady { keeper }));
        }
        _ => (),
    }
    (state.word(), None)
}

/// Whether the keeper has looked lately; it does so once a second at least.
pub(crate) fn is_alert(report: &Report) -> bool {
    uptime() - report.heartbeat.load(Ordering::Relaxed) <= KEEPER_TIMEOUT.as_micros() as i64
}

/// Where the node's ids stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    /// The number that they are made with; none where there is no window.
    pub(crate) node: Option<u64>,
    /// The time of the next one, microseconds since 1970, if the clock has not passed it.
    pub(crate) issued: Option<i64>,
    /// The end of the window.
    pub(crate) reserved: Option<i64>,
}

impl Ends {
    pub(crate) fn of(shared: &Shared, layout: &Layout) -> Self {
        let position = shared.allocator.position(layout);
        let time = |slot| Some(time_of_slot(layout, slot)).filter(|_| slot > 0);
        Self {
            node: Some(position.node).filter(|_| position.limit > 0),
            issued: time(position.cursor),
            reserved: time(position.limit),
        }
    }
}
