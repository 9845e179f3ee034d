//! What moves a live table's key to snowflake ids, and back: facts of the catalogs in, findings and
//! statements out. Pure functions; the extension reads the catalogs, shows the plan, and runs it as
//! it stands.
//!
//! # The seal
//!
//! A sequence that nobody should use any more stays, so that what names it goes on working, and is
//! sealed: it has two values left, the greatest that a `bigint` has, and has used the last one. A
//! stray `nextval` is an error. After `RESTART` it gives the greatest `bigint` once, a number that
//! no sequence has given before and no node ever generates (the last slot of the last tick is not
//! issued). A `setval` to a key, old or new, is out of its bounds, and the one that a dump writes is in
//! them. It belongs to no column, so that `TRUNCATE ... RESTART IDENTITY` does not reach it and
//! `pg_get_serial_sequence` does not find it. The same for every sequence, whatever it had given: so
//! the plan of yesterday is what runs today.

mod facts;
mod plan;
mod since;

pub use facts::{Column, Facts, Relation, Sequence, Table};
pub use plan::{
    SEALED_FROM, SEALED_TO, Severity, Step, Work, finish, is_converted, is_reverted, locks, plan,
    revert,
};
pub use since::since;
