//! What layouts there are, and which one is in force.

use super::decode::named;
use crate::encoding::Text;
use crate::error::OrRaise;
use crate::settings;
use crate::time::from_unix;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use snowflake_core::Field;
use snowflake_core::layout::PRESETS;

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "pgrx reads the columns from the type as it is written")]
fn snowflake_layout(
    layout: Option<Text>,
    epoch: Option<TimestampWithTimeZone>,
) -> TableIterator<
    'static,
    (
        name!(name, Option<&'static str>),
        name!(layout, Text),
        name!(epoch, Option<TimestampWithTimeZone>),
        name!(tick, Option<Interval>),
        name!(timestamp_bits, i32),
        name!(datacenter_bits, i32),
        name!(worker_bits, i32),
        name!(sequence_bits, i32),
        name!(nodes, i64),
        name!(ids_per_tick, i64),
        name!(ids_per_second, f64),
        name!(ends_at, Option<TimestampWithTimeZone>),
        name!(source, Option<&'static str>),
    ),
> {
    let in_force = || settings::layout().or_raise();
    let layout = match (layout, epoch) {
        (Some(layout), epoch) => named(&layout, epoch).or_raise(),
        (None, None) => *in_force(),
        (None, epoch) => named(&in_force().to_string(), epoch).or_raise(),
    };
    let preset = layout.preset();
    let values = |field| layout.max(field) as i64 + 1;
    let ticks_per_second = 1_000_000.0 / layout.tick_length() as f64;
    TableIterator::once((
        preset.map(|preset| preset.name),
        Text(layout.to_string()),
        from_unix(layout.epoch()).ok(),
        Interval::new(0, 0, layout.tick_length() as i64).ok(),
        layout.bits(Field::Timestamp) as i32,
        layout.bits(Field::Datacenter) as i32,
        layout.bits(Field::Worker) as i32,
        layout.bits(Field::Sequence) as i32,
        values(Field::Datacenter) * values(Field::Worker),
        values(Field::Sequence),
        values(Field::Sequence) as f64 * ticks_per_second,
        layout.ends_at().and_then(|end| from_unix(end).ok()),
        preset.map(|preset| preset.source),
    ))
}

#[pg_extern(sql = false)]
fn snowflake_presets() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).collect()
}
