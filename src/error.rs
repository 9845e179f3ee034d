//! Every error a user can meet: SQLSTATE, message, detail and hint, in one table.
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
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use snowflake_core::layout::MAX_BITS;
use snowflake_core::text::{BASE32_LENGTH, BASE62_MAX_LENGTH};
use snowflake_core::{Field, FieldError, Layout, LayoutError, TextError};
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
    TableChanged { what: Changed },
    NoNodeExtension,
    MayNotCall { function: String },
    CannotReserve { why: String },
    LayoutChanged { was: String, epoch: i64, layout: Layout },
    Copy { of: String },
    WorkerIdInUse { by: String, copy: bool, updated_at: i64 },
    TwoSources,
    NoLease { why: String },
    LeaseClaimed { number: String, until: i64 },
    LeaseEnded { at: i64, why: String },
    WorkerIdLost { to: String, same: bool },
    NotLeased,
    Drained,
    ClockBehindRecord { by: u64, now: i64 },
    ClockJumped { by: u64, now: i64, max: u64 },
    ClockUncertain { error: u64, max: u64 },
    ClockUnknown { max: u64 },
    ClockBehind { by: u64, now: i64, max_wait: Duration },
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
    AuditNull,
    AuditNotKept,
    NoColumn { column: String, relation: String },
    NoRelation { oid: pg_sys::Oid },
    HiddenRows { relation: String, role: String, why: Hidden },
    RunsOthers { relation: String, role: String, what: String, owner: String },
    ColumnType { column: String, relation: String, types: &'static str },
    BadSample { share: f64 },
    BadText { form: TextForm, text: String, why: TextError },
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

const WRONG_LAYOUT_HINT: &str = "Name the layout that made it: SELECT * FROM snowflake_decode(id, layout); the presets are in the view snowflake_layouts.";
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

    /// As what a call that ends with it is counted.
    pub(crate) const fn refusal(&self) -> Counter {
        match self {
            Self::ClockBehind { .. }
            | Self::ClockBehindRecord { .. }
            | Self::ClockJumped { .. }
            | Self::ClockUncertain { .. }
            | Self::ClockUnknown { .. } => Counter::RefusedClock,
            Self::NoLease { .. } | Self::LeaseClaimed { .. } | Self::LeaseEnded { .. } => {
                Counter::RefusedLease
            }
            Self::KeeperNotReady { .. } | Self::CannotReserve { .. } => Counter::RefusedWindow,
            Self::TimeExhausted { .. } => Counter::RefusedTime,
            _ => Counter::RefusedSetup,
        }
    }

    fn code(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode as Code;
        match self {
            Self::NotPreloaded
            | Self::NoWorkerId { .. }
            | Self::NoDatacenterId { .. }
            | Self::NoDatabase { .. }
            | Self::NoExtension { .. }
            | Self::SchemaTaken { .. }
            | Self::TableChanged { .. }
            | Self::NoNodeExtension
            | Self::AuditNotKept
            | Self::LayoutChanged { .. }
            | Self::Copy { .. }
            | Self::WorkerIdInUse { .. }
            | Self::WorkerIdLost { .. }
            | Self::TwoSources
            | Self::NotLeased
            | Self::Drained
            | Self::NoLastval => Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::OutOfMemory { .. } => Code::ERRCODE_OUT_OF_MEMORY,
            Self::Standby => Code::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            Self::KeeperNotReady { .. }
            | Self::CannotReserve { .. }
            | Self::NoLease { .. }
            | Self::LeaseClaimed { .. }
            | Self::LeaseEnded { .. } => Code::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::ClockBehind { .. }
            | Self::ClockBehindRecord { .. }
            | Self::ClockJumped { .. }
            | Self::ClockUncertain { .. }
            | Self::ClockUnknown { .. } => Code::ERRCODE_SYSTEM_ERROR,
            Self::TimeExhausted { .. } => Code::ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED,
            Self::BatchNull | Self::FieldMissing { .. } | Self::AuditNull => {
                Code::ERRCODE_NULL_VALUE_NOT_ALLOWED
            }
            Self::BadSetting { .. }
            | Self::BadLayout { .. }
            | Self::BadEpoch { .. }
            | Self::BadDatabase
            | Self::BadRegistry { .. }
            | Self::BadRange { .. }
            | Self::BatchNegative { .. }
            | Self::BatchTooLarge { .. }
            | Self::FieldNotInLayout { .. }
            | Self::NotAnId { .. }
            | Self::BadSample { .. }
            | Self::BadText { why: TextError::TooLarge, .. } => {
                Code::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::FieldOutOfRange { .. }
            | Self::NotOfLayout { .. }
            | Self::TimeOutOfRange { .. }
            | Self::NotATimestamp => Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            Self::NoColumn { .. } => Code::ERRCODE_UNDEFINED_COLUMN,
            Self::NoRelation { .. } => Code::ERRCODE_UNDEFINED_TABLE,
            Self::HiddenRows { .. } | Self::RunsOthers { .. } | Self::MayNotCall { .. } => {
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Self::ColumnType { .. } => Code::ERRCODE_DATATYPE_MISMATCH,
            Self::BadText { .. } => Code::ERRCODE_INVALID_TEXT_REPRESENTATION,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NotPreloaded => {
                "snowflake ids can be made only if snowflake_id is preloaded".to_owned()
            }
            Self::NoWorkerId { .. } => "this node has no worker id".to_owned(),
            Self::NoDatacenterId { .. } => "this node has no datacenter id".to_owned(),
            Self::Standby => "cannot make snowflake ids during recovery".to_owned(),
            Self::KeeperNotReady { .. } => "snowflake ids are not available yet".to_owned(),
            Self::NoDatabase { database } => {
                format!("the keeper of snowflake ids cannot connect to database \"{database}\"")
            }
            Self::NoExtension { database, .. } => {
                format!("extension {EXTENSION} cannot be created in database \"{database}\"")
            }
            Self::SchemaTaken { database } => {
                format!("schema {EXTENSION} in database \"{database}\" is not the extension's")
            }
            Self::TableChanged { what: Changed { table, .. } } => {
                format!("table {table} is not as its extension has made it")
            }
            Self::NoNodeExtension => {
                format!("extension {EXTENSION} is missing in this database")
            }
            Self::MayNotCall { function } => {
                format!("permission denied for function {function}")
            }
            Self::CannotReserve { .. } => "the keeper cannot reserve snowflake ids".to_owned(),
            Self::LayoutChanged { .. } => {
                "the layout of this node's snowflake ids has changed".to_owned()
            }
            Self::Copy { .. } => "this data directory may be a copy of another node's".to_owned(),
            Self::WorkerIdInUse { .. } => {
                "this node's worker id is also in another node's record".to_owned()
            }
            Self::TwoSources => {
                "this node has both a worker id and a registry to lease one from".to_owned()
            }
            Self::NoLease { .. } => "this node has no lease of a worker id".to_owned(),
            Self::LeaseClaimed { .. } => {
                "this node's lease of a worker id is not valid yet".to_owned()
            }
            Self::LeaseEnded { .. } => "this node's lease of a worker id has ended".to_owned(),
            Self::WorkerIdLost { .. } => {
                "this node's worker id is being used by another node".to_owned()
            }
            Self::NotLeased => "this node's worker id is not leased".to_owned(),
            Self::Drained => "this node has been drained: it makes no snowflake ids".to_owned(),
            Self::ClockBehindRecord { by, .. } => {
                format!("the clock is {} behind this node's record of snowflake ids", duration(*by))
            }
            Self::ClockJumped { by, .. } => {
                format!("the clock jumped forward by {}", duration(*by))
            }
            Self::ClockUncertain { error, .. } => {
                format!("the clock error may be as large as {}", duration(*error))
            }
            Self::ClockUnknown { .. } => {
                "the clock error is not known: the kernel may not be asked".to_owned()
            }
            Self::ClockBehind { by, .. } => {
                format!("the clock is {} behind this node's snowflake ids", duration(*by))
            }
            Self::TimeExhausted { layout } => {
                format!("the time field of layout {} is used up", name(layout))
            }
            Self::BadSetting { setting, value, .. } => {
                format!("invalid value for parameter \"{setting}\": \"{value}\"")
            }
            Self::BadLayout { text, .. } => format!("invalid snowflake layout \"{text}\""),
            Self::BadDatabase => "not a database for the keeper of snowflake ids".to_owned(),
            Self::BadRegistry { .. } => "invalid address of a registry".to_owned(),
            Self::BadRange { text, .. } => format!("invalid range of worker ids \"{text}\""),
            Self::BadEpoch { text } => format!("invalid epoch \"{text}\""),
            Self::BatchNull => "the number of snowflake ids must not be null".to_owned(),
            Self::BatchNegative { n } => {
                format!("the number of snowflake ids must not be negative: {n}")
            }
            Self::BatchTooLarge { n, max } => {
                format!("{n} snowflake ids are more than one batch may have: {max}")
            }
            Self::OutOfMemory { n } => format!("no memory for an array of {n} snowflake ids"),
            Self::NoLastval => "no snowflake id has been made in this session yet".to_owned(),
            Self::FieldOutOfRange { field, value, .. } => {
                format!("{} is out of range: {value}", argument(*field))
            }
            Self::FieldMissing { field, .. } => {
                format!("{} must not be null", argument(*field))
            }
            Self::FieldNotInLayout { field, .. } => {
                format!("{} must be null", argument(*field))
            }
            Self::NotOfLayout { id, layout } => {
                format!("{id} is not a snowflake id of layout {}", name(layout))
            }
            Self::TimeOutOfRange { time, layout } => {
                format!("{time} is outside of layout {}", name(layout))
            }
            Self::NotATimestamp => "the id's time is outside of the range of timestamps".to_owned(),
            Self::NotAnId { id } => format!("{id} is not a snowflake id"),
            Self::AuditNotKept => "the result of the audit is not kept".to_owned(),
            Self::AuditNull => "relation and column_name must not be null".to_owned(),
            Self::NoColumn { column, relation } => {
                format!("column \"{column}\" of relation {relation} does not exist")
            }
            Self::NoRelation { oid } => format!("relation with OID {oid} does not exist"),
            Self::RunsOthers { relation, role, .. } => {
                format!("cannot audit relation {relation} as role \"{role}\"")
            }
            Self::HiddenRows { relation, .. } => {
                format!("the audit may have missed rows of relation {relation}")
            }
            Self::ColumnType { column, relation, types } => {
                format!("column {column} of relation {relation} must be of type {types}")
            }
            Self::BadSample { share } => format!("sample is out of range: {share}"),
            Self::BadText { form, text, .. } => {
                format!("invalid {} snowflake id: \"{text}\"", form.name())
            }
        }
    }

    /// Detail and hint; empty where there is nothing to add.
    pub(crate) fn help(&self) -> (String, String) {
        let (detail, hint) = match self {
            Self::NotPreloaded => (
                "The ids of a node come from its shared memory. Reading ids works without.".to_owned(),
                settings::preload_statement().map_or_else(
                    || "A superuser is shown the statement that adds it to what is preloaded: SELECT hint FROM snowflake_status;".to_owned(),
                    |statement| format!("{statement} Then restart the server."),
                ),
            ),
            Self::NoWorkerId { layout } => (
                format!(
                    "snowflake_id.worker_id is not set. Layout {} takes 0 to {}.",
                    name(layout),
                    layout.max(Field::Worker)
                ),
                format!(
                    "Give every node a number of its own: ALTER SYSTEM SET snowflake_id.worker_id = {}; SELECT pg_reload_conf(); Or set snowflake_id.registry, to have it leased.",
                    layout.max(Field::Worker).min(1)
                ),
            ),
            Self::NoDatacenterId { layout } => (
                format!(
                    "snowflake_id.datacenter_id is not set. Layout {} takes 0 to {}.",
                    name(layout),
                    layout.max(Field::Datacenter)
                ),
                "Datacenter and worker id together name the node: ALTER SYSTEM SET snowflake_id.datacenter_id = 1; SELECT pg_reload_conf();".to_owned(),
            ),
            Self::Standby => (
                "This server is a standby.".to_owned(),
                "Insert on the primary. Reading ids works on a standby.".to_owned(),
            ),
            Self::KeeperNotReady { keeper } => keeper.help(),
            Self::NoDatabase { database } => (
                "The keeper keeps this node's record there (snowflake_id.database). The server's log says why it could not connect.".to_owned(),
                format!("If it does not exist: CREATE DATABASE {}; Or name another database: ALTER SYSTEM SET snowflake_id.database = '...', and restart the server.", quote_identifier(database)),
            ),
            Self::NoExtension { database, why } => (
                format!("The keeper keeps this node's record in tables of the extension. {}", sentence(why)).trim_end().to_owned(),
                format!("The keeper tries again. To try it by hand, connect to database \"{database}\" and run: CREATE EXTENSION {EXTENSION};"),
            ),
            Self::SchemaTaken { database } => (
                "The keeper creates the extension, and its script the schema: in one that somebody has made before, objects of his could be run with the rights of a superuser.".to_owned(),
                format!("See what the schema holds; then connect to database \"{database}\" and run: ALTER SCHEMA {EXTENSION} RENAME TO {EXTENSION}_old;"),
            ),
            Self::TableChanged { what: Changed { what, undo, .. } } => (
                what.clone(),
                format!("If nobody needs it: {undo}"),
            ),
            Self::NoNodeExtension => (
                "A registry keeps its leases in tables of the extension.".to_owned(),
                format!("As a superuser: CREATE EXTENSION {EXTENSION};"),
            ),
            Self::MayNotCall { .. } => (
                "What the owner of a database is granted is for GRANT ... ON ALL FUNCTIONS only.".to_owned(),
                "As a superuser, grant the right to a role: GRANT EXECUTE ON FUNCTION ... TO ...;".to_owned(),
            ),
            Self::CannotReserve { why } => (
                format!("Its last attempt to write this node's record failed: {why}"),
                "Ids flow again by themselves when the cause is mended.".to_owned(),
            ),
            Self::LayoutChanged { was, epoch, layout } => (
                format!("The ids that this node has made are of layout \"{was}\" with epoch {}; the layout in force is \"{layout}\" with epoch {}. It would read the old ones wrongly.", shown(Some(*epoch)), shown(Some(layout.epoch()))),
                "Set snowflake_id.layout and snowflake_id.epoch back and restart the server.".to_owned(),
            ),
            Self::Copy { of } => (
                format!("Node {of} has the same worker id, and is of the same cluster and timeline."),
                "Give this node a worker id of its own: ALTER SYSTEM SET snowflake_id.worker_id = N; SELECT pg_reload_conf(); Or, if the other one will never run again: ALTER SYSTEM SET snowflake_id.on_copy = 'warn'; and restart the server.".to_owned(),
            ),
            Self::WorkerIdInUse { by, copy, updated_at } => (
                format!(
                    "Node {by} wrote it last at {}.{}",
                    shown(Some(*updated_at)),
                    if *copy { " One of the two data directories is a copy of the other." } else { "" },
                ),
                "Two running nodes with one worker id make the same ids. Give this one another: ALTER SYSTEM SET snowflake_id.worker_id = N; SELECT pg_reload_conf(); Or, if the other one will never run again: DELETE FROM snowflake_id_node.high_water_marks WHERE node = '...';".to_owned(),
            ),
            Self::TwoSources => (
                "snowflake_id.worker_id and snowflake_id.registry are both set.".to_owned(),
                "Keep one of them: ALTER SYSTEM SET snowflake_id.worker_id = -1; or ALTER SYSTEM SET snowflake_id.registry = ''; then SELECT pg_reload_conf();".to_owned(),
            ),
            Self::NoLease { why } => (
                sentence(why),
                "Ids flow by themselves when a worker id can be leased. SELECT * FROM snowflake_status shows since when it cannot.".to_owned(),
            ),
            Self::LeaseClaimed { number, until } => (
                format!("Worker id {number} has been claimed; nodes that have an older right to it may object until {}.", shown(Some(*until))),
                "Try again.".to_owned(),
            ),
            Self::LeaseEnded { at, why } => (
                format!("It ended at {}. {}", shown(Some(*at)), sentence(why)).trim_end().to_owned(),
                "Ids flow again by themselves when the lease is renewed, or another worker id leased.".to_owned(),
            ),
            Self::WorkerIdLost { to, same } => (
                if *same {
                    format!("A node that calls itself {to}, as this one does, has taken over its lease: it is a clone that runs beside its original.")
                } else {
                    format!("Node {to} uses it by a lease that the registry gave it: the registry has forgotten this node's, as one that was restored from a backup.")
                },
                "This node leases another worker id by itself. Look for duplicates among the ids of the last heartbeats.".to_owned(),
            ),
            Self::NotLeased => (
                "It is set by snowflake_id.worker_id.".to_owned(),
                "To change it: ALTER SYSTEM SET snowflake_id.worker_id = N; SELECT pg_reload_conf();".to_owned(),
            ),
            Self::Drained => (
                String::new(),
                "To let it make ids again: SELECT snowflake_resume();".to_owned(),
            ),
            Self::BadRegistry { why } => (
                sentence(why),
                "For example: postgres://user@host/database?password_file=/file, etcd://host:2379/prefix or zookeeper://host:2181/path.".to_owned(),
            ),
            Self::BadRange { layout, .. } => (
                format!("A range is two worker ids, the smaller first, such as 0-99; layout {} takes 0 to {}.", name(layout), layout.max(Field::Worker)),
                String::new(),
            ),
            Self::RunsOthers { role, what, owner, .. } => (
                format!("To read it runs {what} of role \"{owner}\", with the rights of role \"{role}\"."),
                AS_OWNER_HINT.to_owned(),
            ),
            Self::HiddenRows { role, why, .. } => (
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
            Self::BadSample { .. } => (
                "It is the share of ids to look at: above 0, and at most 1.".to_owned(),
                String::new(),
            ),
            Self::ClockBehindRecord { by, now } => (
                format!(
                    "The clock reads {}; ids can be made again from {} on.",
                    shown(Some(*now)),
                    shown(now.checked_add_unsigned(*by)),
                ),
                CLOCK_HINT.to_owned(),
            ),
            Self::ClockJumped { now, max, .. } => (
                format!(
                    "The clock reads {}. Jumps beyond {} are not believed (snowflake_id.max_clock_jump).",
                    shown(Some(*now)),
                    duration(*max),
                ),
                "Put the clock right, and ids flow again by themselves. If it is right now: SELECT snowflake_accept_clock();".to_owned(),
            ),
            Self::ClockUncertain { max, .. } => (
                format!("That is the kernel's estimate; up to {} is allowed (snowflake_id.max_clock_error).", duration(*max)),
                "Ids flow again by themselves when it is smaller. Check the machine's time synchronisation (NTP): chronyc tracking, or timedatectl timesync-status.".to_owned(),
            ),
            Self::ClockUnknown { max } => (
                format!("Up to {} is allowed (snowflake_id.max_clock_error), and adjtimex is forbidden to this server.", duration(*max)),
                "Allow it: the seccomp profile of a container, or ProtectClock of a systemd unit, forbids it. Or make ids without asking: ALTER SYSTEM SET snowflake_id.max_clock_error = 0; SELECT pg_reload_conf();".to_owned(),
            ),
            Self::ClockBehind { by, now, max_wait } => (
                format!(
                    "The clock reads {}; ids can be made again from {} on. Up to {} is waited for (snowflake_id.max_wait).",
                    shown(Some(*now)),
                    shown(now.checked_add_unsigned(*by)),
                    duration(max_wait.as_micros() as u64),
                ),
                CLOCK_HINT.to_owned(),
            ),
            Self::TimeExhausted { layout } => (
                format!("The layout ended at {}.", shown(layout.ends_at())),
                "New keys need a layout with a wider time field or a later epoch, and a way to tell them from the old ones.".to_owned(),
            ),
            Self::BadSetting { why, .. } => {
                let (detail, hint) = why.help();
                (detail, format!("Correct it in postgresql.conf, or in postgresql.auto.conf after ALTER SYSTEM, and start the server again. {hint}").trim_end().to_owned())
            }
            Self::BadLayout { why, .. } => (layout_detail(why), layout_hint(why)),
            Self::BadEpoch { .. } => (
                "An epoch is a timestamp with its offset from UTC.".to_owned(),
                "For example: 2025-01-01 00:00:00+00".to_owned(),
            ),
            Self::BadDatabase => (
                "A database's name has 1 to 63 bytes; template0 and template1 must have no connections, and the keeper stays connected.".to_owned(),
                "For example: postgres".to_owned(),
            ),
            Self::BatchNull | Self::BatchNegative { .. } => (
                String::new(),
                "Ask for a number from 0 to snowflake_id.max_batch.".to_owned(),
            ),
            Self::BatchTooLarge { n, .. } if *n > MAX_BATCH_LIMIT => {
                (String::new(), "Ask several times.".to_owned())
            }
            Self::BatchTooLarge { n, .. } => (
                String::new(),
                format!("Ask several times, or have a superuser allow it: SET snowflake_id.max_batch = {n};"),
            ),
            Self::OutOfMemory { .. } => (
                String::new(),
                "snowflake_batch(n) makes the same ids as rows and needs no memory for them.".to_owned(),
            ),
            Self::NoLastval => (
                String::new(),
                "snowflake_lastval() returns the last id that the same session made with snowflake_nextval() or a batch.".to_owned(),
            ),
            Self::AuditNotKept => (
                format!("It is kept in {EXTENSION}.audits, where extension {EXTENSION} is and the caller may write to it."),
                format!("As a superuser: CREATE EXTENSION {EXTENSION}; GRANT SELECT, INSERT, DELETE ON {EXTENSION}.audits TO ...;"),
            ),
            Self::AuditNull
            | Self::NoRelation { .. }
            | Self::NoColumn { .. }
            | Self::ColumnType { .. } => (
                String::new(),
                "For example: SELECT * FROM snowflake_audit('orders', 'id');".to_owned(),
            ),
            Self::NotATimestamp => (String::new(), WRONG_LAYOUT_HINT.to_owned()),
            Self::FieldOutOfRange { field, layout, .. } if layout.bits(*field) == 0 => (
                format!("Layout {} has no {field} field.", name(layout)),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::FieldOutOfRange { field, layout, .. } => (
                format!(
                    "The {field} field of layout {} takes 0 to {}.",
                    name(layout),
                    layout.max(*field)
                ),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::FieldMissing { field, layout } => (
                format!("Layout {} has a {field} field.", name(layout)),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::FieldNotInLayout { field, layout } => (
                format!("Layout {} has no {field} field.", name(layout)),
                LAYOUT_IN_FORCE_HINT.to_owned(),
            ),
            Self::NotOfLayout { id, .. } => (
                if *id < 0 {
                    "Snowflake ids are never negative.".to_owned()
                } else {
                    "The number has a bit set that the layout leaves zero.".to_owned()
                },
                WRONG_LAYOUT_HINT.to_owned(),
            ),
            Self::TimeOutOfRange { layout, .. } => (
                format!(
                    "The layout holds times from {} up to {}.",
                    shown(Some(layout.epoch())),
                    shown(layout.ends_at())
                ),
                "For a search, snowflake_between() and snowflake_lower_bound() take any time.".to_owned(),
            ),
            Self::NotAnId { .. } => ("Snowflake ids are never negative.".to_owned(), String::new()),
            Self::BadText { form, why, .. } => {
                (form.detail(why), format!("snowflake_{}(id) writes such a text.", form.name()))
            }
        };
        (detail, hint)
    }

    /// Message and detail as sentences, and the hint.
    pub(crate) fn in_words(&self) -> (String, String) {
        let (detail, hint) = self.help();
        (format!("{} {detail}", sentence(&self.message())).trim_end().to_owned(), hint)
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
        let (detail, hint) = self.help();
        let message = format!("{prefix}{}", self.message());
        encoding::report(level, self.code(), &message, &detail, &hint);
    }
}

impl From<Unusable> for Error {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::NoExtension => Self::NoNodeExtension,
            Unusable::Changed(what) => Self::TableChanged { what },
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
                "Try again. If it stays so, look for the worker in the server's log; it needs one of max_worker_processes.".to_owned(),
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
