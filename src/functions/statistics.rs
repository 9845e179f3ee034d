//! What has been counted, seen from SQL.

use crate::error::{Error, OrRaise};
use crate::rights::refuse_database_owner;
use crate::settings;
use crate::shared::{Shared, shared};
use crate::statistics::{COUNTERS, Totals, quantile};
use crate::status;
use crate::time::{WallClock, from_unix};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use snowflake_core::{Clock, Field};
use std::sync::atomic::Ordering;

/// The counters and the classes of waits; counters are far from the limits of bigint.
fn split(totals: &Totals) -> (Vec<i64>, Vec<i64>) {
    let words: Vec<_> = totals.iter().map(|word| word.cast_signed()).collect();
    (words[..COUNTERS].to_vec(), words[COUNTERS..].to_vec())
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "pgrx reads the columns from the type as it is written")]
fn snowflake_counters(
    fcinfo: pg_sys::FunctionCallInfo,
) -> TableIterator<
    'static,
    (
        name!(counters, Vec<i64>),
        name!(waits, Vec<i64>),
        name!(wait_p50, Option<f64>),
        name!(wait_p99, Option<f64>),
        name!(wait_p999, Option<f64>),
        name!(clock_backward_max, f64),
        name!(ids_per_second, Option<f64>),
        name!(ceiling, Option<f64>),
        name!(layout_ends_at, Option<TimestampWithTimeZone>),
        name!(stats_reset, Option<TimestampWithTimeZone>),
    ),
> {
    refuse_database_owner(fcinfo);
    let shared = shared().ok_or(Error::NotPreloaded).or_raise();
    let (totals, behind, reset) = shared.statistics();
    let (counters, waits) = split(&totals);
    let wait = |share| quantile(&totals[COUNTERS..], share).map(|micros| micros / 1000.0);
    let layout = settings::layout().ok();
    // Ids of a tick, and ticks of a second.
    let ceiling = layout.map(|layout| {
        let ids = 2f64.powi(layout.bits(Field::Sequence) as i32);
        ids * 1e6 / layout.tick_length() as f64
    });
    let report = shared.report();
    let measured = status::is_alert(report) && !status::in_recovery();
    let rate = measured.then(|| report.rate.load(Ordering::Relaxed) as f64);
    TableIterator::once((
        counters,
        waits,
        wait(0.5),
        wait(0.99),
        wait(0.999),
        behind as f64 / 1000.0,
        rate,
        ceiling,
        layout.and_then(|layout| from_unix(layout.ends_at()?).ok()),
        from_unix(reset).ok(),
    ))
}

#[pg_extern(sql = false)]
fn snowflake_session_counters(
    fcinfo: pg_sys::FunctionCallInfo,
) -> TableIterator<'static, (name!(pid, i32), name!(counters, Vec<i64>), name!(waits, Vec<i64>))> {
    refuse_database_owner(fcinfo);
    let sessions = shared().into_iter().flat_map(Shared::sessions);
    TableIterator::new(sessions.map(|(pid, totals)| {
        let (counters, waits) = split(&totals);
        (pid, counters, waits)
    }))
}

#[pg_extern(sql = false)]
fn pg_stat_snowflake_reset(fcinfo: pg_sys::FunctionCallInfo) {
    refuse_database_owner(fcinfo);
    let shared = shared().ok_or(Error::NotPreloaded).or_raise();
    shared.reset_statistics(WallClock.now());
}
