//! What has been counted, seen from SQL.

use crate::error::{Error, OrRaise};
use crate::rights::refuse_database_owner;
use crate::row::{Row, by_name};
use crate::settings;
use crate::shared::{Shared, shared};
use crate::statistics::{Column, Totals, column, quantile, waits};
use crate::status;
use crate::time::{WallClock, from_unix};
use pgrx::prelude::*;
use snowflake_core::{Clock, Field};
use std::sync::atomic::Ordering;

/// A column of what was counted; counters are far from the limits of bigint.
fn counted(totals: &Totals, name: &str) -> Option<pg_sys::Datum> {
    match column(totals, name)? {
        Column::Count(count) => count.cast_signed().into_datum(),
        Column::Time(time) => time.into_datum(),
    }
}

#[pg_extern(sql = false)]
fn snowflake_counters(fcinfo: pg_sys::FunctionCallInfo) -> SetOfIterator<'static, Row> {
    refuse_database_owner(fcinfo);
    let shared = shared().ok_or(Error::NotPreloaded).or_raise();
    let (totals, behind, reset) = shared.statistics();
    let layout = settings::layout().ok();
    let wait = |share| quantile(waits(&totals), share).map(|micros| micros / 1000.0);
    let report = shared.report();
    let measured = status::is_alert(report) && !status::in_recovery();
    let row = by_name(fcinfo, |name| match name {
        "wait_p50" => wait(0.5).into_datum(),
        "wait_p99" => wait(0.99).into_datum(),
        "wait_p999" => wait(0.999).into_datum(),
        "wait_histogram" => {
            let waits = waits(&totals).iter().map(|number| number.cast_signed());
            waits.collect::<Vec<_>>().into_datum()
        }
        "clock_backward_max" => (behind as f64 / 1000.0).into_datum(),
        "ids_per_second" => {
            measured.then(|| report.rate.load(Ordering::Relaxed) as f64).into_datum()
        }
        // Ids of a tick, and ticks of a second.
        "ceiling" => {
            let layout = layout?;
            let ids = 2f64.powi(layout.bits(Field::Sequence) as i32);
            (ids * 1e6 / layout.tick_length() as f64).into_datum()
        }
        "layout_ends_at" => from_unix(layout?.ends_at()?).ok().into_datum(),
        "stats_reset" => from_unix(reset).ok().into_datum(),
        name => counted(&totals, name),
    });
    SetOfIterator::once(row)
}

#[pg_extern(sql = false)]
fn snowflake_session_counters(fcinfo: pg_sys::FunctionCallInfo) -> SetOfIterator<'static, Row> {
    refuse_database_owner(fcinfo);
    let sessions = shared().into_iter().flat_map(Shared::sessions);
    let rows = sessions.map(|(pid, totals)| {
        by_name(fcinfo, |name| match name {
            "pid" => pid.into_datum(),
            name => counted(&totals, name),
        })
    });
    SetOfIterator::new(rows.collect::<Vec<_>>())
}

#[pg_extern(sql = false)]
fn pg_stat_snowflake_reset(fcinfo: pg_sys::FunctionCallInfo) {
    refuse_database_owner(fcinfo);
    let shared = shared().ok_or(Error::NotPreloaded).or_raise();
    shared.reset_statistics(WallClock.now());
}
