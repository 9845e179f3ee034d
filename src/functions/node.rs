//! The triggers on the tables of the extensions. Those of `snowflake_id_node` act on what logical
//! replication brings and on nothing else, whatever state somebody has left them in: a dump that is
//! restored with triggers off, or in the role of a replica, arrives as it is.

use crate::encoding::Verbatim;
use crate::error::{Error, OrRaise};
use crate::tables::Table;
use crate::versions;
use pgrx::prelude::*;
use pgrx::spi;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

type Row<'a> = PgHeapTuple<'a, AllocatedByPostgres>;

/// Whether this process applies the changes of another server. Those that are not PostgreSQL's own
/// (pglogical, Spock) say where the changes come from as well.
fn replicates() -> bool {
    if PUTTING_BACK.get() {
        return false;
    }
    // SAFETY: no arguments; it reads what belongs to this process.
    #[allow(unsafe_code)]
    let worker = unsafe { pg_sys::IsLogicalWorker() };
    worker || versions::has_origin()
}

/// What a trigger returns for the change to be made.
fn pass<'a>(trigger: &'a PgTrigger<'a>) -> Option<Row<'a>> {
    trigger.new().or_else(|| trigger.old())
}

/// The table whose trigger it is; an error where it would run something of others.
fn table(trigger: &PgTrigger<'_>) -> Result<String, spi::Error> {
    let name = trigger.table_name().unwrap_or_default();
    let table = Table::named(&name).ok_or(spi::Error::InvalidPosition)?;
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    Ok(table.open(lock).map_err(Error::from).or_raise())
}

/// Lets a replicated row of a node pass only if there is none yet: two clusters that publish
/// all their tables to each other would else send it back and forth.
#[pg_trigger(sql = false)]
fn snowflake_skip_known_node<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<Row<'a>>, Box<dyn std::error::Error>> {
    let Some(new) = trigger.new().filter(|_| replicates()) else { return Ok(pass(trigger)) };
    let node: Option<Verbatim> = new.get_by_name("node")?;
    let known = Spi::get_one_with_args::<bool>(
        &format!(
            "SELECT EXISTS (SELECT FROM ONLY {} WHERE node OPERATOR(pg_catalog.=) $1)",
            table(trigger)?
        ),
        &[node.into()],
    )?;
    Ok(if known == Some(true) { None } else { Some(new) })
}

/// Lets no replicated change pass.
#[pg_trigger(sql = false)]
fn snowflake_skip_replicated<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<Row<'a>>, Box<dyn std::error::Error>> {
    Ok(if replicates() { None } else { pass(trigger) })
}

/// For the table of conversions: lets no replicated change pass, and nobody change a row but whoever has
/// the rights of its owner. PostgreSQL's own checks let every member of pg_write_all_data write.
#[pg_trigger(sql = false)]
fn snowflake_guard<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<Row<'a>>, Box<dyn std::error::Error>> {
    if replicates() {
        return Ok(None);
    }
    let relation = trigger.relation()?;
    // SAFETY: the table is open while its trigger runs; its owner is a role, which is looked for in a cache.
    #[allow(unsafe_code)]
    let may =
        unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), (*relation.rd_rel).relowner) };
    if !may {
        Error::Guarded.raise();
    }
    Ok(pass(trigger))
}

thread_local! {
    /// The rows of tables that are being emptied.
    static KEPT: RefCell<HashMap<String, Verbatim>> = RefCell::default();
    /// Whether rows are being put back, which no other server has sent.
    static PUTTING_BACK: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, rows are being put back; also where that ends with an error.
struct PuttingBack;

impl PuttingBack {
    fn begin() -> Self {
        PUTTING_BACK.set(true);
        Self
    }
}

impl Drop for PuttingBack {
    fn drop(&mut self) {
        PUTTING_BACK.set(false);
    }
}

/// Before and after a replicated TRUNCATE: what was in the table is in it again. An error would
/// end the subscription with all its other tables.
#[pg_trigger(sql = false)]
fn snowflake_keep_rows<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<Row<'a>>, Box<dyn std::error::Error>> {
    if !replicates() {
        return Ok(None);
    }
    let table = table(trigger)?;
    match trigger.when()? {
        PgTriggerWhen::Before => {
            let rows = format!(
                "SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(t))::pg_catalog.text
                 FROM ONLY {table} AS t"
            );
            // Whatever an aborted one has left behind is replaced.
            let rows = Spi::get_one::<Verbatim>(&rows)?.unwrap_or_else(|| Verbatim(b"[]".to_vec()));
            KEPT.with_borrow_mut(|kept| kept.insert(table, rows));
        }
        _ => {
            let rows = KEPT.with_borrow_mut(|kept| kept.remove(&table));
            let insert = format!(
                "INSERT INTO {table} SELECT * FROM pg_catalog.jsonb_populate_recordset(
                     NULL::{table}, $1::pg_catalog.jsonb)"
            );
            let _putting_back = PuttingBack::begin();
            Spi::run_with_args(&insert, &[rows.into()])?;
        }
    }
    Ok(None)
}
