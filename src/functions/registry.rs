//! A database as the registry of worker ids: what nodes call, with the rights of the extension's
//! owner. They are STABLE or VOLATILE as the statements in them are.

use crate::encoding::{Verbatim, guarded};
use crate::error::{Error, OrRaise};
use crate::tables::REGISTRY;
use pgrx::prelude::*;
use pgrx::spi;

/// The table's name in SQL; an error where it would run something of others.
fn table(lock: u32) -> String {
    REGISTRY.open(lock as pg_sys::LOCKMODE).map_err(Error::from).or_raise()
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "pgrx reads the columns from the type as it is written")]
fn snowflake_registry_read(
    of_number: Option<i64>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(number, Option<i64>),
            name!(revision, Option<i64>),
            name!(record, Option<Verbatim>),
            name!(alive, Option<bool>),
        ),
    >,
    spi::Error,
> {
    let select = format!(
        "SELECT number, revision, record::text, alive_until > clock_timestamp()
         FROM ONLY {} WHERE $1 IS NULL OR number = $1",
        table(pg_sys::AccessShareLock)
    );
    let rows: Vec<_> = guarded(|| {
        Spi::connect(|client| {
            let rows = client.select(&select, None, &[of_number.into()])?;
            rows.map(|row| {
                Ok::<_, spi::Error>((row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })
            .collect::<Result<_, _>>()
        })
    })?;
    Ok(TableIterator::new(rows))
}

#[pg_extern(sql = false)]
fn snowflake_registry_write(
    of_number: Option<i64>,
    revision_read: Option<i64>,
    record: Option<Verbatim>,
) -> Result<bool, spi::Error> {
    let table = table(pg_sys::RowExclusiveLock);
    let statement = match revision_read {
        Some(_) => format!(
            "UPDATE ONLY {table} SET revision = revision + 1, record = $3::jsonb
             WHERE number = $1 AND revision = $2"
        ),
        None => format!(
            "INSERT INTO {table} (number, revision, record, alive_until)
             SELECT $1, 1, $3::jsonb, '-infinity' WHERE $2 IS NULL
             ON CONFLICT DO NOTHING"
        ),
    };
    guarded(|| {
        Spi::connect_mut(|client| {
            let values = [of_number.into(), revision_read.into(), record.into()];
            client.update(&statement, None, &values).map(|done| !done.is_empty())
        })
    })
}

#[pg_extern(sql = false)]
fn snowflake_registry_announce(of_number: i64, seconds: f64) -> Result<(), spi::Error> {
    let update = format!(
        "UPDATE ONLY {} SET alive_until = clock_timestamp() + make_interval(secs => $2)
         WHERE number = $1",
        table(pg_sys::RowExclusiveLock)
    );
    guarded(|| {
        Spi::connect_mut(|client| {
            client.update(&update, None, &[of_number.into(), seconds.into()]).map(drop)
        })
    })
}
