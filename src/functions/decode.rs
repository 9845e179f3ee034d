//! Reading ids, and packing them from their fields.

use crate::encoding::Text;
use crate::error::{Error, OrRaise};
use crate::row::DecodedId;
use crate::settings;
use crate::time::{from_unix, to_unix};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use snowflake_core::{Field, Fields, Layout};
use std::cell::RefCell;

#[pg_extern(sql = false)]
fn snowflake_decode(id: i64) -> DecodedId {
    settings::layout().and_then(|layout| decode(layout, id)).or_raise()
}

#[pg_extern(sql = false)]
fn snowflake_decode_as(
    id: Option<i64>,
    layout: Option<Text>,
    epoch: Option<TimestampWithTimeZone>,
) -> Option<DecodedId> {
    let (id, layout) = (id?, layout?);
    Some(named(&layout, epoch).and_then(|layout| decode(&layout, id)).or_raise())
}

#[pg_extern(sql = false)]
fn snowflake_timestamp(id: i64) -> TimestampWithTimeZone {
    settings::layout().and_then(|layout| timestamp(layout, id)).or_raise()
}

#[pg_extern(sql = false)]
fn snowflake_timestamp_as(
    id: Option<i64>,
    layout: Option<Text>,
    epoch: Option<TimestampWithTimeZone>,
) -> Option<TimestampWithTimeZone> {
    let (id, layout) = (id?, layout?);
    Some(named(&layout, epoch).and_then(|layout| timestamp(&layout, id)).or_raise())
}

#[pg_extern(sql = false)]
fn snowflake_worker_id(id: i64) -> Option<i32> {
    let layout = settings::layout().or_raise();
    fields(layout, id).or_raise().worker.map(|worker| worker as i32)
}

#[pg_extern(sql = false)]
fn snowflake_encode(
    ts: Option<TimestampWithTimeZone>,
    worker_id: Option<i32>,
    sequence: Option<i32>,
    datacenter_id: Option<i32>,
) -> Option<i64> {
    let layout = settings::layout().or_raise();
    Some(encode(layout, ts?, datacenter_id, worker_id, sequence).or_raise())
}

fn fields(layout: &Layout, id: i64) -> Result<Fields, Error> {
    layout.unpack(id).map_err(|why| Error::field(why, layout))
}

fn time_of(layout: &Layout, fields: &Fields) -> Result<TimestampWithTimeZone, Error> {
    layout.time_of(fields.tick).ok_or(Error::NotATimestamp).and_then(from_unix)
}

fn decode(layout: &Layout, id: i64) -> Result<DecodedId, Error> {
    let fields = fields(layout, id)?;
    Ok(DecodedId { ts: time_of(layout, &fields)?, fields })
}

fn timestamp(layout: &Layout, id: i64) -> Result<TimestampWithTimeZone, Error> {
    time_of(layout, &fields(layout, id)?)
}

/// The tick that a time lies in.
pub(super) fn tick_at(layout: &Layout, time: TimestampWithTimeZone) -> Result<u64, Error> {
    let out_of_range = |_| Error::TimeOutOfRange { time, layout: *layout };
    layout.tick_at(to_unix(time)).map_err(out_of_range)
}

fn encode(
    layout: &Layout,
    time: TimestampWithTimeZone,
    datacenter_id: Option<i32>,
    worker_id: Option<i32>,
    sequence: Option<i32>,
) -> Result<i64, Error> {
    let tick = tick_at(layout, time)?;
    let number = |field, value: Option<i32>| {
        value
            .map(|value| {
                u32::try_from(value).map_err(|_| Error::FieldOutOfRange {
                    field,
                    value: i64::from(value),
                    layout: *layout,
                })
            })
            .transpose()
    };
    let fields = Fields {
        tick,
        datacenter: number(Field::Datacenter, datacenter_id)?,
        worker: number(Field::Worker, worker_id)?,
        sequence: number(Field::Sequence, sequence)?,
    };
    layout.pack(&fields).map_err(|why| Error::field(why, layout))
}

/// The layout that a call names. The last one is kept, since a query names the same
/// one for every row.
pub(super) fn named(text: &str, epoch: Option<TimestampWithTimeZone>) -> Result<Layout, Error> {
    thread_local! {
        static LAST: RefCell<Option<(String, Option<i64>, Layout)>> = const { RefCell::new(None) };
    }
    if let Some(epoch) = epoch.filter(|epoch| !epoch.is_finite()) {
        return Err(Error::BadEpoch { text: epoch.to_string() });
    }
    let epoch = epoch.map(to_unix);
    LAST.with_borrow_mut(|last| match last {
        Some((last_text, last_epoch, layout)) if last_text == text && *last_epoch == epoch => {
            Ok(*layout)
        }
        _ => {
            let layout = Layout::parse(text, epoch)
                .map_err(|why| Error::BadLayout { text: text.to_owned(), why })?;
            *last = Some((text.to_owned(), epoch, layout));
            Ok(layout)
        }
    })
}
