//! The high-water marks: this node's record in a table, read and written in transactions that
//! end well or leave a reason.
#![allow(unsafe_code)]

use super::signals;
use crate::encoding::{self, Text};
use crate::error::Error;
use crate::settings;
use crate::tables::{self, HIGH_WATER_MARKS, Unusable};
use crate::time::{from_unix, to_unix};
use crate::versions;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::spi::{self, SpiHeapTupleData};
use snowflake_core::keeper;
use snowflake_core::tenancy::KeptLease;
use snowflake_core::window::{self, NodeName, Number, Record};
use std::ffi::{CStr, c_int};
use std::fmt::{Display, Formatter};
use std::panic::AssertUnwindSafe;

/// Why the table could not be read or written.
#[derive(Debug)]
pub(super) enum Failure {
    /// The extension could not be created, by the server's error.
    NoExtension(String),
    /// Somebody else has made the extension's schema.
    SchemaTaken,
    /// The table is not used.
    Unusable(Unusable),
    /// The server's error.
    Failed(String),
}

/// What the keeper's session must be, whatever is configured for the database or the role.
const SESSION: &[(&CStr, &CStr)] = &[
    // The record is flushed before anything is issued from it, and replicated where the
    // cluster is synchronous.
    (c"synchronous_commit", c"on"),
    // A lock on the table ends in a reason, not in a keeper that is stuck. A backend's question may
    // have to wait for two attempts, and does so for five seconds.
    (c"lock_timeout", c"1s"),
    (c"statement_timeout", c"0"),
    (c"role", c"none"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"session_replication_role", c"origin"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"timezone", c"UTC"),
];

/// Connects this process, as the superuser that made the cluster. Where the database does not
/// exist, PostgreSQL ends the process.
pub(super) fn connect(database: &CStr) {
    // SAFETY: a C string, for the length of the call; null stands for the superuser. The one thread
    // of this process calls it once.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(database.as_ptr(), std::ptr::null(), 0);
    }
    for (name, value) in SESSION.iter().chain(versions::SESSION) {
        set(name, value);
    }
}

/// For the last write, which must not hold up the server's stop: a mark that is lowered to what
/// was really issued is no loss where it does not arrive.
pub(super) fn hurry() {
    set(c"synchronous_commit", c"local");
    set(c"lock_timeout", c"100ms");
}

fn set(name: &CStr, value: &CStr) {
    // SAFETY: C strings; both context and source stand above every other, so that neither a
    // reload nor a setting of the role or the database changes the value again.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// For the present transaction alone.
pub(super) fn set_here(name: &CStr, value: &CStr) {
    // SAFETY: as above. The source is that of a session: a value of any source up to
    // PGC_S_OVERRIDE would also become the one that PostgreSQL goes back to, and would stay.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// As many parameters as there are columns.
const VALUES: &str = "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16";

/// All records.
pub(super) fn read() -> Result<Vec<Record>, Failure> {
    with_extension(|| {
        let table = HIGH_WATER_MARKS.open(pg_sys::AccessShareLock as pg_sys::LOCKMODE)?;
        let select = format!("SELECT {} FROM ONLY {table}", HIGH_WATER_MARKS.columns());
        Spi::connect(|client| {
            client.select(&select, None, &[])?.map(|row| Ok(record(&row)?)).collect()
        })
    })
}

fn record(row: &SpiHeapTupleData<'_>) -> Result<Record, spi::Error> {
    let text = |column| {
        Ok::<_, spi::Error>(row.get::<Text>(column)?.map_or_else(String::new, |text| text.0))
    };
    let time = |column| {
        let time = row.get::<TimestampWithTimeZone>(column)?;
        Ok::<_, spi::Error>(time.map_or(0, to_unix))
    };
    let number = |column| {
        let number = row.get::<i32>(column)?;
        Ok::<_, spi::Error>(number.and_then(|number| u32::try_from(number).ok()))
    };
    Ok(Record {
        node: NodeName::parse(&text(1)?),
        reserved_until: row.get(2)?.unwrap_or(0),
        number: Number { datacenter_id: number(3)?, worker_id: number(4)? },
        layout: text(5)?,
        epoch: time(6)?,
        timeline: row.get::<i64>(7)?.and_then(|number| number.try_into().ok()).unwrap_or(0),
        updated_at: time(8)?,
        boot_id: text(9)?,
        booted_at: time(10)?,
        host: text(11)?,
        data_directory: text(12)?,
        lease: row
            .get::<Text>(13)?
            .map(|nonce| Ok::<_, spi::Error>(KeptLease { nonce: nonce.0, until: time(14)? }))
            .transpose()?,
        drained: row.get(15)?.unwrap_or(false),
        max_ahead: row.get::<i64>(16)?.and_then(|micros| micros.try_into().ok()).unwrap_or(0),
    })
}

/// Writes this node's record. When it returns well, the record is on disk and, where the
/// cluster replicates synchronously, on the standbys.
pub(super) fn write(record: &Record) -> Result<(), Failure> {
    with_extension(|| put(&writable()?, record))
}

/// The same, within a transaction.
fn put(table: &str, record: &Record) -> Result<(), Failure> {
    let time = |micros| from_unix(micros).ok();
    let integer = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
    let columns = HIGH_WATER_MARKS.columns();
    let values = [
        text(&record.node.to_string()).into(),
        record.reserved_until.into(),
        integer(record.number.datacenter_id).into(),
        integer(record.number.worker_id).into(),
        text(&record.layout).into(),
        time(record.epoch).into(),
        i64::from(record.timeline).into(),
        time(record.updated_at).into(),
        text(&record.boot_id).into(),
        time(record.booted_at).into(),
        text(&record.host).into(),
        text(&record.data_directory).into(),
        record.lease.as_ref().map(|lease| text(&lease.nonce)).into(),
        record.lease.as_ref().and_then(|lease| time(lease.until)).into(),
        record.drained.into(),
        i64::try_from(record.max_ahead).unwrap_or(i64::MAX).into(),
    ];
    Spi::connect_mut(|client| {
        let update = format!("UPDATE {table} SET ({columns}) = ROW ({VALUES}) WHERE node = $1");
        if client.update(&update, None, &values)?.is_empty() {
            let insert = format!("INSERT INTO {table} ({columns}) VALUES ({VALUES})");
            client.update(&insert, None, &values)?;
        }
        Ok(())
    })
}

/// Changes nothing of this node's record but these, and says whether there was one.
pub(super) fn amend(
    node: &NodeName,
    lease: Option<&KeptLease>,
    drained: bool,
) -> Result<bool, Failure> {
    let until = lease.and_then(|lease| from_unix(lease.until).ok());
    with_extension(|| {
        let table = writable()?;
        let values = [
            text(&node.to_string()).into(),
            lease.map(|lease| text(&lease.nonce)).into(),
            until.into(),
            drained.into(),
        ];
        let update = format!(
            "UPDATE {table} SET (lease, lease_until, drained) = ROW ($2, $3, $4) WHERE node = $1"
        );
        Spi::connect_mut(|client| Ok(!client.update(&update, None, &values)?.is_empty()))
    })
}

/// Rows that are older than their table: `pg_upgrade` makes tables anew, and takes the rows over as they
/// are. All other rows, also restored or replicated ones, are written when there is the table. A system
/// column's own row is as old as the table, whatever is done to that.
const OLDER_THAN_THE_TABLE: &str = "age(xmin) > (SELECT age(xmin) FROM pg_catalog.pg_attribute \
    WHERE attrelid = 'snowflake_id_node.high_water_marks'::regclass AND attname = 'ctid' AND age(xmin) >= 0)";

/// After an upgrade, the node goes on under its new name with what it had recorded by its old one.
pub(super) fn inherit(name: &NodeName, host: &str) -> Result<(), Failure> {
    let family = format!("{}-%", name.cluster);
    let past = with_extension(|| {
        let table = HIGH_WATER_MARKS.open(pg_sys::AccessShareLock as pg_sys::LOCKMODE)?;
        let select = format!(
            "SELECT {} FROM ONLY {table} WHERE {OLDER_THAN_THE_TABLE} \
             AND NOT EXISTS (SELECT FROM ONLY {table} WHERE node LIKE $1)",
            HIGH_WATER_MARKS.columns()
        );
        Spi::connect(|client| {
            let rows = client.select(&select, None, &[text(&family).into()])?;
            rows.map(|row| Ok(record(&row)?)).collect::<Result<Vec<_>, Failure>>()
        })
    })?;
    let Some(inherited) = window::before_an_upgrade(&past, host) else { return Ok(()) };
    let old = &inherited.record.node;
    let over = past.iter().filter(|record| inherited.is_over(record)).map(|record| &record.node);
    let over: Vec<Text> = over.chain([old]).map(|node| text(&node.to_string())).collect();
    transaction(|| {
        let table = writable()?;
        let delete =
            format!("DELETE FROM {table} WHERE {OLDER_THAN_THE_TABLE} AND node = ANY ($1)");
        Spi::connect_mut(|client| client.update(&delete, None, &[over.clone().into()]).map(drop))?;
        put(&table, &inherited.renamed(name.clone()))?;
        encoding::say(
            PgLogLevel::LOG,
            &format!("snowflake_id: after an upgrade, this node goes on with the record of {old}"),
        );
        Ok(())
    })
}

/// The table's name in SQL, to be written to.
fn writable() -> Result<String, Failure> {
    Ok(HIGH_WATER_MARKS.open(pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)?)
}

/// Runs something in a transaction; where the extension is missing, again after it was created.
/// So a node needs no more than its settings, also where somebody has dropped the extension.
fn with_extension<T>(work: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
    match transaction(&work) {
        Err(Failure::Unusable(Unusable::NoExtension)) => {
            create_extension()?;
            transaction(work)
        }
        result => result,
    }
}

/// Creates the extension whose tables the keeper needs. Its script runs nothing of others.
fn create_extension() -> Result<(), Failure> {
    let create = format!("CREATE EXTENSION IF NOT EXISTS {}", tables::EXTENSION);
    let (taken, created) = transaction(|| {
        let taken = tables::schema_is_taken();
        Ok((taken, if taken { Ok(()) } else { Spi::run(&create) }))
    })
    .map_err(|failure| Failure::NoExtension(failure.to_string()))?;
    if taken {
        return Err(Failure::SchemaTaken);
    }
    created?;
    let (extension, database) = (tables::EXTENSION, settings::database());
    encoding::say(
        PgLogLevel::LOG,
        &format!("snowflake_id: created extension {extension} in database \"{database}\""),
    );
    Ok(())
}

fn text(text: &str) -> Text {
    Text(text.to_owned())
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoExtension(why) | Self::Failed(why) => f.write_str(why),
            Self::SchemaTaken => f.write_str("its schema is not the extension's"),
            Self::Unusable(why) => f.write_str(&Error::from(why.clone()).in_words().0),
        }
    }
}

impl From<Failure> for keeper::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoExtension(why) => Self::NoExtension(why),
            Failure::SchemaTaken => Self::SchemaTaken,
            // The keeper has just created it.
            Failure::Unusable(Unusable::NoExtension) => Self::NoExtension(String::new()),
            Failure::Unusable(Unusable::Changed(what)) => Self::TableChanged(what.to_line()),
            Failure::Failed(why) => Self::Failed(why),
        }
    }
}

impl From<Unusable> for Failure {
    fn from(why: Unusable) -> Self {
        Self::Unusable(why)
    }
}

impl From<spi::Error> for Failure {
    fn from(error: spi::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs something in a transaction of its own. An error of PostgreSQL's ends the transaction,
/// not the keeper.
pub(super) fn transaction<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let Some(interruptible) = signals::Interruptible::begin() else {
        return Err(Failure::Failed("the server is being stopped".to_owned()));
    };
    let work = AssertUnwindSafe(|| BackgroundWorker::transaction(AssertUnwindSafe(work)));
    let result = PgTryBuilder::new(work)
        .catch_others(|error| Err(aborted(error)))
        .catch_rust_panic(|error| Err(aborted(error)))
        .execute();
    // The statistics of the table, by which autovacuum goes.
    // SAFETY: called outside of a transaction, as it must be.
    unsafe { pg_sys::pgstat_report_stat(false) };
    // A commit that was told to stop waiting for its standbys, or whose postmaster has died
    // meanwhile, returns like any other.
    // SAFETY: reads a flag that PostgreSQL sets in this process.
    let dying = unsafe { (&raw const pg_sys::ProcDiePending).read_volatile() } != 0;
    let interrupted = interruptible.end() || dying;
    match result {
        Ok(_) if interrupted => Err(Failure::Failed("the keeper was interrupted".to_owned())),
        result => result,
    }
}

// PostgreSQL's utils/timeout.h, which pgrx does not have. The number is the same from 15 to 18.
const STATEMENT_TIMEOUT: c_int = 3;
unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, millis: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// The same, for so many milliseconds at most.
pub(super) fn bounded<T>(
    millis: c_int,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    // The setting statement_timeout is for statements of clients only.
    // SAFETY: the timeout is registered in every process with a database; it comes as a signal, by
    // which a transaction of this process is interrupted, and nothing else.
    unsafe { enable_timeout_after(STATEMENT_TIMEOUT, millis) };
    let result = transaction(work);
    // SAFETY: as above.
    unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
    result
}

fn aborted(error: CaughtError) -> Failure {
    // SAFETY: the error was raised inside the transaction that this process began, and has been
    // caught; nothing of it is used after this.
    unsafe { pg_sys::AbortCurrentTransaction() };
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = error;
    // Without its detail, which may show rows: everybody may read the status.
    Failure::Failed(report.message().to_owned())
}
