//! Extension snowflake_id_migrate.

use crate::encoding::{Text, Verbatim};
use crate::error::{Error, OrRaise};
use crate::migrate::{self, Batch, Ran, Request};
use crate::row::{Row, by_name};
use pgrx::Array;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi;
use std::ffi::CStr;

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "pgrx reads the columns from the type as it is written")]
fn snowflake_convert_plan(
    relation: Option<pg_sys::Oid>,
    column_name: Option<&CStr>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(step, i32),
            name!(severity, &'static str),
            name!(finding, Option<&'static str>),
            name!(object, Option<Text>),
            name!(detail, Option<Text>),
            name!(hint, Option<Text>),
            name!(statement, Option<Text>),
            name!(lock, Option<&'static str>),
            name!(locked, Option<pg_sys::Oid>),
            name!(work, Option<&'static str>),
        ),
    >,
    spi::Error,
> {
    let relation = relation.ok_or(Error::ConvertNull).or_raise();
    let text = |text: String| Some(Text(text)).filter(|text| !text.is_empty());
    let steps = migrate::with_own_settings(|| migrate::planned(relation, column_name))?;
    let rows = steps.into_iter().zip(1..).map(move |(step, number)| {
        (
            number,
            step.severity.word(),
            step.finding,
            text(step.object),
            text(step.detail),
            text(step.hint),
            step.statement.map(Text),
            step.lock,
            step.locked.map(pg_sys::Oid::from_u32),
            step.work.map(snowflake_migration::Work::word),
        )
    });
    Ok(TableIterator::new(rows.collect::<Vec<_>>()))
}

/// What the functions below are asked for.
fn request<'a>(
    relation: Option<pg_sys::Oid>,
    column: Option<&'a CStr>,
    lock_timeout: Option<Interval>,
    attempts: Option<i32>,
    accept: Option<Array<'_, Text>>,
) -> Request<'a> {
    let relation = relation.ok_or(Error::ConvertNull).or_raise();
    let lock_timeout =
        lock_timeout.map_or(migrate::PLANNED, |timeout| (timeout.as_micros() / 1000) as i64);
    if !(1..=MAX_LOCK_TIMEOUT).contains(&lock_timeout) {
        Error::BadLockTimeout { lock_timeout }.raise();
    }
    let attempts = attempts.unwrap_or(30);
    if attempts < 1 {
        Error::BadAttempts { attempts }.raise();
    }
    let accept =
        accept.map_or_else(Vec::new, |names| names.iter().flatten().map(|name| name.0).collect());
    Request { relation, column, lock_timeout, attempts, accept }
}

/// A minute: all of it, others may have to wait. Milliseconds.
const MAX_LOCK_TIMEOUT: i64 = 60_000;

/// What ran, for the function that was called.
fn rows(fcinfo: pg_sys::FunctionCallInfo, ran: Vec<Ran>) -> SetOfIterator<'static, Row> {
    let rows = (1..).zip(ran).map(|(step, (statement, took)): (i32, Ran)| {
        by_name(fcinfo, |name| match name {
            "step" => step.into_datum(),
            "statement" => Text(statement.clone()).into_datum(),
            "took" => Interval::new(0, 0, took).ok().into_datum(),
            _ => None,
        })
    });
    SetOfIterator::new(rows.collect::<Vec<_>>())
}

#[pg_extern(sql = false)]
fn snowflake_convert(
    relation: Option<pg_sys::Oid>,
    column_name: Option<&CStr>,
    lock_timeout: Option<Interval>,
    attempts: Option<i32>,
    accept: Option<Array<'_, Text>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<SetOfIterator<'static, Row>, spi::Error> {
    let request = request(relation, column_name, lock_timeout, attempts, accept);
    migrate::with_own_settings(|| migrate::convert(&request)).map(|ran| rows(fcinfo, ran))
}

#[pg_extern(sql = false)]
fn backfill_batch(
    relation: Option<pg_sys::Oid>,
    column_name: Option<&CStr>,
    value: Option<Verbatim>,
    condition: Option<Verbatim>,
    batch: Option<i32>,
    after: Option<Verbatim>,
) -> Result<TableIterator<'static, (name!(next, Option<Verbatim>), name!(filled, i64))>, spi::Error>
{
    let (Some(relation), Some(column), Some(rows)) = (relation, column_name, batch) else {
        Error::BackfillNull.raise()
    };
    if !(1..=MAX_BATCH).contains(&rows) {
        Error::BadBatch { batch: rows }.raise();
    }
    let batch = Batch { relation, column, value, condition, rows, after };
    migrate::with_own_settings(|| migrate::backfill(batch)).map(|row| TableIterator::new([row]))
}

/// What one transaction shall lock at the most.
const MAX_BATCH: i32 = 1_000_000;

#[pg_extern(sql = false)]
fn snowflake_revert(
    relation: Option<pg_sys::Oid>,
    column_name: Option<&CStr>,
    lock_timeout: Option<Interval>,
    attempts: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<SetOfIterator<'static, Row>, spi::Error> {
    let request = request(relation, column_name, lock_timeout, attempts, None);
    migrate::with_own_settings(|| migrate::revert(&request)).map(|ran| rows(fcinfo, ran))
}

#[pg_extern(sql = false)]
fn snowflake_convert_finish(
    relation: Option<pg_sys::Oid>,
    column_name: Option<&CStr>,
    lock_timeout: Option<Interval>,
    attempts: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<SetOfIterator<'static, Row>, spi::Error> {
    let request = request(relation, column_name, lock_timeout, attempts, None);
    migrate::with_own_settings(|| migrate::finish(&request)).map(|ran| rows(fcinfo, ran))
}
