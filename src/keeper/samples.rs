//! The audit trail: samples of ids, from the backends into a table. Nothing waits for them.

use super::high_water::{Failure, bounded, set_here};
use crate::shared::Sampled;
use crate::tables::SAMPLES;
use pgrx::prelude::*;

/// How long the keeper may be kept from its windows, in milliseconds.
const LONGEST: i32 = 100;
/// So many old ones are deleted at once, which takes less than that.
const DELETED: i64 = 10_000;

/// Writes samples down.
pub(super) fn write(samples: &[Sampled]) -> Result<(), Failure> {
    let all = |part: fn(&Sampled) -> i64| samples.iter().map(part).collect::<Vec<_>>();
    bounded(LONGEST, || {
        let table = table()?;
        let insert = format!(
            "INSERT INTO {table} (id, sampled_at, pid, datname, usename)
             SELECT s.id, 'epoch'::timestamptz + s.at * interval '1 microsecond', s.pid, d.datname,
                    r.rolname
             FROM unnest($1, $2, $3, $4, $5) AS s (id, at, pid, database, role)
             LEFT JOIN pg_database d ON d.oid = s.database::oid
             LEFT JOIN pg_roles r ON r.oid = s.role::oid"
        );
        let columns = [
            all(|sample| sample.id).into(),
            all(|sample| sample.at).into(),
            all(|sample| sample.pid.into()).into(),
            all(|sample| sample.database.into()).into(),
            all(|sample| sample.role.into()).into(),
        ];
        Spi::run_with_args(&insert, &columns)?;
        Ok(())
    })
}

/// Deletes samples of ids from `first` up to `bound`, some of them; from where the next time may
/// begin, so that it does not pass the deleted ones again, which an old snapshot may keep.
pub(super) fn forget(first: i64, bound: i64) -> Result<i64, Failure> {
    bounded(LONGEST, || {
        let table = table()?;
        let delete = format!(
            "WITH old AS (
                 DELETE FROM {table} WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM {table} WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3))
                 RETURNING id
             )
             SELECT CASE WHEN count(*) < $3 THEN $2 ELSE max(id) END FROM old"
        );
        Ok(Spi::get_one_with_args(&delete, &[first.into(), bound.into(), DELETED.into()])?
            .unwrap_or(first))
    })
}

fn table() -> Result<String, Failure> {
    // Windows are more important than these: neither the disk nor a standby is waited for, nor
    // somebody who has locked the table.
    set_here(c"synchronous_commit", c"off");
    set_here(c"lock_timeout", c"10ms");
    Ok(SAMPLES.open(pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)?)
}
