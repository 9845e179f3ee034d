//! Ids as bounds of a time.

use super::decode::tick_at;
use crate::error::{Error, OrRaise};
use crate::settings;
use crate::time::to_unix;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use snowflake_core::{FieldError, Layout};

#[pg_extern(sql = false)]
fn snowflake_min(ts: TimestampWithTimeZone) -> i64 {
    id_of_tick(ts, Layout::min_id)
}

#[pg_extern(sql = false)]
fn snowflake_max(ts: TimestampWithTimeZone) -> i64 {
    id_of_tick(ts, Layout::max_id)
}

#[pg_extern(sql = false)]
fn snowflake_lower_bound(ts: TimestampWithTimeZone) -> i64 {
    settings::layout().or_raise().lower_bound(to_unix(ts))
}

fn id_of_tick(
    ts: TimestampWithTimeZone,
    id: impl Fn(&Layout, u64) -> Result<i64, FieldError>,
) -> i64 {
    let layout = settings::layout().or_raise();
    let tick = tick_at(layout, ts).or_raise();
    id(layout, tick).map_err(|why| Error::field(why, layout)).or_raise()
}
