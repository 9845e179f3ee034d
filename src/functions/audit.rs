//! Looking for what is wrong with ids that exist.

use crate::audit::{Request, audit, judge, read};
use crate::error::{Error, OrRaise};
use crate::settings;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::spi;
use std::ffi::CStr;

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "pgrx reads the columns from the type as it is written")]
#[allow(clippy::too_many_arguments, reason = "in SQL they are named")]
fn snowflake_audit(
    relation: Option<pg_sys::Oid>,
    // A name is a C string in a fixed number of bytes.
    column_name: Option<&CStr>,
    created_column: Option<&CStr>,
    worker_ids: Option<&str>,
    since: Option<TimestampWithTimeZone>,
    sample: Option<f64>,
    tolerance: Option<Interval>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(finding, &'static str),
            name!(datacenter_id, Option<i32>),
            name!(worker_id, Option<i32>),
            name!(count, i64),
            name!(examples, Option<Vec<i64>>),
        ),
    >,
    spi::Error,
> {
    let (relation, column) = relation.zip(column_name).ok_or(Error::AuditNull).or_raise();
    let layout = settings::layout().or_raise();
    let request = Request {
        relation,
        column: text(column).or_raise(),
        created: created_column.map(|name| text(name).or_raise()),
        workers: worker_ids.map(|text| settings::parse_ranges(text, layout).or_raise()),
        since,
        share: sample.unwrap_or(1.0),
        // Below 0 it is none.
        tolerance: tolerance.map_or(0, |tolerance| tolerance.as_micros()).try_into().unwrap_or(0),
    };
    audit(request, layout).map(TableIterator::new)
}

/// For the query of an audit.
#[pg_extern(sql = false)]
fn snowflake_audit_reads(id: i64) -> bool {
    read(id)
}

/// For the query of an audit.
#[pg_extern(sql = false)]
fn snowflake_audit_judges(id: Option<i64>, created: Option<TimestampWithTimeZone>) -> bool {
    if let Some(id) = id {
        judge(id, created);
    }
    true
}

/// A name as it is handed over. pgrx makes strings of UTF-8 alone.
fn text(name: &CStr) -> Result<&str, Error> {
    // SAFETY: reads a number that is set when the session begins.
    #[allow(unsafe_code)]
    let is_utf8 = unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as i32;
    name.to_str().ok().filter(|name| is_utf8 || name.is_ascii()).ok_or(Error::NotAscii)
}
