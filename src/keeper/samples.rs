//! The audit trail: samples of ids, from the backends into a table. Nothing waits for them.

use super::high_water::{Failure, set_here, transaction};
use crate::schema;
use crate::shared::Sampled;
use pgrx::prelude::*;

/// So many old ones are deleted at most for each time that new ones are written, so that this
/// takes no longer than writing them.
const DELETED: i32 = 10_000;

/// Writes samples down, and deletes those of ids below `bound`.
pub(super) fn write(samples: &[Sampled], bound: Option<i64>) -> Result<(), Failure> {
    let all = |part: fn(&Sampled) -> i64| samples.iter().map(part).collect::<Vec<_>>();
    transaction(|| {
        let table = format!("{}.snowflake_samples", schema::find()?.ok_or(Failure::NoExtension)?);
        // Windows are more important than these: neither the disk nor a standby is waited for, nor
        // somebody who has locked the table.
        set_here(c"synchronous_commit", c"off");
        set_here(c"lock_timeout", c"10ms");
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
        if let Some(bound) = bound {
            let delete = format!(
                "DELETE FROM {table} WHERE ctid = ANY (ARRAY(
                     SELECT ctid FROM {table} WHERE id < $1 ORDER BY id LIMIT $2))"
            );
            Spi::run_with_args(&delete, &[bound.into(), DELETED.into()])?;
        }
        Ok(())
    })
}
