//! Audits of columns: what is read is sorted and judged, and the result is kept. `look` reads: with
//! the memory that `work_mem` allows, whatever can be selected from, and cancelled anywhere.

mod look;

use crate::encoding;
use crate::error::Error;
use crate::settings;
use crate::tables::{AUDITS, HIGH_WATER_MARKS, REGISTRY, Table, Unusable};
use crate::time::{WallClock, from_unix, to_unix, uptime};
use look::{Column, Judge, Query, Relation};
use pgrx::datum::{DatumWithOid, Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::spi::{self, SpiTupleTable};
use snowflake_core::audit::{Audit, Expected, Finding, Sample};
use snowflake_core::{Clock, Field, Layout};
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ops::RangeInclusive;

pub(crate) use look::Hidden;

/// Progress is said after each tenth of the rows, but not more often than after so many.
const STEP: u64 = 1_000_000;

/// What was found: the finding, datacenter and worker id, how many rows, examples.
pub(crate) type Row = (&'static str, Option<i32>, Option<i32>, i64, Option<Vec<i64>>);

/// What is to be looked at, and what for; as the arguments of `snowflake_audit`.
pub(crate) struct Request<'a> {
    pub(crate) relation: pg_sys::Oid,
    pub(crate) column: &'a CStr,
    pub(crate) created: Option<&'a CStr>,
    pub(crate) workers: Option<Vec<RangeInclusive<u64>>>,
    pub(crate) since: Option<TimestampWithTimeZone>,
    pub(crate) share: f64,
    /// In microseconds.
    pub(crate) tolerance: u64,
}

/// An audit under way.
struct Running {
    audit: Audit,
    sample: Sample,
    relation: String,
    /// Rows that there are, as far as the planner knows; 0 where it does not.
    rows: u64,
    read: u64,
}

/// Audits, and leaves the result in the place of the last one's.
pub(crate) fn audit(request: Request<'_>, layout: &Layout) -> Result<Vec<Row>, spi::Error> {
    let Request { relation: oid, column, created, workers, since, share, tolerance } = request;
    let Some(sample) = Sample::of(share) else { Error::BadSample { share }.raise() };
    // From here on it is what it is.
    let Some(relation) = Relation::open(oid) else { Error::NoRelation { oid }.raise() };
    let id = column_of(&relation, column, &[pg_sys::INT8OID], "bigint");
    let created = created.map(|name| {
        let types = [pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPOID, pg_sys::DATEOID];
        column_of(&relation, name, &types, "timestamptz, timestamp or date")
    });
    let (begun, uptime_begun) = (WallClock.now(), uptime());
    let first = since.map_or(i64::MIN, |since| layout.lower_bound(to_unix(since)));
    let expected = Expected {
        layout: *layout,
        before: begun,
        workers,
        known: known(layout)?,
        tolerance: created.as_ref().map(|_| tolerance),
    };
    let (audit, rows) = (Audit::new(expected), expected_rows(oid)?);
    let mut running = Running { audit, sample, relation: relation.name(), rows, read: 0 };

    let reader = relation.reader();
    let query = Query { relation: &relation, id: &id, created: created.as_ref(), first };
    let hidden = look::look(&query, reader, &mut running);
    if let Some(why) = hidden {
        let (relation, role) = (running.relation.clone(), look::role_name(reader.role));
        Error::HiddenRows { relation, role, why }.report(PgLogLevel::WARNING, "");
    }
    let found = rows_of(&running.audit, layout);
    // A look at a part says nothing of what was found in the rest.
    let partial = since.is_some() || share < 1.0 || hidden.is_some();
    let took = uptime() - uptime_begun;
    let about = About { relation: oid, column: &id, since, share, partial, begun, took };
    keep(&about, &found)?;
    Ok(found)
}

impl Judge for Running {
    fn read(&mut self, id: i64) -> bool {
        self.read += 1;
        self.say(self.read, "read");
        self.sample.takes(id)
    }

    fn judge(&mut self, id: i64, created: Option<TimestampWithTimeZone>) {
        if self.audit.rows() == 0 {
            // Here, because all rows that the query can see were made before it began.
            let ahead = settings::max_ahead();
            self.audit.set_clock(WallClock.now().saturating_add_unsigned(ahead));
        }
        self.audit.row(id, created.map(to_unix));
        self.say(self.audit.rows(), "judged");
    }
}

impl Running {
    /// Says how far it is, if it is time to.
    fn say(&self, done: u64, how: &str) {
        if done.is_multiple_of(STEP.max(self.rows / 10)) {
            let about = match self.rows {
                0 => String::new(),
                rows => format!("of about {rows} "),
            };
            let of = &self.relation;
            encoding::say(
                PgLogLevel::NOTICE,
                &format!("snowflake_audit: {done} {about}rows of {of} {how}"),
            );
        }
    }
}

/// The one row of a query. `Spi::get_one` asks for a transaction id, which a standby has not.
fn one_row<T>(
    query: &str,
    values: &[DatumWithOid<'_>],
    read: impl FnOnce(&SpiTupleTable<'_>) -> Result<T, spi::Error>,
) -> Result<T, spi::Error> {
    Spi::connect(|client| read(&client.select(query, Some(1), values)?.first()))
}

/// A column; an error where there is none, or its values are of none of these types. A cast to them
/// is not enough: if somebody has made it, whoever audits would run it.
fn column_of(
    relation: &Relation,
    name: &CStr,
    types: &[pg_sys::Oid],
    names: &'static str,
) -> Column {
    let column = || encoding::from_server(name);
    let Some(found) = relation.column(name) else {
        Error::NoColumn { column: column(), relation: relation.name() }.raise()
    };
    if !types.contains(&found.type_id) {
        let (column, relation) = (column(), relation.name());
        Error::ColumnType { column, relation, types: names }.raise();
    }
    found
}

/// Rows that there are, as far as the planner knows.
fn expected_rows(relation: pg_sys::Oid) -> Result<u64, spi::Error> {
    one_row(
        "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_class c
         WHERE c.oid = $1 AND c.relkind <> 'p'
            OR c.oid IN (SELECT relid FROM pg_partition_tree($1) WHERE isleaf)",
        &[relation.into()],
        |row| Ok(row.get::<i64>(1)?.map_or(0, i64::unsigned_abs)),
    )
}

/// The nodes' worker ids that a registry in this database, or a node's own record, has heard of;
/// `None` where there is no registry, or where the caller may not read it.
fn known(layout: &Layout) -> Result<Option<BTreeSet<u64>>, spi::Error> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let tables = (may(&REGISTRY, "SELECT")? && may(&HIGH_WATER_MARKS, "SELECT")?)
        .then(|| REGISTRY.open(lock).and_then(|one| Ok((one, HIGH_WATER_MARKS.open(lock)?))));
    let (registry, marks) = match tables.transpose() {
        Ok(Some(tables)) => tables,
        Ok(None) | Err(Unusable::NoExtension) => return Ok(None),
        Err(changed) => Error::from(changed).raise(),
    };
    one_row(
        &format!(
            "SELECT array_agg(number) FROM (
                 SELECT number FROM ONLY {registry}
                 UNION SELECT coalesce(datacenter_id, 0)::bigint << $1 | worker_id
                 FROM ONLY {marks} WHERE worker_id IS NOT NULL
             ) AS numbers
             WHERE EXISTS (SELECT FROM ONLY {registry})"
        ),
        &[(layout.bits(Field::Worker) as i32).into()],
        |row| {
            let numbers = row.get::<Vec<i64>>(1)?;
            Ok(numbers.map(|numbers| numbers.into_iter().map(i64::cast_unsigned).collect()))
        },
    )
}

/// Whether the table is there and the caller has these rights on it.
fn may(table: &Table, rights: &str) -> Result<bool, spi::Error> {
    let query = "SELECT has_table_privilege(c.oid, $2) FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname || '.' || c.relname = $1";
    let values = [table.full_name().into(), rights.into()];
    Spi::connect(|client| {
        let rows = client.select(query, Some(1), &values)?;
        Ok(rows.map(|row| row.get::<bool>(1)).next().transpose()?.flatten() == Some(true))
    })
}

/// What was found, in words.
fn rows_of(audit: &Audit, layout: &Layout) -> Vec<Row> {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let number = |field, node| layout.number_in(field, node)?.try_into().ok();
    let findings = audit.findings().map(|(finding, tally)| {
        let examples = Some(tally.examples.clone()).filter(|examples| !examples.is_empty());
        (word(finding), None, None, count(tally.count), examples)
    });
    let workers = audit.numbers().map(|(node, span)| {
        let (datacenter, worker) = (number(Field::Datacenter, node), number(Field::Worker, node));
        ("worker", datacenter, worker, count(span.count), Some(vec![span.first, span.last]))
    });
    let all = std::iter::once(("rows", None, None, count(audit.rows()), None));
    let others = (audit.others() > 0).then(|| ("worker", None, None, count(audit.others()), None));
    all.chain(findings).chain(workers).chain(others).collect()
}

const fn word(finding: Finding) -> &'static str {
    match finding {
        Finding::Duplicate => "duplicate",
        Finding::AheadOfClock => "ahead_of_clock",
        Finding::BeforeEpoch => "before_epoch",
        Finding::NotOfLayout => "not_of_layout",
        Finding::ForeignWorker => "foreign_worker",
        Finding::UnknownWorker => "unknown_worker",
        Finding::Inversion => "inversion",
    }
}

/// What all rows of a result have in common.
struct About<'a> {
    relation: pg_sys::Oid,
    column: &'a Column,
    since: Option<TimestampWithTimeZone>,
    share: f64,
    partial: bool,
    /// Microseconds since 1970.
    begun: i64,
    /// In microseconds.
    took: i64,
}

/// Leaves the result of an audit in the place of the last one's.
fn keep(about: &About<'_>, found: &[Row]) -> Result<(), spi::Error> {
    let read_only =
        one_row("SELECT current_setting('transaction_read_only')::boolean", &[], |row| {
            row.get::<bool>(1)
        })?;
    if read_only == Some(true) {
        encoding::say(
            PgLogLevel::NOTICE,
            "snowflake_audit: the result is not kept: the transaction is read-only",
        );
        return Ok(());
    }
    // Each of them: a list of rights is satisfied by any.
    let rights = ["SELECT", "INSERT", "DELETE"].map(|right| may(&AUDITS, right));
    if !rights.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().all(|may| may) {
        Error::AuditNotKept.report(PgLogLevel::NOTICE, "");
        return Ok(());
    }
    // Two audits of a column take turns. A transaction that cannot see the result of another one
    // fails by the conflict below, as it should where it is isolated.
    let lock = pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE;
    let table = match AUDITS.open(lock) {
        Ok(table) => table,
        Err(why) => Error::from(why).raise(),
    };
    let &About { relation, column, since, share, partial, begun, took } = about;
    Spi::connect_mut(|client| {
        let last = format!(
            "DELETE FROM {table} WHERE relation = $1 AND column_name = $2 AND (partial OR NOT $3)"
        );
        client.update(&last, None, &[relation.into(), column.name(), partial.into()])?;
        let insert = format!(
            "INSERT INTO {table} (relation, column_name, since, sample, audited_at, duration,
                 finding, datacenter_id, worker_id, count, examples, partial)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (relation, column_name, partial, finding, datacenter_id, worker_id)
             DO NOTHING"
        );
        for (finding, datacenter, worker, count, examples) in found {
            let values = [
                relation.into(),
                column.name(),
                since.into(),
                share.into(),
                from_unix(begun).ok().into(),
                Interval::new(0, 0, took).ok().into(),
                (*finding).into(),
                (*datacenter).into(),
                (*worker).into(),
                (*count).into(),
                examples.clone().into(),
                partial.into(),
            ];
            client.update(&insert, None, &values)?;
        }
        Ok(())
    })
}
