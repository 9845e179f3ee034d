//! Every error a user can meet: SQLSTATE, message, detail and hint, and as what it is counted, in one
//! arm of one table.
//!
//! The message says what was refused and names the value; the detail measures; the
//! hint is what to do, as the statement to run where there is one.

use crate::audit::Hidden;
use crate::encoding;
use crate::settings::{self, MAX_BATCH_LIMIT};
use crate::statistics::Counter;
use crate::tables::{Changed, EXTENSION, Unusable};
use crate::time::shown;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::spi::quote_identifier;
use pgrx::{PgLogLevel, PgSqlErrorCode as Sqlstate, pg_sys};
use snowflake_core::layout::MAX_BITS;
use snowflake_core::text::{BASE32_LENGTH, BASE62_MAX_LENGTH};
use snowflake_core::{Field, FieldError, Layout, LayoutError, TextError};
use snowflake_migration::Step;
use std::time::Duration;

/// An error with the facts that its text needs.
#[derive(Clone, Debug)]
pub(crate) enum Error {
    // The node
    NotPreloaded,
    NoWorkerId { layout: Layout },
    NoDatacenterId { layout: Layout },
    Standby,
    KeeperNotReady { keeper: Keeper },
    NoDatabase { database: String },
    NoExtension { database: String, why: String },
    SchemaTaken { database: String },
    TableChanged { what: Changed, by_keeper: bool },
    NoNodeExtension,
    MayNotCall { function: String },
    CannotReserve { why: String },
    LayoutChanged { was: String, epoch: i64, layout: Layout },
    Copy { of: String },
    WorkerIdInUse { by: String, place: String, copy: bool, updated_at: i64 },
    TwoSources,
    NoLease { why: String },
    LeaseClaimed { number: String, until: i64 },
    LeaseNotRenewed { why: String, since: i64, until: i64 },
    LeaseEnded { at: i64, why: String },
    WorkerIdLost { to: String, same: bool },
    NotLeased,
    Drained,
    ClockBehindRecord { by: u64, now: i64 },
    ClockJumped { by: u64, now: i64, max: u64 },
    ClockUncertain { error: u64, max: u64 },
    ClockUnknown { max: u64 },
    ClockBehind { by: u64, now: i64, max_wait: Duration },
    SeenAhead { id: i64, by: u64, now: i64, max_wait: Duration },
    TimeExhausted { layout: Layout },
    // Settings and layouts
    BadSetting { setting: String, value: String, why: Box<Self> },
    BadLayout { text: String, why: LayoutError },
    BadEpoch { text: String },
    BadDatabase,
    BadRegistry { why: String },
    BadRange { text: String, layout: Layout },
    // Arguments
    BatchNull,
    BatchNegative { n: i32 },
    BatchTooLarge { n: i32, max: i32 },
    OutOfMemory { n: u64 },
    NoLastval,
    FieldOutOfRange { field: Field, value: i64, layout: Layout },
    FieldMissing { field: Field, layout: Layout },
    FieldNotInLayout { field: Field, layout: Layout },
    NotOfLayout { id: i64, layout: Layout },
    TimeOutOfRange { time: TimestampWithTimeZone, layout: Layout },
    NotATimestamp,
    NotAnId { id: i64 },
    FloorTooFar { id: i64, ahead: Option<u64>, max: u64, layout: Layout },
    AuditNull,
    AuditNotKept,
    NoColumn { column: String, relation: String },
    NoRelation { oid: pg_sys::Oid },
    HiddenRows { relation: String, role: String, why: Hidden },
    RunsOthers { relation: String, role: String, what: String, owner: String },
    ColumnType { column: String, relation: String, types: &'static str },
    BadSample { share: f64 },
    // Conversions
    ConvertNull,
    BadLockTimeout { lock_timeout: i64 },
    BadAttempts { attempts: i32 },
    NoMigrateExtension,
    Guarded,
    Lost { text: String },
    Moved { oid: pg_sys::Oid },
    MayNotConvert { relation: String },
    Refused { relation: String, step: Box<Step>, more: usize },
    Unread { relation: String, column: String, steps: Vec<Step>, accepted: Vec<String> },
    InTheWay { relation: String, attempts: i32, lock_timeout: i64, who: Vec<String> },
    NotConverted { relation: String },
    ChangedSince { relation: String, column: String },
    SequenceOfAnother { sequence: String, its_owner: String, owner: String },
    OldSnapshot,
    BackfillNull,
    BadBatch { batch: i32 },
    NoDefault { relation: String, column: String },
    NoKeyToFollow { relation: String, why: &'static str },
    BadText { form: TextForm, text: String, why: TextError },
}

/// What is said of an error.
struct Text {
    kind: Kind,
    message: String,
    detail: String,
    hint: String,
}

impl Text {
    fn new(
        kind: Kind,
        message: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { kind, message: message.into(), detail: detail.into(), hint: hint.into() }
    }
}

/// What an error is to a program: its SQLSTATE, and the counter of calls that end with it.
#[derive(Clone, Copy)]
enum Kind {
    /// The node, or what it is asked, must be set up otherwise; so are all that have a SQLSTATE of
    /// their own.
    Setup,
    /// The clock cannot be used.
    Clock,
    /// There is no window: try again.
    Window,
    /// There is no lease: try again.
    Lease,
    /// The layout has no more time.
    Time,
    Code(Sqlstate),
}

impl Kind {
    const fn sqlstate(self) -> Sqlstate {
        match self {
            Self::Setup => Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::Clock => Sqlstate::ERRCODE_SYSTEM_ERROR,
            Self::Window | Self::Lease => Sqlstate::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::Time => Sqlstate::ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED,
            Self::Code(sqlstate) => sqlstate,
        }
    }

    const fn refusal(self) -> Counter {
        match self {
            Self::Setup | Self::Code(_) => Counter::RefusedSetup,
            Self::Clock => Counter::RefusedClock,
            Self::Window => Counter::RefusedWindow,
            Self::Lease => Counter::RefusedLease,
            Self::Time => Counter::RefusedTime,
        }
    }
}

/// What is known of a keeper that does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keeper {
    /// It has not started.
    Missing,
    /// It waits for something while it writes its record.
    Writing { pid: i32, since: i64 },
    /// It waits until the clock has passed the record.
    Waiting { until: i64 },
    /// It does nothing.
    Silent { pid: i32 },
}

/// A text form of an id.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TextForm {
    Base62,
    Base32,
}

const WRONG_LAYOUT_HINT: &str = "Name the layout that generated it: SELECT * FROM snowflake_decode(id, layout); the presets are in the view snowflake_layouts.";
const CLOCK_HINT: &str = "Ids flow again by themselves when the clock has caught up. Check the machine's time synchronisation (NTP); SELECT * FROM snowflake_layout() shows the epoch.";
const AS_OWNER_HINT: &str = "Audit it as a role that may SET ROLE to its owner, and the tables below a view each by itself.";
const LAYOUT_IN_FORCE_HINT: &str = "SELECT * FROM snowflake_layout() shows the layout in force.";

impl Error {
    /// A field error of `snowflake-core` with the layout that it is about.
    pub(crate) fn field(why: FieldError, layout: &Layout) -> Self {
        let layout = *layout;
        match why {
            FieldError::TooLarge { field, value, .. } => {
                Self::FieldOutOfRange { field, value: value.try_into().unwrap_or(i64::MAX), layout }
            }
            FieldError::Missing(field) => Self::FieldMissing { field, layout },
            FieldError::NoSuchField(field) => Self::FieldNotInLayout { field, layout },
            FieldError::NotOfLayout(id) => Self::NotOfLayout { id, layout },
        }
    }

    /// All that is said of an error, and what it is to PostgreSQL and to the statistics.
    fn text(&self) -> Text {
        use Kind::{Clock, Code, Lease, Setup, Time, Window};
        match self {
            Self::NotPreloaded => Text::new(
                Setup,
                "snowflake ids can be generated only if snowflake_id is preloaded",
                "The ids of a node come from its shared memory. Reading ids works without.",
                settings::preload_statement().map_or_else(
                    || "A superuser is shown the statement that adds it to what is preloaded: SELECT hint FROM snowflake_status;".to_owned(),
                    |statement| format!("{statement} Then restart the server."),
                ),
            ),
            Self::NoWorkerId { layout } => Text::new(
                Setup,
                "this node has no worker id",
                format!(
                    "snowflake_id.worker_id is not set. Layout {} takes 0 to {}.",
                    name(layout),
                    layout.max(Field::Worker)
                ),
                format!(
                    "Give every node a worker id of its own: ALTER SYSTEM SET snowflake_id.worker_id = {}; SELECT pg_reload_conf(); Or set snowflake_id.registry, to have it leased.",
                    layout.max(Field::Worker).min(1)
                ),
            ),
            Self::NoDatacenterId { layout } => Text::new(
                Setup,
                "this node has no datacenter id",
                format!(
                    "snowflake_id.datacenter_id is not set. Layout {} takes 0 to {}.",
                    name(layout),
                    layout.max(Field::Datacenter)
                ),
                "Datacenter and worker id together name the node: ALTER SYSTEM SET snowflake_id.datacenter_id = 1; SELECT pg_reload_conf();",
            ),
            Self::Standby => Text::new(
                Code(Sqlstate::ERRCODE_READ_ONLY_SQL_TRANSACTION),
                "cannot generate snowflake ids during recovery",
                "This server is a standby.",
                "Insert on the primary. Reading ids works on a standby.",
            ),
            Self::KeeperNotReady { keeper } => {
                let (detail, hint) = keeper.help();
                Text::new(Window, "snowflake ids are not available yet", detail, hint)
            },
            Self::NoDatabase { database } => Text::new(
                Setup,
                format!("the keeper of snowflake ids cannot connect to database \"{database}\""),
                "The keeper keeps this node's record there (snowflake_id.database). The server's log says why it could not connect.",
                format!("If it does not exist: CREATE DATABASE {}; Or name another database: ALTER SYSTEM SET snowflake_id.database = '...', and restart the server.", quote_identifier(database)),
            ),
            Self::NoExtension { database, why } => Text::new(
                Setup,
                format!("extension {EXTENSION} cannot be created in database \"{database}\""),
                format!("The keeper keeps this node's record in tables of the extension. {}", sentence(why)).trim_end().to_owned(),
                format!("The keeper tries again. To try it by hand, {}", in_keepers_database(&format!("CREATE EXTENSION {EXTENSION};"))),
            ),
            Self::SchemaTaken { database } => Text::new(
                Setup,
                format!("schema {EXTENSION} in database \"{database}\" is not the extension's"),
                "The keeper creates the extension, and its script the schema: in one that somebody has made before, objects of his could be run with the rights of a superuser.",
                format!("See what the schema holds; then {}", in_keepers_database(&format!("ALTER SCHEMA {EXTENSION} RENAME TO {EXTENSION}_old;"))),
            ),
            Self::TableChanged { what: Changed { table, what, undo }, .. } if undo.is_empty() => Text::new(
                Setup,
                format!("a newer version of its extension has made table {table}"),
                what.clone(),
                "Install that version or a later one on this server, and restart it.",
            ),
            Self::TableChanged { what: Changed { table, what, undo }, by_keeper } => Text::new(
                Setup,
                format!("table {table} is not as its extension has made it"),
                what.clone(),
                // Ids are asked for in any database; the statement is for the keeper's.
                if *by_keeper {
                    format!("If nobody needs it, {}", in_keepers_database(undo))
                } else {
                    format!("If nobody needs it: {undo}")
                },
            ),
            Self::NoNodeExtension => Text::new(
                Setup,
                format!("extension {EXTENSION} is missing in this database"),
                "A registry keeps its leases in tables of the extension.",
                format!("As a superuser: CREATE EXTENSION {EXTENSION};"),
            ),
            Self::MayNotCall { function } => Text::new(
                Code(Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE),
                format!("permission denied for function {function}"),
                "What the owner of a database is granted is for GRANT ... ON ALL FUNCTIONS only.",
                "As a superuser, grant the right to a role: GRANT EXECUTE ON FUNCTION ... TO ...;",
            ),
            Self::CannotReserve { why } => Text::new(
                Window,
                "the keeper cannot reserve snowflake ids",
                format!("Its last attempt to write this node's record failed: {why}"),
                format!("Ids flow again by themselves when the cause is mended. If it is a lock, connect to database \"{}\" and see who has it: SELECT pid, mode FROM pg_locks WHERE relation = '{EXTENSION}.high_water_marks'::regclass AND granted;", settings::database()),
            ),
            Self::LayoutChanged { was, epoch, layout } => Text::new(
                Setup,
                "the layout of this node's snowflake ids has changed",
                format!("The ids that this node has generated are of layout \"{was}\" with epoch {}; the layout in force is \"{layout}\" with epoch {}. It would read the old ones wrongly.", shown(Some(*epoch)), shown(Some(layout.epoch()))),
                format!(
                    "Set them back: ALTER SYSTEM SET snowflake_id.layout = '{was}'; ALTER SYSTEM SET snowflake_id.epoch = '{}'; and restart the server.",
                    settings::epoch_setting(*epoch).unwrap_or_default(),
                ),
            ),
            Self::Copy { of } => Text::new(
                Setup,
                "this data directory may be a copy of another node's",
                format!("Node {of} has the same worker id, and is of the same cluster and timeline."),
                "Give this node a worker id of its own: ALTER SYSTEM SET snowflake_id.worker_id = N; SELECT pg_reload_conf(); Or, if the other one will never run again: ALTER SYSTEM SET snowflake_id.on_copy = 'warn'; and restart the server.",
            ),
            Self::WorkerIdInUse { by, place, copy, updated_at } => Text::new(
                Setup,
                "this node's worker id is also in another node's record",
                format!(
                    "Node {by} ({place}) wrote it last at {}.{}",
                    shown(Some(*updated_at)),
                    if *copy { " One of the two data directories is a copy of the other." } else { "" },
                ),
                format!("Two running nodes with one worker id generate the same ids. Give this one another: ALTER SYSTEM SET snowflake_id.worker_id = N; SELECT pg_reload_conf(); Or, if the other one will never run again, {}", in_keepers_database(&format!("DELETE FROM {EXTENSION}.high_water_marks WHERE node = '{by}';"))),
            ),
            Self::TwoSources => Text::new(
                Setup,
                "this node has both a worker id and a registry to lease one from",
                "snowflake_id.worker_id and snowflake_id.registry are both set.",
                "Keep one of them: ALTER SYSTEM SET snowflake_id.worker_id = -1; or ALTER SYSTEM SET snowflake_id.registry = ''; then SELECT pg_reload_conf();",
            ),
            Self::NoLease { why } => Text::new(
                Lease,
                "this node has no lease of a worker id",
                sentence(why),
                "Ids flow by themselves when a worker id can be leased. SELECT * FROM snowflake_status shows since when it cannot.",
            ),
            Self::LeaseClaimed { number, until } => Text::new(
                Lease,
                "this node's lease of a worker id is not valid yet",
                format!("Worker id {number} has been claimed; nodes that have an older right to it may object until {}.", shown(Some(*until))),
                "Try again.",
            ),
            Self::LeaseNotRenewed { why, since, until } => Text::new(
                Lease,
                "this node's lease of a worker id is not renewed",
                format!("Since {}: {why}.", shown(Some(*since))),
                format!("Ids flow until the lease ends, at {}. Mend the registry before, and stop no node for long until then.", shown(Some(*until))),
            ),
            Self::LeaseEnded { at, why } => Text::new(
                Lease,
                "this node's lease of a worker id has ended",
                format!("It ended at {}. {}", shown(Some(*at)), sentence(why)).trim_end().to_owned(),
                "Ids flow again by themselves when the lease is renewed, or another worker id leased.",
            ),
            Self::WorkerIdLost { to, same } => Text::new(
                Setup,
                "this node's worker id is being used by another node",
                if *same {
                    format!("A node that calls itself {to}, as this one does, has taken over its lease: it is a clone that runs beside its original.")
                } else {
                    format!("Node {to} uses it by a lease that the registry gave it: the registry has forgotten this node's, as one that was restored from a backup.")
                },
                "This node leases another worker id by itself. Look for duplicates among the ids of the last heartbeats.",
            ),
            Self::NotLeased => Text::new(
                Setup,
                "this node's worker id is not leased",
                "It is set by snowflake_id.worker_id.",
                "To change it: ALTER SYSTEM SET snowflake_id.worker_id = N; SELECT pg_reload_conf();",
            ),
            Self::Drained => Text::new(
                Setup,
                "this node has been drained: it generates no snowflake ids",
                "",
                "To let it generate ids again: SELECT snowflake_resume();",
            ),
            Self::ClockBehindRecord { by, now } => Text::new(
                Clock,
                format!("the clock is {} behind this node's record of snowflake ids", duration(*by)),
                format!(
                    "The clock reads {}; ids can be generated again from {} on.",
                    shown(Some(*now)),
                    shown(now.checked_add_unsigned(*by)),
                ),
                CLOCK_HINT.to_owned(),
            ),
            Self::ClockJumped { by, now, max } => Text::new(
                Clock,
                format!("the clock jumped forward by {}", duration(*by)),
                format!(
                    "The clock reads {}. Jumps beyond {} are not believed (snowflake_id.max_clock_jump).",
                    shown(Some(*now)),
                    duration(*max),
                ),
                "Put the clock right, and ids flow again by themselves. If it is right now: SELECT snowflake_accept_clock();",
            ),
            Self::ClockUncertain { error, max } => Text::new(
                Clock,
                format!("the clock error may be as large as {}", duration(*error)),
                format!("That is the kernel's estimate; up to {} is allowed (snowflake_id.max_clock_error).", duration(*max)),
                "Ids flow again by themselves when it is smaller. Check the machine's time synchronisation (NTP): chronyc tracking, or timedatectl timesync-status.",
            ),
            Self::ClockUnknown { max } => Text::new(
                Clock,
                "the clock error is not known: the kernel may not be asked",
                format!("Up to {} is allowed (snowflake_id.max_clock_error), and adjtimex is forbidden to this server.", duration(*max)),
                "Allow it: the seccomp profile of a container, or ProtectClock of a systemd unit, forbids it. Or generate ids without asking: ALTER SYSTEM SET snowflake_id.max_clock_error = 0; SELECT pg_reload_conf();",
            ),
            Self::ClockBehind { by, now, max_wait } => Text::new(
                Clock,
                format!("the clock is {} behind this node's snowflake ids", duration(*by)),
                format!(
                    "The clock reads {}; ids can be generated again from {} on. Up to {} is waited for (snowflake_id.max_wait).",
                    shown(Some(*now)),
                    shown(now.checked_add_unsigned(*by)),
                    duration(max_wait.as_micros() as u64),
                ),
                CLOCK_HINT.to_owned(),
            ),
            Self::SeenAhead { id, by, now, max_wait } => Text::new(
                Clock,
                format!("snowflake id {id} is {} ahead of what this node may generate", duration(*by)),
                format!(
                    "The clock reads {}; a greater id can be generated from {} on. Up to {} is waited for (snowflake_id.max_wait), and ids may run ahead of the clock by {} (snowflake_id.max_ahead).",
                    shown(Some(*now)),
                    shown(now.checked_add_unsigned(*by)),
                    duration(max_wait.as_micros() as u64),
                    duration(settings::max_ahead()),
                ),
                format!(
                    "The node that generated the id, or this one, has a wrong clock: check the time synchronisation (NTP) of both.{}",
                    settings::max_ahead_for(*by).map_or_else(String::new, |seconds| format!(
                        " Or allow ids to run ahead of the clock: ALTER SYSTEM SET snowflake_id.max_ahead = '{seconds}s'; SELECT pg_reload_conf();"
                    )),
                ),
            ),
            Self::TimeExhausted { layout } => Text::new(
                Time,
                format!("the time field of layout {} is used up", name(layout)),
                format!("The layout ended at {}.", shown(layout.ends_at())),
                "New keys need a layout with a wider time field or a later epoch, and a way to tell them from the old ones.",
            ),
            Self::BadSetting { setting, value, why } => {
                let (detail, hint) = why.help();
                // The detail names the layout; a server that does not start cannot be asked for it.
                let hint = if hint == LAYOUT_IN_FORCE_HINT { String::new() } else { hint };
                let hint = format!("Correct it in postgresql.conf, or in postgresql.auto.conf after ALTER SYSTEM, and start the server again. {hint}");
                Text::new(
                    Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                    format!("invalid value for parameter \"{setting}\": \"{value}\""),
                    detail,
                    hint.trim_end(),
                )
            }
            Self::BadLayout { text, why } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("invalid snowflake layout \"{text}\""),
                layout_detail(why),
                layout_hint(why),
            ),
            Self::BadEpoch { text } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("invalid epoch \"{text}\""),
                "An epoch is a timestamp with its offset from UTC.",
                "For example: 2025-01-01 00:00:00+00",
            ),
            Self::BadDatabase => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                "not a database for the keeper of snowflake ids",
                "A database's name has 1 to 63 bytes; template0 and template1 must have no connections, and the keeper stays connected.",
                "For example: postgres",
            ),
            Self::BadRegistry { why } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                "invalid address of a registry",
                sentence(why),
                "For example: postgres://user@host/database?password_file=/file, etcd://host:2379/prefix or zookeeper://host:2181/path.",
            ),
            Self::BadRange { text, layout } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("invalid range of worker ids \"{text}\""),
                format!("A range is two worker ids, the smaller first; layout {} takes 0 to {}.", name(layout), layout.max(Field::Worker)),
                "For example: 0-99; or 5-5 for worker id 5 alone.",
            ),
            Self::BatchNull => Text::new(
                Code(Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED),
                "the number of snowflake ids must not be null",
                "",
                "Ask for a number from 0 to snowflake_id.max_batch.",
            ),
            Self::BatchNegative { n } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("the number of snowflake ids must not be negative: {n}"),
                "",
                "Ask for a number from 0 to snowflake_id.max_batch.",
            ),
            Self::BatchTooLarge { n, max } if *n > MAX_BATCH_LIMIT => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("{n} snowflake ids are more than one batch may have: {max}"),
                "",
                "Ask several times.",
            ),
            Self::BatchTooLarge { n, max } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("{n} snowflake ids are more than one batch may have: {max}"),
                "",
                format!("Ask several times, or have a superuser allow it: ALTER SYSTEM SET snowflake_id.max_batch = {n}; SELECT pg_reload_conf();"),
            ),
            Self::OutOfMemory { n } => Text::new(
                Code(Sqlstate::ERRCODE_OUT_OF_MEMORY),
                format!("no memory for an array of {n} snowflake ids"),
                "",
                "snowflake_batch(n) generates the same ids as rows and needs no memory for them.",
            ),
            Self::NoLastval => Text::new(
                Setup,
                "no snowflake id has been generated in this session yet",
                "",
                "snowflake_lastval() returns the last id that the same session generated with snowflake_nextval() or a batch.",
            ),
            Self::FieldOutOfRange { field, value, layout } if layout.bits(*field) == 0 => Text::new(
                Code(Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                format!("{} is out of range: {value}", argument(*field)),
                format!("Layout {} has no {field} field.", name(layout)),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::FieldOutOfRange { field, value, layout } => Text::new(
                Code(Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                format!("{} is out of range: {value}", argument(*field)),
                format!(
                    "The {field} field of layout {} takes 0 to {}.",
                    name(layout),
                    layout.max(*field)
                ),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::FieldMissing { field, layout } => Text::new(
                Code(Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED),
                format!("{} must not be null", argument(*field)),
                format!("Layout {} has a {field} field.", name(layout)),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::FieldNotInLayout { field, layout } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("{} must be null", argument(*field)),
                format!("Layout {} has no {field} field.", name(layout)),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::NotOfLayout { id, layout } => Text::new(
                Code(Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                format!("{id} is not a snowflake id of layout {}", name(layout)),
                if *id < 0 {
                    "Snowflake ids are never negative.".to_owned()
                } else {
                    "The number has a bit set that the layout leaves zero.".to_owned()
                },
                WRONG_LAYOUT_HINT.to_owned(),
            ),
            Self::TimeOutOfRange { time, layout } => Text::new(
                Code(Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                format!("{time} is outside of layout {}", name(layout)),
                format!(
                    "The layout holds times from {} up to {}.",
                    shown(Some(layout.epoch())),
                    shown(layout.ends_at())
                ),
                "For a search, snowflake_between() and snowflake_lower_bound() take any time.",
            ),
            Self::NotATimestamp => Text::new(
                Code(Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                "the id's time is outside of the range of timestamps",
                "",
                WRONG_LAYOUT_HINT.to_owned(),
            ),
            Self::NotAnId { id } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("{id} is not a snowflake id"),
                "Snowflake ids are never negative.",
                "Look where the number comes from: no node has generated it.",
            ),
            Self::FloorTooFar { id, ahead, max, layout } => Text::new(
                Code(Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                format!("{id} is too far ahead of the clock for a floor"),
                ahead.map_or_else(
                    || format!("Layout {} has no greater id.", name(layout)),
                    |ahead| {
                        format!(
                            "In layout {} it is {} ahead; up to {} is allowed (snowflake_id.max_clock_jump, or a day).",
                            name(layout),
                            duration(ahead),
                            duration(*max),
                        )
                    },
                ),
                "No id could be generated until then, and a floor cannot be taken back. Look for the greatest id that the layout in force can have generated; snowflake_decode(id) shows what is in one.",
            ),
            Self::AuditNull => Text::new(
                Code(Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED),
                "relation and column_name must not be null",
                "",
                "For example: SELECT * FROM snowflake_audit('orders', 'id');",
            ),
            Self::AuditNotKept => Text::new(
                Setup,
                "the result of the audit is not kept",
                format!("It is kept in {EXTENSION}.audits, where extension {EXTENSION} is and the caller may write to it."),
                format!("As a superuser: CREATE EXTENSION {EXTENSION}; GRANT SELECT, INSERT, DELETE ON {EXTENSION}.audits TO ...;"),
            ),
            Self::NoColumn { column, relation } => Text::new(
                Code(Sqlstate::ERRCODE_UNDEFINED_COLUMN),
                format!("column \"{column}\" of relation {relation} does not exist"),
                "",
                "For example: SELECT * FROM snowflake_audit('orders', 'id');",
            ),
            Self::NoRelation { oid } => Text::new(
                Code(Sqlstate::ERRCODE_UNDEFINED_TABLE),
                format!("relation with OID {oid} does not exist"),
                "",
                "For example: SELECT * FROM snowflake_audit('orders', 'id');",
            ),
            Self::HiddenRows { relation, role, why } => Text::new(
                Code(Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE),
                format!("the audit may have missed rows of relation {relation}"),
                match why {
                    Hidden::Policies => {
                        format!("It was read as role \"{role}\", and row-level security applies to that role.")
                    }
                    Hidden::View => {
                        format!("It is a view, and was read as role \"{role}\": its owner may see other rows in it.")
                    }
                    Hidden::Foreign => {
                        format!("It was read as role \"{role}\": a foreign server may show other rows to its owner.")
                    }
                },
                AS_OWNER_HINT.to_owned(),
            ),
            Self::RunsOthers { relation, role, what, owner } => Text::new(
                Code(Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE),
                format!("cannot audit relation {relation} as role \"{role}\""),
                format!("To read it runs {what} of role \"{owner}\", with the rights of role \"{role}\"."),
                AS_OWNER_HINT.to_owned(),
            ),
            Self::ColumnType { column, relation, types } => Text::new(
                Code(Sqlstate::ERRCODE_DATATYPE_MISMATCH),
                format!("column {column} of relation {relation} must be of type {types}"),
                "",
                "For example: SELECT * FROM snowflake_audit('orders', 'id');",
            ),
            Self::BadSample { share } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("sample is out of range: {share}"),
                "It is the share of ids to look at: above 0, and at most 1.",
                "For a tenth of them: SELECT * FROM snowflake_audit('orders', 'id', sample => 0.1);",
            ),
            Self::ConvertNull => Text::new(
                Code(Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED),
                "the table to convert must not be null",
                "",
                "For example: SELECT * FROM snowflake_convert_plan('orders');",
            ),
            Self::BadLockTimeout { lock_timeout } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("lock_timeout is out of range: {lock_timeout} ms"),
                "For so long clients may have to wait at each attempt: 1 ms to 60 s.",
                "Leave it out for the default, 100 ms.",
            ),
            Self::BadAttempts { attempts } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("attempts is out of range: {attempts}"),
                "At least one is made.",
                "Leave it out for the default, 30.",
            ),
            Self::NoMigrateExtension => Text::new(
                Setup,
                "extension snowflake_id_migrate is missing in this database",
                "What the way back needs is kept in a table of it.",
                "As a superuser: CREATE EXTENSION snowflake_id_migrate;",
            ),
            Self::Guarded => Text::new(
                Code(Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE),
                "permission denied for table snowflake_id_migrate.conversions",
                "What is in it is run as the owners of tables: nobody else writes it, whatever rights he has.",
                "snowflake_convert(), snowflake_revert() and snowflake_convert_finish() write it.",
            ),
            Self::Moved { oid } => Text::new(
                Code(Sqlstate::ERRCODE_UNDEFINED_TABLE),
                format!("relation with OID {oid} has lost its name to another one"),
                "It, or its schema, was renamed meanwhile. Nothing of the other one was run.",
                "Call it again, when nobody renames.",
            ),
            Self::Lost { text } => Text::new(
                Code(Sqlstate::ERRCODE_UNTRANSLATABLE_CHARACTER),
                format!("cannot write \"{text}\" in a statement"),
                "It is no text of the database's encoding, or one that PostgreSQL does not convert to UTF-8 and back: the statement would mean something else.",
                "Rename it, or set the default, or fill the column, by statements of your own.",
            ),
            Self::MayNotConvert { relation } => Text::new(
                Code(Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE),
                format!("must be owner of table {relation}"),
                "",
                "Call it as the owner, or as a superuser.",
            ),
            Self::Refused { relation, step, more } => {
                let sqlstate = refusal(step);
                Text::new(
                    Code(sqlstate),
                    format!("cannot convert {relation}: {}", step.finding.unwrap_or_default()),
                    step.detail.clone(),
                    if *more == 0 {
                        step.hint.clone()
                    } else {
                        format!("{} More is in the way: SELECT * FROM snowflake_convert_plan('{relation}');", step.hint)
                    },
                )
            }
            Self::Unread { relation, column, steps, accepted } => {
                let names = steps.iter().filter_map(|step| step.finding.map(str::to_owned));
                let mut names = names.chain(accepted.iter().cloned()).collect::<Vec<_>>();
                names.sort();
                names.dedup();
                let names = names.join(",");
                let details = steps.iter().map(|step| format!("{} {}", step.detail, step.hint));
                Text::new(
                    Setup,
                    format!("{relation} is not converted before its findings have been read"),
                    details.collect::<Vec<_>>().join("\n"),
                    format!("If that is in order: SELECT * FROM snowflake_convert('{relation}', '{column}', accept => '{{{names}}}');"),
                )
            }
            Self::InTheWay { relation, attempts, lock_timeout, who } => Text::new(
                Window,
                format!("could not lock {relation} in {attempts} attempts of {lock_timeout} ms"),
                if who.is_empty() {
                    "Who was in the way has gone by now.".to_owned()
                } else {
                    who.join("\n")
                },
                "Nothing has been changed. Call it again when they have ended, or end them: SELECT pg_terminate_backend(pid);",
            ),
            Self::NotConverted { relation } => Text::new(
                Setup,
                format!("nothing is known of a conversion of {relation}"),
                "",
                "SELECT * FROM snowflake_conversions;",
            ),
            Self::ChangedSince { relation, column } => Text::new(
                Setup,
                format!("the default of {relation}.{column} has been changed since it was converted"),
                "The way back is from a default that generates ids.",
                "If that has been taken back by hand, set the default to snowflake_nextval() once more, and then: SELECT * FROM snowflake_revert(...);",
            ),
            Self::SequenceOfAnother { sequence, its_owner, owner } => Text::new(
                Code(Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE),
                format!("sequence {sequence} belongs to role {its_owner}, and its table to {owner}"),
                "A sealed sequence does not follow its table to another owner.",
                format!("ALTER SEQUENCE {sequence} OWNER TO {};", pgrx::spi::quote_identifier(owner)),
            ),
            Self::OldSnapshot => Text::new(
                Code(Sqlstate::ERRCODE_ACTIVE_SQL_TRANSACTION),
                "tables are converted in transactions of isolation level READ COMMITTED only",
                "This one does not see what others have changed since it began.",
                "BEGIN ISOLATION LEVEL READ COMMITTED;",
            ),
            Self::BackfillNull => Text::new(
                Code(Sqlstate::ERRCODE_NULL_VALUE_NOT_ALLOWED),
                "relation, column_name and batch must not be null",
                "",
                "For example: CALL snowflake_backfill('users', 'key');",
            ),
            Self::BadBatch { batch } => Text::new(
                Code(Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE),
                format!("batch is out of range: {batch}"),
                "It is a number of rows, from 1 to 1000000.",
                "Leave it out for the default, 1000.",
            ),
            Self::NoDefault { relation, column } => Text::new(
                Setup,
                format!("column {column} of {relation} has no default to be filled with"),
                "",
                format!("ALTER TABLE {relation} ALTER COLUMN {column} SET DEFAULT snowflake_nextval(); or name a value."),
            ),
            Self::NoKeyToFollow { relation, why } => Text::new(
                Setup,
                format!("{relation} has no primary key that batches can go along"),
                *why,
                "Fill the column by one UPDATE, or by batches of your own.",
            ),
            Self::BadText { form, text, why } => Text::new(
                Code(match why {
                        TextError::TooLarge => Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
                        _ => Sqlstate::ERRCODE_INVALID_TEXT_REPRESENTATION,
                }),
                format!("invalid {} snowflake id: \"{text}\"", form.name()),
                form.detail(why),
                format!("snowflake_{}(id) writes such a text.", form.name()),
            ),
        }
    }

    /// As what a call that ends with it is counted.
    pub(crate) fn refusal(&self) -> Counter {
        self.text().kind.refusal()
    }

    /// Detail and hint; empty where there is nothing to add.
    pub(crate) fn help(&self) -> (String, String) {
        let Text { detail, hint, .. } = self.text();
        (detail, hint)
    }

    /// Message and detail as sentences, and the hint.
    pub(crate) fn in_words(&self) -> (String, String) {
        let Text { message, detail, hint, .. } = self.text();
        (format!("{} {detail}", sentence(&message)).trim_end().to_owned(), hint)
    }

    /// Ends the statement with this error.
    #[cold]
    #[track_caller]
    pub(crate) fn raise(self) -> ! {
        self.report(PgLogLevel::ERROR, "");
        unreachable!("an ERROR does not return")
    }

    /// Reports it at some level, the message behind a prefix.
    pub(crate) fn report(&self, level: PgLogLevel, prefix: &str) {
        let Text { kind, message, detail, hint } = self.text();
        encoding::report(level, kind.sqlstate(), &format!("{prefix}{message}"), &detail, &hint);
    }
}

impl From<Unusable> for Error {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::NoExtension => Self::NoNodeExtension,
            Unusable::Changed(what) => Self::TableChanged { what, by_keeper: false },
        }
    }
}

/// What every SQL function does with an error.
pub(crate) trait OrRaise<T> {
    /// The value, or the end of the statement.
    fn or_raise(self) -> T;
}

impl<T> OrRaise<T> for Result<T, Error> {
    #[inline]
    fn or_raise(self) -> T {
        self.unwrap_or_else(|error| error.raise())
    }
}

impl Keeper {
    /// Detail and hint.
    fn help(self) -> (String, String) {
        const AGAIN: &str = "Try again.";
        match self {
            Self::Missing => (
                "The background worker \"snowflake_id keeper\" has not started.".to_owned(),
                "Try again. If it stays so, see the server's log: with \"too many background workers\" there, raise max_worker_processes and restart the server.".to_owned(),
            ),
            Self::Writing { pid, since } => (
                format!("The keeper has been writing this node's record since {}.", shown(Some(since))),
                format!("{AGAIN} What it waits for: SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = {pid};"),
            ),
            Self::Waiting { until } => (
                format!("After a crash or a promotion, or beside another node's record, ids begin when the clock has passed what was reserved: at {}.", shown(Some(until))),
                AGAIN.to_owned(),
            ),
            Self::Silent { pid } => (
                format!("The keeper, process {pid}, has made no window in time."),
                format!("{AGAIN} If it stays so, have PostgreSQL start another one: SELECT pg_terminate_backend({pid});"),
            ),
        }
    }
}

impl TextForm {
    const fn name(self) -> &'static str {
        match self {
            Self::Base62 => "base62",
            Self::Base32 => "base32",
        }
    }

    fn detail(self, why: &TextError) -> String {
        match (self, why) {
            (_, TextError::TooLarge) => {
                format!("It stands for a number above the greatest id, {}.", i64::MAX)
            }
            (Self::Base62, TextError::BadLength(length)) => {
                format!("It has {length} characters, not 1 to {BASE62_MAX_LENGTH}.")
            }
            (Self::Base32, TextError::BadLength(length)) => {
                format!("It has {length} characters without its hyphens, not {BASE32_LENGTH}.")
            }
            (Self::Base62, TextError::BadCharacter(c)) => {
                format!("\"{c}\" is none of 0-9, A-Z and a-z.")
            }
            (Self::Base32, TextError::BadCharacter(c)) => {
                format!(
                    "\"{c}\" is none of Crockford's base 32 characters, 0-9 and A-Z without I, L, O and U."
                )
            }
        }
    }
}

/// A statement that concerns the keeper's tables, for who may read the hint in any database.
fn in_keepers_database(statement: &str) -> String {
    format!("connect to database \"{}\" and run: {statement}", settings::database())
}

/// A layout's name in a message: its preset's or its spelling.
fn name(layout: &Layout) -> String {
    layout.preset().map_or_else(|| format!("\"{layout}\""), |preset| format!("\"{}\"", preset.name))
}

/// The function argument that stands for a field.
const fn argument(field: Field) -> &'static str {
    match field {
        Field::Timestamp => "ts",
        Field::Datacenter => "datacenter_id",
        Field::Worker => "worker_id",
        Field::Sequence => "sequence",
    }
}

/// What a finding that refuses is to a program.
fn refusal(step: &Step) -> Sqlstate {
    match step.finding.unwrap_or_default() {
        "not_owner" | "another_owner" => Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "foreign_table" | "not_a_table" | "temporary_table" | "typed_table"
        | "distributed_table" | "partition" | "foreign_partition" => {
            Sqlstate::ERRCODE_WRONG_OBJECT_TYPE
        }
        "no_column" => Sqlstate::ERRCODE_UNDEFINED_COLUMN,
        "generated_column" => Sqlstate::ERRCODE_GENERATED_ALWAYS,
        "not_bigint" | "narrow_reference" => Sqlstate::ERRCODE_DATATYPE_MISMATCH,
        "keys_ahead" => Sqlstate::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        _ => Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
    }
}

/// With a capital letter and a full stop; nothing stays nothing.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else { return String::new() };
    format!("{}{}.", first.to_ascii_uppercase(), letters.as_str())
}

/// Microseconds for people.
fn duration(micros: u64) -> String {
    const SECOND: u64 = 1_000_000;
    let (unit, name) = match micros {
        0..1000 => (1, "us"),
        1000..SECOND => (1000, "ms"),
        _ if micros < 120 * SECOND => (SECOND, "s"),
        _ if micros < 7200 * SECOND => (60 * SECOND, "min"),
        _ if micros < 172_800 * SECOND => (3600 * SECOND, "h"),
        _ => (86_400 * SECOND, "d"),
    };
    // Three decimals at most, and none where they are zero.
    let rounded = (micros as f64 / unit as f64 * 1000.0).round() / 1000.0;
    format!("{rounded} {name}")
}

fn layout_detail(why: &LayoutError) -> String {
    match why {
        LayoutError::BadItem(item) => {
            format!("\"{item}\" is neither a preset nor of the form field:bits.")
        }
        LayoutError::UnknownField(name) => format!(
            "There is no field \"{name}\"; the fields are timestamp, datacenter, worker, sequence and unused."
        ),
        LayoutError::BadWidth { field, bits, max } => {
            format!("The width of {field} is \"{bits}\", not a number from 1 to {max}.")
        }
        LayoutError::DuplicateField(field) => format!("The field {field} stands twice."),
        LayoutError::NoTimestamp => "There is no timestamp field.".to_owned(),
        LayoutError::TooWide(bits) => format!(
            "Its fields take {bits} bits, but an id has {MAX_BITS}: the highest bit of a bigint is its sign."
        ),
        LayoutError::BadTick(tick) => format!(
            "\"{tick}\" is not a tick length: a number with the unit us, ms or s, from 1us to 3600s."
        ),
        LayoutError::TickOnOtherField(field) => {
            format!("The field {field} has a tick length; only the timestamp can have one.")
        }
        LayoutError::TimestampNotFirst => {
            "Its timestamp is not the most significant field, so its ids would not sort by time."
                .to_owned()
        }
    }
}

fn layout_hint(why: &LayoutError) -> String {
    match why {
        LayoutError::TimestampNotFirst => {
            "Such a layout can be decoded, by naming it, but not generated.".to_owned()
        }
        _ => "For example: timestamp:41,worker:10,sequence:12. The presets are in the view snowflake_layouts.".to_owned(),
    }
}
