//! Audits of columns: one query that reads a column and sorts it, and what is done with each row
//! by the two functions that the query calls. So it works on whatever can be read, sorts with the
//! memory that `work_mem` allows, and can be cancelled anywhere.

use crate::error::Error;
use crate::schema;
use crate::settings;
use crate::tables::{AUDITS, HIGH_WATER_MARKS, REGISTRY, Table, Unusable};
use crate::time::{WallClock, from_unix, to_unix, uptime};
use pgrx::datum::{DatumWithOid, Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::spi::{self, SpiTupleTable};
use snowflake_core::audit::{Audit, Expected, Finding, Sample};
use snowflake_core::{Clock, Field, Layout};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::os::raw::c_int;

/// Progress is said after each tenth of the rows, but not more often than after so many.
const STEP: u64 = 1_000_000;

/// What was found: the finding, datacenter and worker id, how many rows, examples.
pub(crate) type Row = (&'static str, Option<i32>, Option<i32>, i64, Option<Vec<i64>>);

/// What is to be looked at, and what for; as the arguments of `snowflake_audit`.
pub(crate) struct Request<'a> {
    pub(crate) relation: pg_sys::Oid,
    pub(crate) column: &'a str,
    pub(crate) created: Option<&'a str>,
    pub(crate) workers: Option<Vec<RangeInclusive<u64>>>,
    pub(crate) since: Option<TimestampWithTimeZone>,
    pub(crate) share: f64,
    /// In microseconds.
    pub(crate) tolerance: u64,
}

/// An audit under way in this session.
struct Running {
    audit: Audit,
    sample: Sample,
    relation: String,
    /// Rows that there are, as far as the planner knows; 0 where it does not.
    rows: u64,
    read: u64,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Audits, and leaves the result in the place of the last one's.
pub(crate) fn audit(request: Request<'_>, layout: &Layout) -> Result<Vec<Row>, spi::Error> {
    let Request { relation, column: column_name, created, workers, since, share, tolerance } =
        request;
    let Some(sample) = Sample::of(share) else { Error::BadSample { share }.raise() };
    // From here on it has the name that it has.
    // SAFETY: takes a number, of whatever.
    #[allow(unsafe_code)]
    unsafe {
        pg_sys::LockRelationOid(relation, pg_sys::AccessShareLock as i32);
    }
    let column = column(relation, column_name)?.of_type(&[pg_sys::INT8OID], "bigint");
    let created = created.map(|name| self::column(relation, name)).transpose()?.map(|created| {
        let types = [pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPOID, pg_sys::DATEOID];
        created.of_type(&types, "timestamptz, timestamp or date")
    });
    let owner = readable(relation, &column, created.as_ref())?;
    let (begun, uptime_begun) = (WallClock.now(), uptime());
    let schema = schema::find()?.unwrap_or_default();
    let query = query(&schema, &column, created.as_ref());
    let first = since.map_or(i64::MIN, |since| layout.lower_bound(to_unix(since)));
    let expected = Expected {
        layout: *layout,
        before: begun,
        workers,
        known: known(layout)?,
        tolerance: created.map(|_| tolerance),
    };
    let (audit, rows) = (Audit::new(expected), expected_rows(relation)?);
    let running = Running { audit, sample, relation: column.relation, rows, read: 0 };
    let found = rows_of(&run(&query, first, running, owner)?, layout);

    let about = About { relation, column_name, since, share, begun, took: uptime() - uptime_begun };
    keep(&about, &found)?;
    Ok(found)
}

/// Whether an id, which has just been read, belongs to the sample. Says how far the audit is.
pub(crate) fn read(id: i64) -> bool {
    let (takes, read) = RUNNING.with_borrow_mut(|running| {
        let Some(running) = running else { return (true, None) };
        running.read += 1;
        (running.sample.takes(id), running.progress(running.read, "read"))
    });
    read.inspect(|read| notice!("{read}"));
    takes
}

/// Judges the next id, in their order.
pub(crate) fn judge(id: i64, created: Option<TimestampWithTimeZone>) {
    let judged = RUNNING.with_borrow_mut(|running| {
        let running = running.as_mut()?;
        if running.audit.rows() == 0 {
            // Here, because all rows that the query can see were made before it began.
            let ahead = settings::max_ahead();
            running.audit.set_clock(WallClock.now().saturating_add_unsigned(ahead));
        }
        running.audit.row(id, created.map(to_unix));
        running.progress(running.audit.rows(), "judged")
    });
    judged.inspect(|judged| notice!("{judged}"));
}

impl Running {
    /// How far it is, if it is time to say so.
    fn progress(&self, done: u64, how: &str) -> Option<String> {
        let due = done.is_multiple_of(STEP.max(self.rows / 10));
        due.then(|| match self.rows {
            0 => format!("snowflake_audit: {done} rows of {} {how}", self.relation),
            rows => {
                format!("snowflake_audit: {done} of about {rows} rows of {} {how}", self.relation)
            }
        })
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

/// A column, and what it is a column of, as they are written in a statement.
struct Column {
    name: String,
    relation: String,
    number: i32,
    /// Of its values, under all domains.
    type_id: pg_sys::Oid,
}

fn column(relation: pg_sys::Oid, name: &str) -> Result<Column, spi::Error> {
    let (of, found, type_id, number) = one_row(
        "WITH RECURSIVE c (relation, name, type, number) AS (
             SELECT r.oid::regclass::text, quote_ident(a.attname), a.atttypid, a.attnum::integer
             FROM (SELECT $1) AS r (oid)
             LEFT JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = $2
                 AND a.attnum > 0 AND NOT a.attisdropped
             UNION ALL
             SELECT c.relation, c.name, t.typbasetype, c.number
             FROM c JOIN pg_type t ON t.oid = c.type AND t.typtype = 'd'
         )
         SELECT CASE WHEN getdatabaseencoding() = 'UTF8' OR c.relation ~ '^[[:ascii:]]*$'
                     THEN c.relation END, c.name, c.type, c.number
         FROM c LEFT JOIN pg_type t ON t.oid = c.type WHERE t.typtype IS DISTINCT FROM 'd'",
        &[relation.into(), name.into()],
        |row| {
            let (relation, name) = (row.get::<String>(1)?, row.get::<String>(2)?);
            Ok((relation, name, row.get::<pg_sys::Oid>(3)?, row.get::<i32>(4)?))
        },
    )?;
    let Some(relation) = of else { Error::NotAscii.raise() };
    match found.zip(type_id).zip(number) {
        Some(((name, type_id), number)) => Ok(Column { name, relation, number, type_id }),
        None => Error::NoColumn { column: name.to_owned(), relation }.raise(),
    }
}

impl Column {
    /// An error where its values are of none of these types. A cast to them is not enough: if
    /// somebody has made it, whoever audits would run it.
    fn of_type(self, types: &[pg_sys::Oid], names: &'static str) -> Self {
        if !types.contains(&self.type_id) {
            let Self { name: column, relation, .. } = self;
            Error::ColumnType { column, relation, types: names }.raise();
        }
        self
    }
}

/// The owner of a relation; an error where the caller may not read the columns, or would not see
/// all rows.
fn readable(
    relation: pg_sys::Oid,
    column: &Column,
    created: Option<&Column>,
) -> Result<pg_sys::Oid, spi::Error> {
    let numbers: Vec<i32> = std::iter::once(column).chain(created).map(|c| c.number).collect();
    let (owner, allowed, hidden) = one_row(
        "SELECT c.relowner, has_table_privilege(c.oid, 'SELECT') OR (
                    SELECT bool_and(has_column_privilege(c.oid, n::smallint, 'SELECT'))
                    FROM unnest($2) AS n),
                row_security_active(c.oid)
         FROM pg_class c WHERE c.oid = $1",
        &[relation.into(), numbers.into()],
        |row| Ok((row.get::<pg_sys::Oid>(1)?, row.get::<bool>(2)?, row.get::<bool>(3)?)),
    )?;
    let relation = || column.relation.clone();
    if allowed != Some(true) {
        Error::MayNotRead { relation: relation() }.raise();
    }
    if hidden != Some(false) {
        Error::HiddenRows { relation: relation() }.raise();
    }
    owner.ok_or(spi::Error::NoTupleTable)
}

/// While it lives, statements run as somebody else, who can do nothing in them that would outlast
/// them; as PostgreSQL's own maintenance commands do it.
struct AsOwner {
    user: pg_sys::Oid,
    context: c_int,
}

impl AsOwner {
    /// Whatever a table turns out to be when its rows are read (its owner can put a view in its
    /// place), its owner's functions are not run by whoever audits.
    fn begin(owner: pg_sys::Oid) -> Self {
        let mut before = Self { user: pg_sys::InvalidOid, context: 0 };
        // SAFETY: two places to write to. What is changed is changed back by `drop`, and by
        // PostgreSQL where the transaction is aborted.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::GetUserIdAndSecContext(&raw mut before.user, &raw mut before.context);
            let context = before.context | pg_sys::SECURITY_RESTRICTED_OPERATION as c_int;
            pg_sys::SetUserIdAndSecContext(owner, context);
        }
        before
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        // SAFETY: what `begin` found.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
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

/// The query that hands each id to `read`, and in their order to `judge`. That one stands in the
/// select list, because a condition could be moved below the sort.
fn query(schema: &str, id: &Column, created: Option<&Column>) -> String {
    let Column { name, relation, .. } = id;
    let created = created.map_or("NULL".to_owned(), |created| created.name.clone());
    format!(
        "SELECT count({schema}.snowflake_audit_judges(id, created)) FROM (
             SELECT {name}::bigint AS id, {created}::timestamptz AS created FROM {relation}
             WHERE {name}::bigint >= $1 AND {schema}.snowflake_audit_reads({name}::bigint)
             ORDER BY id, created OFFSET 0
         ) AS ids"
    )
}

/// Audits ids from the given one on.
fn run(query: &str, since: i64, running: Running, owner: pg_sys::Oid) -> Result<Audit, spi::Error> {
    /// The audit that this one is a part of, by a view that audits. It goes on also where this one
    /// ends with an error.
    struct Outer(Option<Running>);
    impl Drop for Outer {
        fn drop(&mut self) {
            RUNNING.set(self.0.take());
        }
    }
    let _outer = Outer(RUNNING.replace(Some(running)));
    let as_owner = AsOwner::begin(owner);
    one_row(query, &[since.into()], |_| Ok(()))?;
    drop(as_owner);
    // Nothing in the query could have taken it.
    RUNNING.take().map(|running| running.audit).ok_or(spi::Error::NoTupleTable)
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
    column_name: &'a str,
    since: Option<TimestampWithTimeZone>,
    share: f64,
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
        notice!("snowflake_audit: the result is not kept: the transaction is read-only");
        return Ok(());
    }
    // Each of them: a list of rights is satisfied by any.
    let rights = ["INSERT", "DELETE"].map(|right| may(&AUDITS, right));
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
    let &About { relation, column_name, since, share, begun, took } = about;
    let partial = since.is_some() || share < 1.0;
    Spi::connect_mut(|client| {
        // A look at a part says nothing of what was found in the rest.
        let last = format!(
            "DELETE FROM {table} WHERE relation = $1 AND column_name = $2 AND (partial OR NOT $3)"
        );
        client.update(&last, None, &[relation.into(), column_name.into(), partial.into()])?;
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
                column_name.into(),
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
