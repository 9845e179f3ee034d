//! Looking for what is wrong with ids that exist.

use crate::audit::{Request, audit};
use crate::encoding::{Text, guarded};
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
    worker_ids: Option<Text>,
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
        column,
        created: created_column,
        workers: worker_ids.map(|text| settings::parse_ranges(&text, layout).or_raise()),
        since,
        share: sample.unwrap_or(1.0),
        // Below 0 it is none, and there is no more than all of time.
        tolerance: tolerance.map_or(0, |tolerance| {
            tolerance.as_micros().clamp(0, u64::MAX.into()).try_into().unwrap_or(u64::MAX)
        }),
    };
    guarded(|| audit(request, layout)).map(TableIterator::new)
}
