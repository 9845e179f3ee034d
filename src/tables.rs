//! The tables of extensions `snowflake_id_node` and `snowflake_id_migrate`, and whether they may be
//! used.
//!
//! What writes to them has the rights of a superuser, or those of the extension's owner: the
//! background worker, the registry's functions, an audit, a conversion. A trigger, a rule, a default, an
//! expression of an index that somebody has added would run with these rights. So a table is
//! locked and looked at before each use, in PostgreSQL's own cache, which has the same truth as
//! what would run the trigger, whatever the transaction's snapshot; the lock keeps it so until the
//! transaction ends. A table that would run something is not used, and the error says what it is.

#![allow(unsafe_code)]

use crate::encoding::{Text, from_server};
use crate::settings;
use pgrx::prelude::*;
use pgrx::{PgList, PgRelation, PgTupleDesc};
use std::ffi::{CStr, CString, c_char};
use std::fmt::Write;

/// The extension that keeps a node's tables, and the schema that it has made for them.
pub(crate) const EXTENSION: &str = "snowflake_id_node";

/// A table, as its script makes it.
pub(crate) struct Table {
    /// Its extension, and the schema that this has made for it.
    extension: &'static str,
    name: &'static str,
    /// Names and types.
    columns: &'static [(&'static str, pg_sys::Oid)],
    /// The primary key, where its use rests on it, and what could be without it.
    key: Option<(&'static str, &'static str)>,
    /// Whether what is in it is run: then a trigger of the extension's keeps others from writing to it.
    holds_statements: bool,
}

pub(crate) const HIGH_WATER_MARKS: Table = Table {
    extension: EXTENSION,
    name: "high_water_marks",
    key: None,
    holds_statements: false,
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
        ("max_ahead", pg_sys::INT8OID),
    ],
};

pub(crate) const SAMPLES: Table = Table {
    extension: EXTENSION,
    name: "samples",
    key: None,
    holds_statements: false,
    columns: &[
        ("id", pg_sys::INT8OID),
        ("sampled_at", pg_sys::TIMESTAMPTZOID),
        ("pid", pg_sys::INT4OID),
        ("datname", pg_sys::NAMEOID),
        ("usename", pg_sys::NAMEOID),
    ],
};

pub(crate) const REGISTRY: Table = Table {
    extension: EXTENSION,
    name: "registry",
    key: Some(("number", "one worker id could be leased twice")),
    holds_statements: false,
    columns: &[
        ("number", pg_sys::INT8OID),
        ("revision", pg_sys::INT8OID),
        ("record", pg_sys::JSONBOID),
        ("alive_until", pg_sys::TIMESTAMPTZOID),
    ],
};

pub(crate) const AUDITS: Table = Table {
    extension: EXTENSION,
    name: "audits",
    key: None,
    holds_statements: false,
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

pub(crate) const CONVERSIONS: Table = Table {
    extension: "snowflake_id_migrate",
    name: "conversions",
    key: Some(("relation, column_name", "one conversion could be kept twice")),
    holds_statements: true,
    columns: &[
        ("relation", pg_sys::REGCLASSOID),
        ("column_name", pg_sys::TEXTOID),
        ("before", pg_sys::JSONBOID),
        ("converted_at", pg_sys::TIMESTAMPTZOID),
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
    /// The statement that undoes it; empty where nobody but a newer version has changed it.
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
#[derive(Clone, Debug)]
enum Change {
    /// It is missing, or not the extension's.
    Missing,
    /// It is no table, or one of another access method.
    Kind,
    Partition,
    /// What is in it does not outlast a crash.
    NotPermanent,
    RowSecurity,
    Children,
    Check(String),
    Rule(String),
    Trigger(String),
    /// That of a constraint, of a foreign key for example.
    InternalTrigger,
    Column(String, Column),
    Index(String),
    ExclusionConstraint(String),
    /// Its primary key is missing.
    Key,
    /// The trigger that keeps others from writing to it is missing, or off.
    NoGuard,
}

/// What is not as it should be with a column.
#[derive(Clone, Copy, Debug)]
enum Column {
    Missing(pg_sys::Oid),
    New,
    Type(pg_sys::Oid),
    Default,
    Identity,
    Computed,
}

impl Change {
    /// What that is and what it means, and the statement that undoes it.
    fn in_words(&self, of: &Table) -> Changed {
        const RUNS: &str =
            "Using it could run what somebody else has made, with the rights of a superuser.";
        let (table, extension) = (of.full_name(), of.extension);
        let quoted = |name: &String| pgrx::spi::quote_identifier(name);
        let drop_constraint =
            |name: &String| format!("ALTER TABLE {table} DROP CONSTRAINT {};", quoted(name));
        let (what, undo) = match self {
            Self::Missing => (
                "It is missing, or not the extension's.".to_owned(),
                format!("DROP TABLE IF EXISTS {table}; DROP EXTENSION {extension};"),
            ),
            Self::Kind => {
                ("It is not an ordinary table.".to_owned(), format!("DROP EXTENSION {extension};"))
            }
            Self::Partition => (
                "It is a partition.".to_owned(),
                format!("ALTER TABLE ... DETACH PARTITION {table};"),
            ),
            Self::NotPermanent => (
                "It is unlogged: a crash would empty it, or has.".to_owned(),
                format!("ALTER TABLE {table} SET LOGGED;"),
            ),
            Self::RowSecurity => (
                "It has row-level security.".to_owned(),
                format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;"),
            ),
            Self::Children => (
                "Another table inherits from it, or did.".to_owned(),
                format!("ALTER TABLE ... NO INHERIT {table}; ANALYZE {table};"),
            ),
            Self::Check(name) => {
                (format!("It has a constraint \"{name}\"."), drop_constraint(name))
            }
            Self::Rule(name) => (
                format!("It has a rule \"{name}\"."),
                format!("DROP RULE {} ON {table};", quoted(name)),
            ),
            Self::Trigger(name) => (
                format!("It has a trigger \"{name}\"."),
                format!("DROP TRIGGER {} ON {table};", quoted(name)),
            ),
            Self::InternalTrigger => (
                "It has a foreign key, or is referenced by one.".to_owned(),
                format!(
                    "ALTER TABLE ... DROP CONSTRAINT ...; which one: SELECT conrelid::regclass, conname FROM pg_constraint WHERE contype = 'f' AND '{table}'::regclass IN (conrelid, confrelid);"
                ),
            ),
            Self::Column(name, Column::Missing(type_id)) => (
                format!("Its column \"{name}\" is missing."),
                format!("ALTER TABLE {table} ADD COLUMN {name} {};", type_name(*type_id)),
            ),
            Self::Column(name, Column::New) => (
                format!("It has a column \"{name}\" that is not the extension's."),
                format!("ALTER TABLE {table} DROP COLUMN {};", quoted(name)),
            ),
            Self::Column(name, Column::Type(type_id)) => (
                format!("Its column \"{name}\" has another type."),
                format!(
                    "ALTER TABLE {table} ALTER COLUMN {name} TYPE {0} USING {name}::{0};",
                    type_name(*type_id)
                ),
            ),
            Self::Column(name, Column::Default) => (
                format!("Its column \"{name}\" has a default."),
                format!("ALTER TABLE {table} ALTER COLUMN {} DROP DEFAULT;", quoted(name)),
            ),
            Self::Column(name, Column::Identity) => (
                format!("Its column \"{name}\" is an identity."),
                format!("ALTER TABLE {table} ALTER COLUMN {} DROP IDENTITY;", quoted(name)),
            ),
            Self::Column(name, Column::Computed) => (
                format!("Its column \"{name}\" is computed."),
                format!("ALTER TABLE {table} ALTER COLUMN {} DROP EXPRESSION;", quoted(name)),
            ),
            Self::Index(name) => (
                format!("Its index \"{name}\" evaluates an expression, or is of a foreign kind."),
                format!("DROP INDEX {extension}.{};", quoted(name)),
            ),
            Self::ExclusionConstraint(name) => {
                (format!("It has a constraint \"{name}\"."), drop_constraint(name))
            }
            Self::Key => {
                let (columns, without) = of.key.unwrap_or_default();
                (
                    format!("Its primary key is missing: {without}."),
                    format!("ALTER TABLE {table} ADD PRIMARY KEY ({columns});"),
                )
            }
            Self::NoGuard => (
                "Its trigger \"guard\" is missing, or off: others could have written what is run as owners of tables.".to_owned(),
                format!(
                    "CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {extension}.guard(); ALTER TABLE {table} ENABLE ALWAYS TRIGGER guard;"
                ),
            ),
        };
        let what = match self {
            Self::NotPermanent | Self::Missing | Self::Key | Self::NoGuard => what,
            _ => format!("{what} {RUNS}"),
        };
        Changed { table, what, undo }
    }
}

/// A type's name in SQL, of those that the tables have.
fn type_name(type_id: pg_sys::Oid) -> &'static str {
    match type_id {
        pg_sys::INT4OID => "integer",
        pg_sys::INT8OID => "bigint",
        pg_sys::BOOLOID => "boolean",
        pg_sys::FLOAT8OID => "double precision",
        pg_sys::TIMESTAMPTZOID => "timestamptz",
        pg_sys::INTERVALOID => "interval",
        pg_sys::JSONBOID => "jsonb",
        pg_sys::NAMEOID => "name",
        pg_sys::REGCLASSOID => "regclass",
        pg_sys::INT8ARRAYOID => "bigint[]",
        _ => "text",
    }
}

/// Whether extension `snowflake_id_node` is there, in this database.
pub(crate) fn extension() -> Option<pg_sys::Oid> {
    extension_of_name(EXTENSION)
}

fn extension_of_name(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: takes a C string.
    let found = unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) };
    Some(found).filter(|&oid| oid != pg_sys::InvalidOid)
}

/// `InvalidOid` for none.
fn schema_of_name(name: &str) -> pg_sys::Oid {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: takes a C string.
    unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) }
}

/// Whether there is a schema of the extension's name without the extension.
pub(crate) fn schema_is_taken() -> bool {
    schema_of_name(EXTENSION) != pg_sys::InvalidOid && extension().is_none()
}

impl Table {
    /// The table of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        [&HIGH_WATER_MARKS, &SAMPLES, &REGISTRY, &AUDITS].into_iter().find(|t| t.name == name)
    }

    /// Its name in messages and in statements.
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.extension, self.name)
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
        let extension = extension_of_name(self.extension).ok_or(Unusable::NoExtension)?;
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
        let library = settings::version();
        let newer = version(self.extension).filter(|version| numbers(version) > numbers(library));
        Unusable::Changed(match newer {
            Some(version) => Changed {
                table: self.full_name(),
                what: format!(
                    "{} is of version {version} in this database; the server runs version {library} of its library.",
                    self.extension
                ),
                undo: String::new(),
            },
            None => change.in_words(self),
        })
    }

    /// The table that the extension owns.
    fn oid(&self, extension: pg_sys::Oid) -> Option<pg_sys::Oid> {
        let name = CString::new(self.name).ok()?;
        let schema = schema_of_name(self.extension);
        // SAFETY: C strings and numbers; both look into catalogs.
        unsafe {
            let oid = pg_sys::get_relname_relid(name.as_ptr(), schema);
            let exists = schema != pg_sys::InvalidOid && oid != pg_sys::InvalidOid;
            (exists && owner(pg_sys::RelationRelationId, oid) == extension).then_some(oid)
        }
    }

    /// What of it is not as its script has made it, and could run something of others.
    fn change(&self, relation: &PgRelation, extension: pg_sys::Oid) -> Option<Change> {
        let Seen { change, triggers, indexes, has_key } = Seen::of(relation);
        let is_foreign = |trigger: &Trigger| {
            trigger.conditional || owner(pg_sys::ProcedureRelationId, trigger.function) != extension
        };
        let foreign = triggers.iter().find(|trigger| is_foreign(trigger)).cloned();
        let is_guarded = triggers.iter().any(|trigger| trigger.acts && !is_foreign(trigger));
        let trigger = || match foreign {
            Some(Trigger { internal: true, .. }) => Some(Change::InternalTrigger),
            other => other.map(|trigger| Change::Trigger(trigger.name)),
        };
        change
            .or_else(|| self.changed_column(relation))
            .or_else(trigger)
            .or_else(|| indexes.into_iter().find_map(changed_index))
            .or_else(|| (self.key.is_some() && !has_key).then_some(Change::Key))
            .or_else(|| (self.holds_statements && !is_guarded).then_some(Change::NoGuard))
    }

    /// A column that is not as its script has made it. Where it stands is all the same: one that was
    /// dropped and added again, as the hint says, is the last.
    fn changed_column(&self, relation: &PgRelation) -> Option<Change> {
        let all = PgTupleDesc::from_relation(relation);
        let found = || all.iter().filter(|column| !column.attisdropped);
        let changed = |(name, type_id): &(&str, pg_sys::Oid)| {
            let what = match found().find(|column| column.name() == *name) {
                None => Column::Missing(*type_id),
                Some(column) if column.atttypid != *type_id => Column::Type(*type_id),
                Some(column) if column.attidentity != 0 => Column::Identity,
                Some(column) if column.attgenerated != 0 => Column::Computed,
                Some(column) if column.atthasdef => Column::Default,
                Some(_) => return None,
            };
            Some(Change::Column((*name).to_owned(), what))
        };
        let foreign = || {
            let mut names = found().map(|column| column.name().to_owned());
            names.find(|found| !self.columns.iter().any(|(name, _)| found == name))
        };
        self.columns
            .iter()
            .find_map(changed)
            .or_else(|| foreign().map(|name| Change::Column(name, Column::New)))
    }
}

#[derive(Clone)]
struct Trigger {
    name: String,
    function: pg_sys::Oid,
    /// Whether it evaluates a condition.
    conditional: bool,
    /// Whether PostgreSQL has made it for a constraint.
    internal: bool,
    /// Whether it acts on what sessions change: always, as the extension makes it, or but for those that
    /// replicate, as a restore with `--disable-triggers` leaves it. Only superusers decide which do.
    acts: bool,
}

/// What the cache says of a table. It is copied before anything else is looked up: that can have
/// PostgreSQL make the entry anew.
struct Seen {
    change: Option<Change>,
    triggers: Vec<Trigger>,
    indexes: Vec<pg_sys::Oid>,
    has_key: bool,
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
            if class.relkind as u8 != pg_sys::RELKIND_RELATION || is_foreign(class.relam) {
                change = Some(Change::Kind);
            } else if class.relispartition {
                change = Some(Change::Partition);
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
                    internal: trigger.tgisinternal,
                    acts: matches!(
                        trigger.tgenabled as u8,
                        pg_sys::TRIGGER_FIRES_ALWAYS | pg_sys::TRIGGER_FIRES_ON_ORIGIN
                    ),
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
        // SAFETY: as above; making the list has found the key.
        let has_key = unsafe { (*relation.as_ptr()).rd_pkindex } != pg_sys::InvalidOid;
        Self { change, triggers, indexes: indexes.iter_oid().collect(), has_key }
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
        if form.indisexclusion {
            return Some(Change::ExclusionConstraint(relation.name().to_owned()));
        }
        let changed = is_foreign((*entry.rd_rel).relam)
            || families.iter().copied().any(is_foreign)
            || has(pg_sys::Anum_pg_index_indexprs)
            || has(pg_sys::Anum_pg_index_indpred);
        changed.then(|| Change::Index(relation.name().to_owned()))
    }
}

/// The extension that an object belongs to; `InvalidOid` for none.
fn owner(class: pg_sys::Oid, object: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: takes two numbers, and looks into a catalog.
    unsafe { pg_sys::getExtensionOfObject(class, object) }
}

/// The version of an extension in this database.
fn version(extension: &str) -> Option<String> {
    let query = "SELECT extversion FROM pg_catalog.pg_extension
         WHERE extname OPERATOR(pg_catalog.=) $1::pg_catalog.name";
    let version = Spi::connect(|client| {
        client.select(query, Some(1), &[extension.into()])?.first().get_one::<Text>()
    });
    version.ok().flatten().map(|version| version.0)
}

/// A version as it is ordered: 0.10.0 comes after 0.9.1.
fn numbers(version: &str) -> Vec<u32> {
    let number = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().unwrap_or(0)
    };
    version.split('.').map(number).collect()
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

/// # Safety
/// A C string.
unsafe fn text(name: *const c_char) -> String {
    // SAFETY: as the caller says.
    from_server(unsafe { CStr::from_ptr(name) })
}
