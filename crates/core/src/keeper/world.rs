//! What the keeper sees, and what it can do: the server that it runs in, or one that a test
//! simulates.

use super::verdict::{State, Verdict};
use crate::allocator::Allocator;
use crate::tenancy::{Asked, Held, KeptLease, LeaseStatus, Now, Terms, Trouble};
use crate::window::{Conflict, NodeName, Number, Record};
use std::future::Future;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The settings as they stand at the beginning of a look. All times in microseconds.
#[derive(Clone)]
pub struct Settings {
    /// The worker id, where it is set by hand.
    pub worker_id: Option<u32>,
    /// The datacenter id, where it is set.
    pub datacenter_id: Option<u32>,
    /// The registry's address, where the worker id is leased.
    pub registry: Option<String>,
    /// The worker ids that may be leased.
    pub range: RangeInclusive<u64>,
    /// The terms of a lease.
    pub terms: Terms,
    /// The length of a window.
    pub reservation: u64,
    /// How far ids may run ahead of the clock.
    pub max_ahead: u64,
    /// How long a call waits for a clock that is behind the ids.
    pub max_wait: u64,
    /// How far beyond the clock a promoted standby begins.
    pub promotion_guard: u64,
    /// The greatest jump of the clock forward that is believed.
    pub max_clock_jump: Option<u64>,
    /// The greatest error of the clock with which ids are issued.
    pub max_clock_error: Option<u64>,
    /// Whether a data directory that may be the copy of a running node's issues no ids.
    pub refuse_copy: bool,
}

/// One look at the clocks. All in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The wall clock, since 1970.
    pub now: i64,
    /// When the machine was started, by the wall clock. It changes when that is set.
    pub booted_at: i64,
    /// What the kernel says of the wall clock; `None` where it may not be asked.
    pub estimate: Option<Estimate>,
}

/// What the kernel says of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// How wrong it can be, in microseconds.
    pub error: i64,
    /// What the kernel is still correcting, little by little; in microseconds.
    pub offset: i64,
    /// Whether a time daemon keeps it.
    pub synchronized: bool,
}

impl Reading {
    /// How long the machine has been running.
    pub const fn uptime(&self) -> i64 {
        self.now.saturating_sub(self.booted_at)
    }
}

/// The node's name, and where it is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Who it is.
    pub name: NodeName,
    /// Its machine's name.
    pub host: String,
    /// Its path there.
    pub data_directory: String,
    /// The cluster's timeline.
    pub timeline: u32,
}

/// Why the records could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The extension could not be created, by the server's error.
    NoExtension(String),
    /// Somebody else has made the extension's schema.
    SchemaTaken,
    /// A table of the extension was changed, in these words, and is not used.
    TableChanged(String),
    /// The server's error.
    Failed(String),
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoExtension(why) => Self::of(State::NoExtension, 0, why),
            Failure::SchemaTaken => State::SchemaTaken.into(),
            Failure::TableChanged(what) => Self::of(State::TableChanged, 0, what),
            Failure::Failed(why) => Self::of(State::CannotReserve, 0, why),
        }
    }
}

/// What an administrator wants of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// To trust the clock as it stands, though it jumped.
    AcceptClock,
    /// To issue no ids until it is told otherwise.
    Drain,
    /// To issue ids again.
    Resume,
    /// To give the leased worker id back, and have another one leased.
    Exchange,
    /// To issue no id at or below this one.
    SetFloor(i64),
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out, and written down where that is needed.
    Done,
    /// There was nothing to do.
    Nothing,
    /// It could not be done now; the verdict of the look says why. It is not done later.
    Refused,
}

/// What is worth a line in the log.
#[derive(Clone, Debug)]
pub enum Notice<'a> {
    /// Ids flow, with this number.
    Ready(Number),
    /// There are no ids.
    Stopped(&'a Verdict),
    /// Where the worker id comes from, the settings no longer say: the node goes on by those before.
    SettingsNotUsed(&'a Verdict),
    /// A changed worker id cannot be used yet.
    NewWorkerIdWaits(&'a Verdict),
    /// Another node's record has this node's number.
    WorkerIdInUse(Conflict<'a>),
    /// Another node uses this node's leased number.
    WorkerIdLost {
        /// Which one, and where it is.
        to: String,
        /// Whether it has this node's name.
        same: bool,
    },
    /// Ids flow by a lease that the registry has not renewed for some heartbeats.
    LeaseNotRenewed {
        /// What is the matter with the registry.
        trouble: &'a Trouble,
        /// When the lease ends: the wall clock.
        until: i64,
    },
    /// It is renewed again.
    LeaseRenewed,
    /// At the end: the mark could not be lowered to the last id.
    LastIdNotRecorded(&'a Verdict),
    /// At the end: the lease could not be given back.
    LeaseNotGivenBack(&'a str),
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Windows that were reserved.
    Windows,
    /// Heartbeats that the registry answered,
    LeaseRenewals,
    /// and calls that it did not.
    LeaseFailures,
    /// Jumps of the clock that were not believed.
    ClockJumps,
    /// Changes of the worker id.
    WorkerIdChanges,
}

/// What the keeper shows of the node.
#[derive(Clone, Debug)]
pub enum Shown<'a> {
    /// Who it is.
    Home(&'a Home),
    /// How things stand.
    Verdict(&'a Verdict),
    /// Another node whose record has this node's number; empty where there is none.
    Conflict(&'a str),
    /// The number that ids are issued with, or will be when they are asked for.
    Assigned(u64),
    /// How the lease stands.
    Lease(&'a LeaseStatus),
    /// How far the clock stands ahead of where it is trusted to stand.
    ClockJump(u64),
}

/// The server around the keeper.
///
/// What can take its time is asynchronous: a test may stop the keeper there, for ever. In the
/// server itself nothing ever waits in that sense, and a call returns when it is done.
pub trait World {
    /// The allocator, which the keeper alone opens.
    fn allocator(&self) -> &Allocator;

    /// The settings, as of now.
    fn settings(&self) -> Settings;

    /// Who the node is.
    fn home(&mut self) -> impl Future<Output = Result<Home, Failure>>;

    /// All records that there are here, whoever wrote them.
    fn records(&mut self) -> impl Future<Output = Result<Vec<Record>, Failure>>;

    /// Writes the node's own record. Where it returns well, that outlasts any crash and, where
    /// the cluster replicates synchronously, is on the standbys.
    fn write(&mut self, record: &Record) -> impl Future<Output = Result<(), Failure>>;

    /// Changes nothing of a node's own record but these, and says whether there was one.
    fn amend(
        &mut self,
        node: &NodeName,
        lease: Option<&KeptLease>,
        drained: bool,
    ) -> impl Future<Output = Result<bool, Failure>>;

    /// From now on the server is stopping: what is written must not hold it up.
    fn hurry(&mut self);

    /// Whether a backend waits for the present look.
    fn is_asked(&self) -> bool;

    /// What an administrator wants, if it has not been taken yet,
    fn take_order(&mut self) -> Option<Order>;

    /// and what became of it.
    fn answer_order(&mut self, outcome: Outcome);

    /// The time by which the lease may be renewed; none while it is not to be trusted.
    fn trust(&mut self, now: Option<Now>);

    /// How the lease stands that the settings want. They may have changed: then the number is
    /// taken up again by its new settings, or exchanged for another one. `kept` is what is on disk of
    /// the last one; `remembers`, whether the marks there tell what was issued.
    fn follow(
        &mut self,
        asked: &Asked,
        home: &Home,
        kept: Option<&KeptLease>,
        remembers: bool,
    ) -> Result<LeaseStatus, String>;

    /// How the lease stands.
    fn lease(&self) -> LeaseStatus;

    /// Gives the number back and takes another one.
    fn another(&mut self, last: i64);

    /// Gives a number back that is no longer used, be it that of earlier settings.
    fn give_back(&mut self, held: &Held, last: i64);

    /// There is nothing to hold any more.
    fn let_go(&mut self);

    /// At the end: gives a lease back. Nobody takes the number before `until`. Waits for so long at
    /// most.
    fn release(
        &mut self,
        held: &Held,
        until: i64,
        at_most: Duration,
    ) -> impl Future<Output = Result<(), String>>;

    /// Shows something of the node to whoever asks.
    fn show(&mut self, what: Shown<'_>);

    /// Puts a line into the log.
    fn log(&mut self, notice: Notice<'_>);

    /// Counts.
    fn count(&mut self, what: Counted, by: u64);
}
