//! The tables of extension `snowflake_id_node`, and whether they may be used.
//!
//! What writes to them has the rights of a superuser, or those of the extension's owner: the
//! background worker, the registry's functions, an audit. A trigger, a rule, a default, an
//! expression of an index that somebody has added would run with these rights. So a table is
//! locked and looked at before each use, in PostgreSQL's own cache, which has the same truth as
//! what would run the trigger, whatever the transaction's snapshot; the lock keeps it so until the
//! transaction ends. A table that would run something is not used, and the error says what it is.

#![allow(unsafe_code)]

use crate::encoding::{self, Text};
use pgrx::prelude::*;
use pgrx::{PgList, PgRelation, PgTupleDesc};
use std::ffi::{CStr, CString, c_char};
use std::fmt::Write;

/// The extension that keeps the tables, and the schema that it has made for them.
pub(crate) const EXTENSION: &str = "snowflake_id_node";
const EXTENSION_C: &CStr = c"snowflake_id_node";

/// A table, as its script makes it.
pub(crate) struct Table {
    name: &'static str,
    /// Names and types.
    columns: &'static [(&'static str, pg_sys::Oid)],
}

pub(crate) const HIGH_WATER_MARKS: Table = Table {
    name: "high_water_marks",
    columns: &[
        ("node", pg_sys::TEXTOID),
        ("reserved_until", pg_sys::INT8OID),
        ("datacenter_id", pg_sys::INT4OID),
        ("worker_id", pg_sys::INT4OID),
        ("layout", pg_sys::TEXTOID),
        ("epoch", pg_sys::TIMESTAMPTZOID),
        ("timeline", pg_sys::INT8OID),
        ("updated_at", pg_sys::TIMESTAMPTZOID),
        ("boot_id", pg_sys::TEXTOID),
        ("booted_at", pg_sys::TIMESTAMPTZOID),
        ("host", pg_sys::TEXTOID),
        ("data_directory", pg_sys::TEXTOID),
        ("lease", pg_sys::TEXTOID),
        ("lease_until", pg_sys::TIMESTAMPTZOID),
        ("drained", pg_sys::BOOLOID),
    ],
};

pub(crate) const SAMPLES: Table = Table {
    name: "samples",
    columns: &[
        ("id", pg_sys::INT8OID),
        ("sampled_at", pg_sys::TIMESTAMPTZOID),
        ("pid", pg_sys::INT4OID),
        ("datname", pg_sys::NAMEOID),
        ("usename", pg_sys::NAMEOID),
    ],
};

pub(crate) const REGISTRY: Table = Table {
    name: "registry",
    columns: &[
        ("number", pg_sys::INT8OID),
        ("revision", pg_sys::INT8OID),
        ("record", pg_sys::JSONBOID),
        ("alive_until", pg_sys::TIMESTAMPTZOID),
    ],
};

pub(crate) const AUDITS: Table = Table {
    name: "audits",
    columns: &[
        ("relation", pg_sys::REGCLASSOID),
        ("column_name", pg_sys::NAMEOID),
        ("finding", pg_sys::TEXTOID),
        ("datacenter_id", pg_sys::INT4OID),
        ("worker_id", pg_sys::INT4OID),
        ("count", pg_sys::INT8OID),
        ("examples", pg_sys::INT8ARRAYOID),
        ("since", pg_sys::TIMESTAMPTZOID),
        ("sample", pg_sys::FLOAT8OID),
        ("partial", pg_sys::BOOLOID),
        ("audited_at", pg_sys::TIMESTAMPTZOID),
        ("duration", pg_sys::INTERVALOID),
    ],
};

/// Why a table is not used.
#[derive(Clone, Debug)]
pub(crate) enum Unusable {
    /// The extension is not there.
    NoExtension,
    /// Somebody has changed the table.
    Changed(Changed),
}

/// A table that somebody has changed, in words.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    pub(crate) table: String,
    /// In sentences.
    pub(crate) what: String,
    /// The statement that undoes it.
    pub(crate) undo: String,
}

impl Changed {
    /// In one text, for shared memory.
    pub(crate) fn to_line(&self) -> String {
        format!("{}\n{}\n{}", self.table, self.what, self.undo)
    }

    pub(crate) fn of_line(line: &str) -> Self {
        let mut parts = line.splitn(3, '\n').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { table: next(), what: next(), undo: next() }
    }
}

/// What was changed in a table, and what puts it right.
enum Change {
    /// It is missing, or not the extension's.
    Missing,
    Trigger(String),
    Rule(String),
    RowSecurity,
    Children,
    Check(String),
    /// A column that is missing, new, of another type, or has a default.
    Column(String),
    Index(String),
    /// It is no table, or one of another access method.
    Kind,
    /// What is in it does not outlast a crash.
    NotPermanent,
}

impl Change {
    /// What that is and what it means, and the statement that undoes it.
    fn in_words(&self, table: &str) -> Changed {
        const RUNS: &str =
            "Using it could run what somebody else has made, with the rights of a superuser.";
        let quoted = |name: &String| pgrx::spi::quote_identifier(name);
        let anew = || format!("DROP EXTENSION {EXTENSION}; CREATE EXTENSION {EXTENSION};");
        let (what, undo) = match self {
            Self::Missing => ("It is missing, or not the extension's.".to_owned(), anew()),
            Self::Trigger(name) => (
                format!("It has a trigger \"{name}\"."),
                format!("DROP TRIGGER {} ON {table};", quoted(name)),
            ),
            Self::Rule(name) => (
                format!("It has a rule \"{name}\"."),
                format!("DROP RULE {} ON {table};", quoted(name)),
            ),
            Self::RowSecurity => (
                "It has row-level security.".to_owned(),
                format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;"),
            ),
            Self::Children => (
                "Another table inherits from it, or did.".to_owned(),
                format!("ALTER TABLE ... NO INHERIT {table}; ANALYZE {table};"),
            ),
            Self::Check(name) => (
                format!("It has a constraint \"{name}\"."),
                format!("ALTER TABLE {table} DROP CONSTRAINT {};", quoted(name)),
            ),
            Self::Column(name) => (
                format!("Its column \"{name}\" is not the one that the extension has made."),
                format!("ALTER TABLE {table} ...; see \\d {table}"),
            ),
            Self::Index(name) => (
                format!("Its index \"{name}\" evaluates an expression, or is of a foreign kind."),
                format!("DROP INDEX {EXTENSION}.{};", quoted(name)),
            ),
            Self::Kind => ("It is not an ordinary table.".to_owned(), anew()),
            Self::NotPermanent => (
                "It is unlogged: a crash would empty it.".to_owned(),
                format!("ALTER TABLE {table} SET LOGGED;"),
            ),
        };
        let what = match self {
            Self::NotPermanent => what,
            _ => format!("{what} {RUNS}"),
        };
        Changed { table: table.to_owned(), what, undo }
    }
}

/// Whether the extension is there, in this database.
pub(crate) fn extension() -> Option<pg_sys::Oid> {
    // SAFETY: takes a C string.
    let found = unsafe { pg_sys::get_extension_oid(EXTENSION_C.as_ptr(), true) };
    Some(found).filter(|&oid| oid != pg_sys::InvalidOid)
}

/// Whether there is a schema of the extension's name without the extension.
pub(crate) fn schema_is_taken() -> bool {
    // SAFETY: takes a C string.
    let schema = unsafe { pg_sys::get_namespace_oid(EXTENSION_C.as_ptr(), true) };
    schema != pg_sys::InvalidOid && extension().is_none()
}

impl Table {
    /// The table of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        [&HIGH_WATER_MARKS, &SAMPLES, &REGISTRY, &AUDITS].into_iter().find(|t| t.name == name)
    }

    /// Its name in messages and in statements.
    pub(crate) fn full_name(&self) -> String {
        format!("{EXTENSION}.{}", self.name)
    }

    /// The names of its columns, in their order.
    pub(crate) fn columns(&self) -> String {
        let mut list = String::new();
        for (position, (name, _)) in self.columns.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(list, "{comma}{name}");
        }
        list
    }

    /// Locks it until the end of the transaction and returns its name for a statement, if nothing
    /// of others would run by using it.
    pub(crate) fn open(&self, lock: pg_sys::LOCKMODE) -> Result<String, Unusable> {
        let extension = extension().ok_or(Unusable::NoExtension)?;
        let oid = self.oid(extension).ok_or_else(|| self.unusable(&Change::Missing))?;
        // SAFETY: takes a number, of whatever; a lock on what has just been dropped does no harm.
        unsafe { pg_sys::LockRelationOid(oid, lock) };
        // It may have been dropped, or another one put in its place, before it was locked.
        if self.oid(extension) != Some(oid) {
            return Err(self.unusable(&Change::Missing));
        }
        // SAFETY: the relation exists and is locked.
        let relation = unsafe { PgRelation::open(oid) };
        match self.change(&relation, extension) {
            Some(change) => Err(self.unusable(&change)),
            None => Ok(self.full_name()),
        }
    }

    fn unusable(&self, change: &Change) -> Unusable {
        Unusable::Changed(change.in_words(&self.full_name()))
    }

    /// The table that the extension owns.
    fn oid(&self, extension: pg_sys::Oid) -> Option<pg_sys::Oid> {
        let name = CString::new(self.name).ok()?;
        // SAFETY: C strings and numbers; all three look into catalogs.
        unsafe {
            let schema = pg_sys::get_namespace_oid(EXTENSION_C.as_ptr(), true);
            let oid = pg_sys::get_relname_relid(name.as_ptr(), schema);
            let exists = schema != pg_sys::InvalidOid && oid != pg_sys::InvalidOid;
            (exists && owner(pg_sys::RelationRelationId, oid) == extension).then_some(oid)
        }
    }

    /// What of it is not as its script has made it, and could run something of others.
    fn change(&self, relation: &PgRelation, extension: pg_sys::Oid) -> Option<Change> {
        let Seen { change, triggers, indexes } = Seen::of(relation);
        if change.is_some() {
            return change;
        }
        if let Some(column) = self.changed_column(relation) {
            return Some(Change::Column(column));
        }
        let is_foreign = |trigger: &Trigger| {
            trigger.conditional || owner(pg_sys::ProcedureRelationId, trigger.function) != extension
        };
        match triggers.into_iter().find(is_foreign) {
            Some(trigger) => Some(Change::Trigger(trigger.name)),
            None => indexes.into_iter().find_map(changed_index),
        }
    }

    /// A column that is not as its script has made it.
    fn changed_column(&self, relation: &PgRelation) -> Option<String> {
        let found = PgTupleDesc::from_relation(relation);
        let mut expected = self.columns.iter();
        for column in found.iter().filter(|column| !column.attisdropped) {
            let same = expected.next().is_some_and(|(name, type_id)| {
                text_of(column) == *name && column.atttypid == *type_id
            });
            if !same || column.atthasdef || column.attgenerated != 0 || column.attidentity != 0 {
                return Some(text_of(column));
            }
        }
        expected.next().map(|(name, _)| (*name).to_owned())
    }
}

struct Trigger {
    name: String,
    function: pg_sys::Oid,
    /// Whether it evaluates a condition.
    conditional: bool,
}

/// What the cache says of a table. It is copied before anything else is looked up: that can have
/// PostgreSQL make the entry anew.
struct Seen {
    change: Option<Change>,
    triggers: Vec<Trigger>,
    indexes: Vec<pg_sys::Oid>,
}

impl Seen {
    fn of(relation: &PgRelation) -> Self {
        let (mut change, mut triggers) = (None, Vec::new());
        // SAFETY: the entry of an open relation; arrays have as many elements as is said beside
        // them, and names end with a zero. Nothing in between looks into a catalog.
        let rule = unsafe {
            let entry = &*relation.as_ptr();
            let class = &*entry.rd_rel;
            let constraints = (*entry.rd_att).constr;
            if class.relkind as u8 != pg_sys::RELKIND_RELATION
                || class.relispartition
                || is_foreign(class.relam)
            {
                change = Some(Change::Kind);
            } else if class.relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT {
                change = Some(Change::NotPermanent);
            } else if class.relrowsecurity {
                change = Some(Change::RowSecurity);
            } else if class.relhassubclass {
                change = Some(Change::Children);
            } else if !constraints.is_null() && (*constraints).num_check > 0 {
                change = Some(Change::Check(text((*(*constraints).check).ccname)));
            }
            if !entry.trigdesc.is_null() {
                let all = &*entry.trigdesc;
                let all = std::slice::from_raw_parts(all.triggers, all.numtriggers as usize);
                triggers.extend(all.iter().map(|trigger| Trigger {
                    name: text(trigger.tgname),
                    function: trigger.tgfoid,
                    conditional: !trigger.tgqual.is_null(),
                }));
            }
            let rules = entry.rd_rules;
            let rule = (!rules.is_null() && (*rules).numLocks > 0).then(|| **(*rules).rules);
            rule.map(|rule| rule.ruleId)
        };
        let change = change.or_else(|| rule.map(|rule| Change::Rule(rule_name(rule))));
        // SAFETY: the list is a copy in the present memory context.
        let indexes = unsafe {
            PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(relation.as_ptr()))
        };
        Self { change, triggers, indexes: indexes.iter_oid().collect() }
    }
}

/// Whether something is not PostgreSQL's own.
fn is_foreign(object: pg_sys::Oid) -> bool {
    object.to_u32() >= pg_sys::FirstNormalObjectId
}

/// Whether an index evaluates something, or is of an access method or operators that somebody has
/// made; its name. PostgreSQL's own functions for its expressions would evaluate parts of them.
fn changed_index(index: pg_sys::Oid) -> Option<Change> {
    // SAFETY: an index of a table that is locked, open as long as its entry is read; the array has
    // an element for each column of the key. The attributes are those of pg_index.
    unsafe {
        let relation = PgRelation::with_lock(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let entry = &*relation.as_ptr();
        let form = &*entry.rd_index;
        let has = |attribute: u32| {
            let row = entry.rd_indextuple;
            !pg_sys::heap_attisnull(row, attribute as i32, std::ptr::null_mut())
        };
        let families = std::slice::from_raw_parts(entry.rd_opfamily, form.indnkeyatts as usize);
        let changed = form.indisexclusion
            || is_foreign((*entry.rd_rel).relam)
            || families.iter().copied().any(is_foreign)
            || has(pg_sys::Anum_pg_index_indexprs)
            || has(pg_sys::Anum_pg_index_indpred);
        changed.then(|| Change::Index(text((*entry.rd_rel).relname.data.as_ptr())))
    }
}

/// The extension that an object belongs to; `InvalidOid` for none.
fn owner(class: pg_sys::Oid, object: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: takes two numbers, and looks into a catalog.
    unsafe { pg_sys::getExtensionOfObject(class, object) }
}

/// A rule's name; the cache has none.
fn rule_name(rule: pg_sys::Oid) -> String {
    let query = "SELECT rulename::text FROM pg_catalog.pg_rewrite
         WHERE oid OPERATOR(pg_catalog.=) $1";
    let name = Spi::connect(|client| {
        client.select(query, Some(1), &[rule.into()])?.first().get_one::<Text>()
    });
    name.ok().flatten().map_or_else(String::new, |name| name.0)
}

fn text_of(column: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: a name ends with a zero.
    unsafe { text(column.attname.data.as_ptr()) }
}

/// # Safety
/// A C string.
unsafe fn text(name: *const c_char) -> String {
    // SAFETY: as the caller says.
    encoding::from_server(unsafe { CStr::from_ptr(name) })
}
