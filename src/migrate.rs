//! Moving live tables to snowflake ids, and back. What is found and what is to run, is
//! `snowflake_migration`'s; here are its hands: what the catalogs say, and statements that run as they
//! stand in the plan.
//!
//! All of it acts as the table's owner, in an operation that can do nothing which outlasts it, for
//! whoever may act as the owner. The functions' `search_path` is `pg_catalog` (src/sql/migrate).
#![allow(unsafe_code)]

use crate::encoding::{self, Text, Verbatim, guarded};
use crate::error::Error;
use crate::generator::{Generator, generator};
use crate::rights::{as_role, of_relation};
use crate::settings;
use crate::shared::shared;
use crate::status;
use crate::tables::{CONVERSIONS, Unusable};
use crate::time::{WallClock, uptime};
use crate::versions::may_set_role;
use crate::wait::{WaitEvent, wait};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement};
use snowflake_core::{Clock, Layout};
use snowflake_migration::{Facts, SEALED_FROM, SEALED_TO, Sequence, Severity, Step, Table, plan};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

/// A statement that ran, and how long it took: microseconds.
pub(crate) type Ran = (String, i64);

/// How long a transaction may have a lock before nobody is made to wait behind us for it.
const OLD: &str = "1 second";
/// Of a floor or a jump that is believed where nothing is set: a day, in microseconds.
const DAY: u64 = 86_400_000_000;

/// What is to be converted, and how hard to try.
pub(crate) struct Request<'a> {
    pub(crate) relation: pg_sys::Oid,
    pub(crate) column: Option<&'a CStr>,
    /// How long the first lock is waited for: milliseconds.
    pub(crate) lock_timeout: i64,
    pub(crate) attempts: i32,
    /// Findings that have been read.
    pub(crate) accept: Vec<String>,
}

/// A plan is for so many milliseconds, which is what a conversion has if nothing else is said.
pub(crate) const PLANNED: i64 = 100;

fn milliseconds(lock_timeout: i64) -> String {
    format!("{lock_timeout}ms")
}

/// Does something whose settings end with it.
pub(crate) fn with_own_settings<T>(work: impl FnOnce() -> T) -> T {
    guarded(|| {
        // SAFETY: a level of settings that ends below, or with the transaction where that fails.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            let done = work();
            pg_sys::AtEOXact_GUC(false, level);
            done
        }
    })
}

/// The plan; it writes nothing.
pub(crate) fn planned(
    relation: pg_sys::Oid,
    column: Option<&CStr>,
) -> Result<Vec<Step>, spi::Error> {
    check_exists(relation);
    let catalogs = Catalogs::prepare(PLANNED)?;
    let request = Request { relation, column, lock_timeout: PLANNED, attempts: 1, accept: vec![] };
    let mut facts = look(&request, || catalogs.facts(relation, column, None))?;
    // The keys are read, and somebody may have locked them.
    match subtransaction(|| read_values(&mut facts)) {
        Ok(done) => done?,
        Err(error) if !is_locked(&error) => error.rethrow(),
        Err(_) => in_the_way_of(&request, in_the_way(&targets(&facts), false)?),
    }
    Ok(plan(&facts, &milliseconds(PLANNED)))
}

/// Converts: one transaction, the caller's.
pub(crate) fn convert(request: &Request<'_>) -> Result<Vec<Ran>, spi::Error> {
    let Request { relation, column, lock_timeout, .. } = *request;
    let catalogs = begin(request)?;
    let lock_timeout = milliseconds(lock_timeout);
    // That ids flow, is seen by one.
    let id = generator().and_then(Generator::next).ok();
    let first = look(request, || catalogs.facts(relation, column, id))?;
    check(&plan(&first, &lock_timeout), &first, &request.accept);
    retry(request, &targets(&first), || {
        as_owner(&first, || {
            // With the greatest key, before anybody has to wait for it to be found.
            let mut facts = undone(|| catalogs.facts_again(relation, column, &first))?;
            check(&plan(&facts, &lock_timeout), &facts, &request.accept);
            lock_views(&facts);
            let mut ran = run(&snowflake_migration::locks(&facts, &lock_timeout))?;
            lock_sequences(&facts);
            // As it is now that nobody else can change it.
            facts = catalogs.facts_again(relation, column, &facts)?;
            let steps = plan(&facts, &lock_timeout);
            check(&steps, &facts, &request.accept);
            ran.extend(run(&behind_locks(&steps, &facts))?);
            let now = catalogs.read(relation, column, false)?;
            if !snowflake_migration::is_converted(&facts, &now) {
                Error::Moved { oid: relation }.raise();
            }
            keep(&facts)?;
            Ok(ran)
        })
    })
}

/// Takes a conversion back.
pub(crate) fn revert(request: &Request<'_>) -> Result<Vec<Ran>, spi::Error> {
    end(request, |catalogs, kept| {
        let lock_timeout = milliseconds(request.lock_timeout);
        let before = kept.now(catalogs)?;
        lock_views(&before);
        let mut ran = run(&snowflake_migration::locks(&before, &lock_timeout))?;
        // As it is now that nobody else can change it.
        let before = kept.now(catalogs)?;
        let steps = snowflake_migration::revert(&before, &lock_timeout);
        ran.extend(run(&behind_locks(&steps, &before))?);
        let now = catalogs.read(request.relation, request.column, false)?;
        if !snowflake_migration::is_reverted(&before, &now) {
            Error::Moved { oid: request.relation }.raise();
        }
        Ok(ran)
    })
}

/// Drops what only the way back needs.
pub(crate) fn finish(request: &Request<'_>) -> Result<Vec<Ran>, spi::Error> {
    end(request, |catalogs, kept| {
        let lock_timeout = milliseconds(request.lock_timeout);
        run(&snowflake_migration::finish(&kept.now(catalogs)?, &lock_timeout))
    })
}

/// Ends a conversion: then there is no way back any more. Who ends it, too, waits for the end of this one, and
/// then finds none.
fn end(
    request: &Request<'_>,
    work: impl Fn(&Catalogs, &Kept<'_>) -> Result<Vec<Ran>, spi::Error>,
) -> Result<Vec<Ran>, spi::Error> {
    let catalogs = begin(request)?;
    let before = look(request, || kept(&catalogs, request)?.now(&catalogs))?;
    retry(request, &targets(&before), || {
        let kept = kept(&catalogs, request)?;
        as_owner(&before, || {
            kept.forget()?;
            work(&catalogs, &kept)
        })
    })
}

/// What changes tables begins with.
fn begin(request: &Request<'_>) -> Result<Catalogs, spi::Error> {
    if status::in_recovery() {
        Error::Standby.raise();
    }
    // SAFETY: reads what belongs to this process.
    if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
        Error::OldSnapshot.raise();
    }
    check_exists(request.relation);
    Catalogs::prepare(request.lock_timeout)
}

fn check_exists(relation: pg_sys::Oid) {
    if owner_of(relation).is_none() {
        Error::NoRelation { oid: relation }.raise();
    }
}

/// The steps of a plan behind those that take the locks.
fn behind_locks(steps: &[Step], facts: &Facts) -> Vec<Step> {
    let locks = snowflake_migration::locks(facts, "").len();
    statements(steps).skip(locks).cloned().collect()
}

/// Text that becomes a part of statements; an error where these would say something else.
fn exact(text: Verbatim) -> String {
    encoding::exact(&text).unwrap_or_else(|lost| Error::Lost { text: lost }.raise())
}

fn statements(steps: &[Step]) -> impl Iterator<Item = &Step> {
    steps.iter().filter(|step| step.statement.is_some())
}

/// An error where a finding refuses, or is not among those that have been read.
fn check(steps: &[Step], facts: &Facts, accept: &[String]) {
    let of = |severity| steps.iter().filter(move |step| step.severity == severity);
    let relation = facts.relation.name.clone();
    if let Some(step) = of(Severity::Refuse).next() {
        let more = of(Severity::Refuse).count() - 1;
        Error::Refused { relation, step: Box::new(step.clone()), more }.raise();
    }
    let accepted = |step: &&Step| accept.iter().any(|name| Some(name.as_str()) == step.finding);
    let unread = of(Severity::Warn).filter(|step| !accepted(step)).cloned().collect::<Vec<_>>();
    if !unread.is_empty() {
        let column = facts.column.as_ref().map_or_else(String::new, |column| column.name.clone());
        Error::Unread { relation, column, steps: unread, accepted: accept.to_vec() }.raise();
    }
}

/// Runs statements, one after the other, as they stand.
fn run(steps: &[Step]) -> Result<Vec<Ran>, spi::Error> {
    Spi::connect_mut(|client| {
        let mut ran = Vec::new();
        for statement in steps.iter().filter_map(|step| step.statement.clone()) {
            let begun = uptime();
            client.update(encoding::to_server(&statement).as_c_str(), None, &[])?;
            ran.push((statement, uptime() - begun));
        }
        Ok(ran)
    })
}

/// Does something as the owner of the table.
fn as_owner<T>(facts: &Facts, work: impl FnOnce() -> T) -> T {
    as_owner_of(pg_sys::Oid::from_u32(facts.relation.oid), &facts.relation.name, work)
}

fn as_owner_of<T>(oid: pg_sys::Oid, relation: &str, work: impl FnOnce() -> T) -> T {
    let Some(owner) = owner_of(oid) else { Error::NoRelation { oid }.raise() };
    // SAFETY: reads what belongs to this process.
    if !may_set_role(unsafe { pg_sys::GetUserId() }, owner) {
        Error::MayNotConvert { relation: relation.to_owned() }.raise();
    }
    // SAFETY: an owner is a role.
    unsafe { as_role(owner, true, work) }
}

/// The owner of a relation, given its number or its name.
fn owner_of<'a>(relation: impl Into<DatumWithOid<'a>>) -> Option<pg_sys::Oid> {
    let found = Spi::connect(|client| {
        let rows = client.select(
            "SELECT relowner FROM pg_class WHERE oid = $1::regclass",
            Some(1),
            &[relation.into()],
        )?;
        rows.map(|row| row.get::<pg_sys::Oid>(1)).next().transpose()
    });
    found.ok().flatten().flatten()
}

/// LOCK TABLE of a view would lock all that it is made of. Whoever writes through one has it locked before the
/// table: the other way round, we would wait for him while he waits for us.
fn lock_views(facts: &Facts) {
    for view in facts.tables.iter().filter(|table| table.kind == "v") {
        let oid = pg_sys::Oid::from_u32(view.oid);
        // SAFETY: takes numbers, and waits for no longer than `lock_timeout`.
        unsafe { pg_sys::LockRelationOid(oid, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE) };
    }
}

/// Sequences cannot be named in LOCK TABLE. From here on nobody takes a number from them, so that what is
/// kept for the way back is where they stand.
fn lock_sequences(facts: &Facts) {
    for sequence in &facts.sequences {
        let oid = pg_sys::Oid::from_u32(sequence.oid);
        // SAFETY: takes numbers, and waits for no longer than `lock_timeout`.
        unsafe { pg_sys::LockRelationOid(oid, pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE) };
    }
}

/// Tries until the locks are had, as often as is asked for; then it is an error that names who has
/// them. What an attempt has done, is undone with it, and so are its locks.
fn retry<T>(
    request: &Request<'_>,
    targets: &[pg_sys::Oid],
    work: impl Fn() -> Result<T, spi::Error>,
) -> Result<T, spi::Error> {
    attempts(request, targets, true, work)
}

/// Reads what is known of the table, whose catalog entries somebody may have locked.
fn look<T>(
    request: &Request<'_>,
    work: impl Fn() -> Result<T, spi::Error>,
) -> Result<T, spi::Error> {
    attempts(request, &[request.relation], false, work)
}

fn attempts<T>(
    request: &Request<'_>,
    targets: &[pg_sys::Oid],
    takes_locks: bool,
    work: impl Fn() -> Result<T, spi::Error>,
) -> Result<T, spi::Error> {
    let mut last = Vec::new();
    for attempt in 1..=request.attempts {
        // Who has had a lock for long is likely to keep it: nobody shall wait behind us for him.
        let old = if takes_locks { in_the_way(targets, true)? } else { Vec::new() };
        if old.is_empty() {
            match subtransaction(|| with_present_snapshot(&work)) {
                Ok(done) => return done,
                Err(error) if is_locked(&error) => {
                    let now = in_the_way(targets, false)?;
                    last = if now.is_empty() { last } else { now };
                }
                Err(error) if is_gone(&error) && attempt < request.attempts => (),
                Err(error) => error.rethrow(),
            }
        } else {
            last = old;
        }
        if attempt < request.attempts {
            rest(request.lock_timeout, attempt);
        }
    }
    in_the_way_of(request, last)
}

fn in_the_way_of(request: &Request<'_>, who: Vec<String>) -> ! {
    let &Request { relation, attempts, lock_timeout, .. } = request;
    Error::InTheWay { relation: name_of(relation), attempts, lock_timeout, who }.raise()
}

/// The name of a relation, which somebody may have locked.
fn name_of(relation: pg_sys::Oid) -> String {
    let name = Spi::connect(|client| {
        let rows = client.select("SELECT $1::regclass::text", Some(1), &[relation.into()])?;
        rows.map(|row| row.get::<Text>(1)).next().transpose()
    });
    name.ok().flatten().flatten().map_or_else(String::new, |name| name.0)
}

/// Whether somebody else has the lock.
fn is_locked(error: &CaughtError) -> bool {
    matches!(
        sqlstate(error),
        Some(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
                | PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
        )
    )
}

/// Whether something is gone that was there when the catalogs were read: a partition, say.
fn is_gone(error: &CaughtError) -> bool {
    sqlstate(error) == Some(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE)
}

fn sqlstate(error: &CaughtError) -> Option<PgSqlErrorCode> {
    // PostgreSQL's own have become such, too.
    let CaughtError::ErrorReport(report) = error else { return None };
    Some(report.sql_error_code())
}

/// Waits from one to three lock timeouts, so that two who try do not try at the same time.
fn rest(lock_timeout: i64, attempt: i32) {
    let seed = WallClock.now().unsigned_abs().wrapping_mul(2_654_435_761) >> 7;
    let timeout = lock_timeout.unsigned_abs().min(10_000) * 1000;
    let mut left = timeout + (seed ^ u64::from(attempt.unsigned_abs())) % (2 * timeout + 1);
    let until = uptime().saturating_add_unsigned(left);
    while left > 0 {
        wait(left, WaitEvent::Convert);
        left = u64::try_from(until - uptime()).unwrap_or(0);
    }
}

/// Looks without a lock that outlasts the look: two who convert one table would wait for each other.
fn undone<T>(work: impl FnOnce() -> T) -> T {
    within(work, false).unwrap_or_else(|error| error.rethrow())
}

/// Does something that reads what is there now: else it would be what was there when the statement began, at
/// each attempt.
fn with_present_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: pushed and popped as a pair; where `work` ends with an error, the end of its subtransaction pops
    // it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let done = work();
        pg_sys::PopActiveSnapshot();
        done
    }
}

/// Runs in a transaction of its own within the present one: what it has done is undone where it ends
/// with an error, and its locks are released.
fn subtransaction<T>(work: impl FnOnce() -> T) -> Result<T, Box<CaughtError>> {
    within(work, true)
}

fn within<T>(work: impl FnOnce() -> T, keep: bool) -> Result<T, Box<CaughtError>> {
    // SAFETY: as PL/pgSQL does it for a block with an exception handler: what was current before is
    // so again after, and what happened inside is kept or undone as a whole.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let done = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
            .catch_others(|error| Err(Box::new(as_ours(error))))
            .catch_rust_panic(|error| Err(Box::new(error)))
            .execute();
        match done {
            Ok(_) if keep => pg_sys::ReleaseCurrentSubTransaction(),
            _ => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        done
    }
}

/// What has been caught, as an error that can be raised again: PostgreSQL has forgotten it by then, and
/// pgrx 0.19 would have PostgreSQL raise its own.
fn as_ours(error: CaughtError) -> CaughtError {
    match error {
        CaughtError::PostgresError(report) => CaughtError::ErrorReport(report),
        other => other,
    }
}

/// The relations that are locked.
fn targets(facts: &Facts) -> Vec<pg_sys::Oid> {
    let tables = facts.tables.iter().map(|table| table.oid);
    let sequences = facts.sequences.iter().map(|sequence| sequence.oid);
    tables.chain(sequences).map(pg_sys::Oid::from_u32).collect()
}

/// Who has a lock on one of them: a sentence for each. As the caller, who may see of others what he may.
fn in_the_way(targets: &[pg_sys::Oid], old: bool) -> Result<Vec<String>, spi::Error> {
    let query = format!(
        "SELECT DISTINCT ON (l.pid, p.gid) CASE
             WHEN l.pid IS NULL THEN format('Prepared transaction %L holds a lock. To end it: ROLLBACK PREPARED %L;', p.gid, p.gid)
             ELSE format('Process %s (%s, %s, for %s s) holds a lock: %s', l.pid,
                 coalesce(a.backend_type, 'process'), coalesce(a.state, 'running'),
                 coalesce(round(extract(epoch FROM clock_timestamp() - a.xact_start))::text, '?'),
                 coalesce(nullif(left(regexp_replace(a.query, '\\s+', ' ', 'g'), 200), ''), 'nothing is known of it'))
             END
         FROM pg_locks l
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         LEFT JOIN pg_locks t ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid'
             AND t.virtualtransaction = l.virtualtransaction
         LEFT JOIN pg_prepared_xacts p ON p.transaction = t.transactionid
         WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1)
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.pid IS DISTINCT FROM pg_backend_pid()
           AND (NOT $2 OR l.pid IS NULL OR a.xact_start < clock_timestamp() - interval '{OLD}')"
    );
    Spi::connect(|client| {
        // Else what sessions do, is for the whole transaction what they did when it was first asked.
        client.select("SELECT pg_stat_clear_snapshot()", None, &[])?;
        let rows = client.select(&query, None, &[targets.to_vec().into(), old.into()])?;
        rows.map(|row| row.get::<Text>(1).map(|text| text.map_or_else(String::new, |text| text.0)))
            .collect()
    })
}

/// What reads the catalogs: planned once, because a lock is held while it is run again.
struct Catalogs(OwnedPreparedStatement);

impl Catalogs {
    /// From here on, nothing is waited for any longer than `lock_timeout` milliseconds.
    fn prepare(lock_timeout: i64) -> Result<Self, spi::Error> {
        // One plan of all calls, whatever their arguments.
        Spi::connect(|client| {
            client.select(
                // And names that are written as they were when they were kept.
                "SELECT set_config('plan_cache_mode', 'force_generic_plan', true),
                     set_config('quote_all_identifiers', 'off', true),
                     set_config('lock_timeout', $1::text, true)",
                None,
                &[lock_timeout.into()],
            )?;
            let types = [pg_sys::OIDOID, pg_sys::NAMEOID, pg_sys::BOOLOID].map(PgOid::from);
            Ok(Self(client.prepare(include_str!("migrate/facts.sql"), &types)?.keep()))
        })
    }

    fn read(
        &self,
        relation: pg_sys::Oid,
        column: Option<&CStr>,
        all: bool,
    ) -> Result<Facts, spi::Error> {
        let name = match column {
            // SAFETY: a name of SQL's, which is what the function was given; it outlives the call.
            Some(name) => unsafe {
                DatumWithOid::new(pg_sys::Datum::from(name.as_ptr()), pg_sys::NAMEOID)
            },
            None => DatumWithOid::null_oid(pg_sys::NAMEOID),
        };
        let json = Spi::connect(|client| {
            let values = [relation.into(), name, all.into()];
            let rows = client.select(&self.0, Some(1), &values)?;
            rows.map(|row| row.get::<Verbatim>(1)).next().transpose()
        })?;
        let json = json.flatten().map_or_else(String::new, exact);
        let facts = serde_json::from_str::<Facts>(&json);
        let mut facts = facts.unwrap_or_else(|error| error!("snowflake_id: {error}"));
        if facts.relation.oid == 0 {
            Error::NoRelation { oid: relation }.raise();
        }
        // What was dropped while the catalogs were read, has a number for a name.
        let tables = facts.tables.iter().map(|table| (&table.name, table.oid));
        let sequences = facts.sequences.iter().map(|sequence| (&sequence.name, sequence.oid));
        let is_number = |name: &str| name.starts_with(|letter: char| letter.is_ascii_digit());
        if let Some((_, oid)) = tables.chain(sequences).find(|(name, _)| is_number(name)) {
            Error::NoRelation { oid: pg_sys::Oid::from_u32(oid) }.raise();
        }
        needed_for_other_ways_back(&mut facts)?;
        Ok(facts)
    }

    /// The facts, but for the values of keys and sequences; `id` is one that has just been generated.
    fn facts(
        &self,
        relation: pg_sys::Oid,
        column: Option<&CStr>,
        id: Option<i64>,
    ) -> Result<Facts, spi::Error> {
        let mut facts = self.read(relation, column, true)?;
        facts.relation.engine = engine(relation)?;
        facts.is_standby = status::in_recovery();
        facts.no_ids = status::now().1.filter(|_| id.is_none()).map(|error| error.in_words());
        let owner = owner_of(relation);
        // SAFETY: reads what belongs to this process.
        facts.relation.may_act =
            owner.is_some_and(|owner| may_set_role(unsafe { pg_sys::GetUserId() }, owner));
        if let Ok(layout) = settings::layout() {
            facts.first_id = first_id(layout);
        }
        Ok(facts)
    }

    /// The facts once more: what only a person needs to read is as it was.
    fn facts_again(
        &self,
        relation: pg_sys::Oid,
        column: Option<&CStr>,
        before: &Facts,
    ) -> Result<Facts, spi::Error> {
        let now = self.read(relation, column, false)?;
        let mut facts = Facts {
            likely_references: before.likely_references.clone(),
            narrow_arguments: before.narrow_arguments.clone(),
            narrow_views: before.narrow_views.clone(),
            key_triggers: before.key_triggers.clone(),
            unindexed: before.unindexed.clone(),
            computed: before.computed.clone(),
            publications: before.publications.clone(),
            standbys: before.standbys,
            first_id: before.first_id,
            no_ids: before.no_ids.clone(),
            ..now
        };
        facts.relation.engine.clone_from(&before.relation.engine);
        facts.relation.may_act = before.relation.may_act;
        for sequence in &mut facts.sequences {
            let known = before.sequences.iter().find(|known| known.oid == sequence.oid);
            sequence.mentions = known.map_or_else(Vec::new, |known| known.mentions.clone());
        }
        read_values(&mut facts)?;
        Ok(facts)
    }
}

/// The greatest key and where the sequences stand, as the owner reads them.
fn read_values(facts: &mut Facts) -> Result<(), spi::Error> {
    let Some(column) = facts.column.clone().filter(|_| facts.relation.may_act) else {
        return Ok(());
    };
    let is_table = matches!(facts.relation.kind.as_str(), "r" | "p");
    let is_remote = facts.tables.iter().any(|table| table.kind == "f");
    if is_table && facts.has_key && !is_remote && column.type_name == "bigint" {
        let query = format!("SELECT max({}) FROM {}", column.name, facts.relation.name);
        let table = pg_sys::Oid::from_u32(facts.relation.oid);
        facts.max = as_owner(facts, || one(table, &query, |row| row.get::<i64>(1)))?;
    }
    if let Some((max, layout)) = facts.max.zip(settings::layout().ok()) {
        facts.max_is_an_id = is_an_id(max, layout);
        // As of now: meanwhile, others may have made keys of the layout.
        facts.first_id = first_id(layout);
    }
    let relation = facts.clone();
    let owner = &facts.relation.owner;
    for sequence in facts.sequences.iter_mut().filter(|sequence| sequence.owner == *owner) {
        let query = format!("SELECT last_value, is_called FROM {}", sequence.name);
        let oid = pg_sys::Oid::from_u32(sequence.oid);
        let (last, called) = as_owner(&relation, || {
            one(oid, &query, |row| Ok((row.get::<i64>(1)?, row.get::<bool>(2)?)))
        })?;
        *sequence = Sequence {
            last: last.unwrap_or(sequence.start),
            is_called: called.unwrap_or(false),
            ..sequence.clone()
        };
    }
    Ok(())
}

/// The one row of a query of a relation.
fn one<T>(
    relation: pg_sys::Oid,
    query: &str,
    read: impl FnOnce(&spi::SpiTupleTable<'_>) -> Result<T, spi::Error>,
) -> Result<T, spi::Error> {
    let query = encoding::to_server(query);
    Spi::connect(|client| {
        let found = of_relation(relation, || client.select(query.as_c_str(), Some(1), &[]))?;
        read(&found.first())
    })
}

/// The least id of any node in the next tick: keys that others make of this one are not ahead.
fn first_id(layout: &Layout) -> Option<i64> {
    let position = shared().map(|shared| shared.allocator.position(layout)).unwrap_or_default();
    let tick = layout.tick_at(WallClock.now()).unwrap_or(0);
    layout.min_id(tick.max(layout.tick_of_slot(position.cursor)) + 1).ok()
}

/// Whether a key is an id of the layout, by its time: no key of a sequence gets as far as a day behind the
/// epoch, and none of a wrong layout lies before tomorrow but by chance.
fn is_an_id(key: i64, layout: &Layout) -> bool {
    let time = layout.unpack(key).ok().and_then(|fields| layout.time_of(fields.tick));
    let latest = WallClock.now().saturating_add_unsigned(settings::max_clock_jump().unwrap_or(DAY));
    time.is_some_and(|time| time >= layout.epoch().saturating_add_unsigned(DAY) && time <= latest)
}

/// The extension that spreads a table over others.
fn engine(relation: pg_sys::Oid) -> Result<Option<String>, spi::Error> {
    // Only what belongs to such an extension is looked into.
    let query = "SELECT e.extname::text, c.oid::regclass::text, c.relowner, c.oid FROM pg_extension e
         JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
             AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
         JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r'
         WHERE (e.extname, c.relname) IN (('citus', 'pg_dist_partition'), ('timescaledb', 'hypertable'))";
    let found = Spi::connect(|client| {
        let rows = client.select(query, None, &[])?;
        rows.map(|row| {
            let oid = |at| row.get::<pg_sys::Oid>(at);
            Ok((row.get::<Text>(1)?, row.get::<Text>(2)?, oid(3)?.zip(oid(4)?)))
        })
        .collect::<Result<Vec<_>, spi::Error>>()
    })?;
    for found in found {
        let (Some(engine), Some(table), Some((owner, oid))) = found else { continue };
        let condition = if engine.0 == "citus" {
            "logicalrelid = $1"
        } else {
            "(schema_name, table_name) = (SELECT relnamespace::regnamespace::name, relname
                 FROM pg_class WHERE oid = $1)"
        };
        let query = encoding::to_server(&format!("SELECT FROM {} WHERE {condition}", table.0));
        let is_listed = || {
            Spi::connect(|client| {
                let values = [relation.into()];
                let rows = of_relation(oid, || client.select(query.as_c_str(), Some(1), &values))?;
                Ok::<_, spi::Error>(!rows.is_empty())
            })
        };
        // As its owner: whoever owns an extension can add a table to it, of types with casts that he has made.
        // SAFETY: an owner is a role.
        if unsafe { as_role(owner, true, is_listed) }? {
            return Ok(Some(engine.0));
        }
    }
    Ok(None)
}

/// Does something with the table of conversions, given its name, as its owner, who alone may write to it.
/// It is locked, and looked at before: nothing of others is run.
fn as_keeper<T>(
    lock: u32,
    work: impl FnOnce(&str) -> Result<T, spi::Error>,
) -> Result<T, spi::Error> {
    let table = CONVERSIONS.open(lock as pg_sys::LOCKMODE).unwrap_or_else(|why| match why {
        Unusable::NoExtension => Error::NoMigrateExtension.raise(),
        changed @ Unusable::Changed(_) => Error::from(changed).raise(),
    });
    let Some(owner) = owner_of(Text(table.clone())) else { Error::NoMigrateExtension.raise() };
    // SAFETY: an owner is a role.
    unsafe { as_role(owner, true, || work(&table)) }
}

/// A sequence that another conversion needs for its way back, is not sealed: it is among its other users.
fn needed_for_other_ways_back(facts: &mut Facts) -> Result<(), spi::Error> {
    let Some(column) = facts.column.as_ref().filter(|_| !facts.sequences.is_empty()) else {
        return Ok(());
    };
    let (relation, column) = (pg_sys::Oid::from_u32(facts.relation.oid), column.name.clone());
    as_keeper(pg_sys::AccessShareLock, |table| {
        let query = format!(
            "SELECT c.relation::text || '.' || c.column_name || ', once that is taken back'
             FROM ONLY {table} c JOIN pg_class r ON r.oid = c.relation
             WHERE (c.relation <> $1 OR c.column_name <> $2)
                 AND EXISTS (SELECT FROM jsonb_array_elements(c.before->'sequences') s WHERE s->>'name' = $3)
             ORDER BY 1"
        );
        Spi::connect(|client| {
            for sequence in &mut facts.sequences {
                let name = Text(sequence.name.clone());
                let values = [relation.into(), Text(column.clone()).into(), name.into()];
                for row in client.select(&query, None, &values)? {
                    sequence.other_defaults.extend(row.get::<Text>(1)?.map(|text| text.0));
                }
            }
            Ok(())
        })
    })
}

/// Keeps what the way back needs.
fn keep(facts: &Facts) -> Result<(), spi::Error> {
    let Some(column) = &facts.column else { return Ok(()) };
    let before = Facts {
        relation: facts.relation.clone(),
        column: facts.column.clone(),
        tables: facts.tables.clone(),
        sequences: facts.sequences.clone(),
        generator: facts.generator.clone(),
        ..Facts::default()
    };
    let json = serde_json::to_string(&before).unwrap_or_default();
    let values = [
        pg_sys::Oid::from_u32(facts.relation.oid).into(),
        Text(column.name.clone()).into(),
        Text(json).into(),
    ];
    as_keeper(pg_sys::RowExclusiveLock, |table| {
        let insert = format!(
            "INSERT INTO {table} AS c (relation, column_name, before, converted_at)
             VALUES ($1, $2, $3::jsonb, now())
             ON CONFLICT (relation, column_name)
             DO UPDATE SET before = excluded.before, converted_at = excluded.converted_at"
        );
        Spi::connect_mut(|client| client.update(&insert, None, &values).map(drop))
    })
}

/// What is kept of a conversion.
struct Kept<'a> {
    request: &'a Request<'a>,
    /// Its column, as it is written in a statement.
    column: String,
    before: Facts,
    /// The same as it is kept.
    json: String,
}

/// What is kept of a conversion; an error where there is none, or where the default was changed since.
fn kept<'a>(catalogs: &Catalogs, request: &'a Request<'a>) -> Result<Kept<'a>, spi::Error> {
    let Request { relation, column, .. } = *request;
    let now = catalogs.facts(relation, column, None)?;
    let name = now.relation.name.clone();
    if !now.relation.may_act {
        Error::MayNotConvert { relation: name }.raise();
    }
    let Some(column) = now.column else { Error::NotConverted { relation: name }.raise() };
    let json = as_keeper(pg_sys::AccessShareLock, |table| {
        Spi::connect(|client| {
            let query = format!(
                "SELECT before::text FROM ONLY {table} WHERE relation = $1 AND column_name = $2"
            );
            let values = [relation.into(), Text(column.name.clone()).into()];
            let rows = client.select(&query, Some(1), &values)?;
            rows.map(|row| row.get::<Verbatim>(1)).next().transpose()
        })
    })?;
    let Some(json) = json.flatten().map(exact) else {
        Error::NotConverted { relation: name }.raise()
    };
    if !now.is_converted {
        Error::ChangedSince { relation: name, column: column.name }.raise();
    }
    let before = serde_json::from_str::<Facts>(&json);
    let before = before.unwrap_or_else(|error| error!("snowflake_id: {error}"));
    Ok(Kept { request, column: column.name, before, json })
}

impl Kept<'_> {
    /// What was before, of what is there now.
    fn now(&self, catalogs: &Catalogs) -> Result<Facts, spi::Error> {
        let &Request { relation, column, .. } = self.request;
        let now = catalogs.read(relation, column, false)?;
        if !now.is_converted {
            let (relation, column) = (now.relation.name, self.column.clone());
            Error::ChangedSince { relation, column }.raise();
        }
        let mut before = snowflake_migration::since(self.before.clone(), now);
        let mut tables = Vec::new();
        for table in std::mem::take(&mut before.tables) {
            tables.extend(if table.kind == "v" { view_since(table)? } else { Some(table) });
        }
        before.tables = tables;
        // What is no sealed sequence any more, is used by others.
        let mut sequences = Vec::new();
        for sequence in std::mem::take(&mut before.sequences) {
            sequences.extend(sequence_since(sequence, &before.relation.owner)?);
        }
        Ok(Facts { sequences, ..before })
    }

    /// Its end, in which others cannot have been before.
    fn forget(&self) -> Result<(), spi::Error> {
        let Request { relation, .. } = *self.request;
        let (column, json) = (Text(self.column.clone()), Text(self.json.clone()));
        let forgotten = as_keeper(pg_sys::RowExclusiveLock, |table| {
            let delete = format!(
                "DELETE FROM ONLY {table} WHERE relation = $1 AND column_name = $2 AND before = $3::jsonb"
            );
            let values = [relation.into(), column.into(), json.into()];
            Spi::connect_mut(|client| client.update(&delete, None, &values).map(|rows| rows.len()))
        })?;
        if forgotten == 0 {
            Error::NotConverted { relation: name_of(relation) }.raise();
        }
        Ok(())
    }
}

/// A view as it is now; `None` where somebody has dropped it.
fn view_since(view: Table) -> Result<Option<Table>, spi::Error> {
    let query = "SELECT a.attrelid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.oid = to_regclass($1) AND c.relkind = 'v' AND quote_ident(a.attname) = $2";
    let values = [Text(view.name.clone()).into(), Text(view.column.clone()).into()];
    let oid = Spi::connect(|client| {
        let rows = client.select(query, Some(1), &values)?;
        rows.map(|row| row.get::<pg_sys::Oid>(1)).next().transpose()
    })?;
    Ok(oid.flatten().map(|oid| Table { oid: oid.to_u32(), ..view }))
}

/// What has become of a sequence since its table was converted; `None` where it is in use again.
fn sequence_since(mut sequence: Sequence, owner: &str) -> Result<Option<Sequence>, spi::Error> {
    let query = "SELECT CASE WHEN n.oid IS NULL THEN 'gone' WHEN q.seqmin = $2 AND q.seqmax = $3 THEN 'sealed' ELSE 'used' END,
             pg_get_userbyid(s.relowner)::text,
             EXISTS (SELECT FROM (SELECT parse_ident($4)::name[]) AS i(part)
                 JOIN pg_namespace p ON p.nspname = i.part[1]
                 JOIN pg_class t ON t.relnamespace = p.oid AND t.relname = i.part[2]
                 JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = i.part[3] AND NOT a.attisdropped),
             ARRAY(SELECT g FROM unnest($5) AS g WHERE g = 'PUBLIC' OR to_regrole(g) IS NOT NULL)
         FROM (SELECT to_regclass($1) AS oid) AS n
         LEFT JOIN pg_class s ON s.oid = n.oid
         LEFT JOIN pg_sequence q ON q.seqrelid = n.oid";
    const WITH_GRANT: &str = " WITH GRANT OPTION";
    let role = |role: &str| role.trim_end_matches(WITH_GRANT).to_owned();
    let roles = sequence.grants.iter().map(|(_, to)| Text(role(to))).collect::<Vec<_>>();
    let values = [
        Text(sequence.name.clone()).into(),
        SEALED_FROM.into(),
        SEALED_TO.into(),
        sequence.owned_by.clone().map(Text).into(),
        roles.into(),
    ];
    let (state, its_owner, has_column, roles) = Spi::connect(|client| {
        let row = client.select(query, Some(1), &values)?.first();
        let text =
            |at| row.get::<Text>(at).map(|text| text.map_or_else(String::new, |text| text.0));
        let roles = row.get::<Vec<Text>>(4)?.unwrap_or_default();
        Ok::<_, spi::Error>((text(1)?, text(2)?, row.get::<bool>(3)?.unwrap_or(false), roles))
    })?;
    // What was given to somebody who is no more, cannot be given again.
    sequence.grants.retain(|(_, to)| roles.iter().any(|known| known.0 == role(to)));
    if sequence.is_identity || !sequence.is_sealed() {
        return Ok(Some(sequence));
    }
    if state == "used" {
        return Ok(None);
    }
    sequence.is_gone = state == "gone";
    if !sequence.is_gone && its_owner != owner {
        let (sequence, owner) = (sequence.name, owner.to_owned());
        Error::SequenceOfAnother { sequence, its_owner, owner }.raise();
    }
    sequence.owned_by = sequence.owned_by.filter(|_| has_column);
    Ok(Some(sequence))
}

/// Some rows of a table, whose column is to be filled.
pub(crate) struct Batch<'a> {
    pub(crate) relation: pg_sys::Oid,
    pub(crate) column: &'a CStr,
    /// An expression; `None` for the column's default.
    pub(crate) value: Option<Verbatim>,
    /// Which of the rows; `None` for those where the column is NULL.
    pub(crate) condition: Option<Verbatim>,
    pub(crate) rows: i32,
    /// The primary key of the last row of the batch before: an array of texts, as SQL writes it.
    pub(crate) after: Option<Verbatim>,
}

/// What the statements of a batch consist of: all of it SQL, with its schemas.
struct Along {
    table: String,
    column: String,
    /// The columns of the primary key.
    keys: String,
    /// The same as texts, and what makes them of the texts in parameters $1 and $2.
    texts: String,
    first: String,
    second: String,
    /// Whether the column has a default, or there is none of that name.
    has_default: bool,
}

/// Fills a batch. Where the next one begins, if there is more, and how many rows have been filled. A batch
/// is so many rows, filled or not: so each is short, also where it is done once more.
pub(crate) fn backfill(batch: Batch<'_>) -> Result<(Option<Verbatim>, i64), spi::Error> {
    let Batch { relation, value, condition, rows, after, .. } = batch;
    let Along { table, column, keys, texts, first, second, has_default } =
        along(relation, batch.column)?;
    if value.is_none() && !has_default {
        Error::NoDefault { relation: table, column }.raise();
    }
    // On lines of their own, as they may end with a comment.
    let value =
        value.map_or_else(|| "DEFAULT".to_owned(), |value| format!("(\n{}\n)", exact(value)));
    let condition = condition.map_or_else(|| format!("{column} IS NULL"), exact);
    let begin = if after.is_some() { format!("({keys}) > ({first})") } else { "true".to_owned() };
    as_owner_of(relation, &table, || {
        Spi::connect_mut(|client| {
            let last = encoding::to_server(&format!(
                "SELECT ARRAY[{texts}]::text FROM {table} WHERE {begin}
                 ORDER BY {keys} LIMIT 1 OFFSET $2"
            ));
            let values = [after.clone().into(), i64::from(rows - 1).into()];
            // As texts that are read as the same keys, whatever the session has them look like.
            let next = with_own_settings(|| {
                client.update(
                    "SET LOCAL extra_float_digits = 3; SET LOCAL datestyle = ISO; SET LOCAL intervalstyle = postgres",
                    None,
                    &[],
                )?;
                let found =
                    of_relation(relation, || client.select(last.as_c_str(), Some(1), &values))?;
                found.map(|row| row.get::<Verbatim>(1)).next().transpose()
            })?;
            let next = next.flatten();
            let end =
                if next.is_some() { format!("({keys}) <= ({second})") } else { "true".to_owned() };
            let update = encoding::to_server(&format!(
                "UPDATE {table} SET {column} = {value}
                 WHERE {begin} AND {end} AND (\n{condition}\n)"
            ));
            let values = [after.into(), next.clone().into()];
            let filled =
                of_relation(relation, || client.update(update.as_c_str(), None, &values))?.len();
            Ok((next, i64::try_from(filled).unwrap_or(i64::MAX)))
        })
    })
}

/// How batches go along the primary key of a table; an error where they cannot.
fn along(relation: pg_sys::Oid, column: &CStr) -> Result<Along, spi::Error> {
    // Types of others have operators of others, which a batch shall not run.
    let query = "SELECT c.oid::regclass::text, quote_ident($2::text),
             string_agg(quote_ident(a.attname), ', ' ORDER BY k.place),
             string_agg(quote_ident(a.attname) || '::text', ', ' ORDER BY k.place),
             string_agg(format('(($1::text[])[%s])::%s%s', k.place, format_type(a.atttypid, a.atttypmod), o.collate), ', ' ORDER BY k.place),
             string_agg(format('(($2::text[])[%s])::%s%s', k.place, format_type(a.atttypid, a.atttypmod), o.collate), ', ' ORDER BY k.place),
             coalesce(bool_and(t.typtype = 'e' OR coalesce(b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace), true),
             coalesce(bool_or(a.attname = $2), false),
             coalesce((SELECT f.atthasdef OR f.attidentity <> '' OR d.typdefault IS NOT NULL
                 FROM pg_attribute f JOIN pg_type d ON d.oid = f.atttypid
                 WHERE f.attrelid = c.oid AND f.attname = $2), true)
         FROM pg_class c
         LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
         LEFT JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) ON k.place <= i.indnkeyatts
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
         LEFT JOIN pg_type t ON t.oid = a.atttypid
         CROSS JOIN LATERAL (
             SELECT CASE WHEN a.attcollation <> 0 THEN ' COLLATE ' || a.attcollation::regcollation END AS collate) AS o
         LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype
         WHERE c.oid = $1 GROUP BY c.oid";
    // SAFETY: a name of SQL's, which is what the function was given; it outlives the call.
    let name = unsafe { DatumWithOid::new(pg_sys::Datum::from(column.as_ptr()), pg_sys::NAMEOID) };
    let found = Spi::connect(|client| {
        let mut rows = client.select(query, Some(1), &[relation.into(), name])?;
        let Some(row) = rows.next() else { return Ok::<_, spi::Error>(None) };
        let text = |at| row.get::<Verbatim>(at).map(|text| text.map_or_else(String::new, exact));
        let along = Along {
            table: text(1)?,
            column: text(2)?,
            keys: text(3)?,
            texts: text(4)?,
            first: text(5)?,
            second: text(6)?,
            has_default: row.get::<bool>(9)?.unwrap_or(false),
        };
        let is = |at| row.get::<bool>(at).map(|is| is.unwrap_or(false));
        Ok(Some((along, is(7)?, is(8)?)))
    })?;
    let Some((along, is_known, is_filled)) = found else {
        Error::NoRelation { oid: relation }.raise()
    };
    let refuse = |why| Error::NoKeyToFollow { relation: along.table.clone(), why }.raise();
    if along.keys.is_empty() {
        refuse("It has no primary key.");
    }
    if !is_known {
        refuse("A column of its primary key is of a type that PostgreSQL does not bring itself.");
    }
    if is_filled {
        refuse("The column to fill is part of it: rows that are filled would come again.");
    }
    Ok(along)
}
