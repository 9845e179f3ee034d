//! What the catalogs say of a table that is to move. Names are as they are written in a statement:
//! quoted where they must be, and with their schema.

use serde::{Deserialize, Serialize};

/// All that the planner goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The table.
    pub relation: Relation,
    /// The column; none where it does not exist, or where none was named and there are several.
    pub column: Option<Column>,
    /// The table, its partitions and children, from the root down, and views with a default of
    /// their own.
    pub tables: Vec<Table>,
    /// The sequences that their keys come from.
    pub sequences: Vec<Sequence>,
    /// Whether a unique, immediate, whole index begins with the key: alone, or with the partition key.
    pub has_key: bool,
    /// Tables of the tree that the key partitions, with the strategy's letter.
    pub partitioned_by_key: Vec<String>,
    /// Columns that have the key's values by foreign keys, and no room for an id; each with the column that
    /// its own one refers to.
    pub narrow_references: Vec<(String, String)>,
    /// Narrow columns that look like references by their name.
    pub likely_references: Vec<String>,
    /// Functions with a narrow argument that looks like a reference by its name.
    pub narrow_arguments: Vec<String>,
    /// Views that make a narrow number of the key.
    pub narrow_views: Vec<String>,
    /// Tables of the tree without an index that begins with the key.
    pub unindexed: Vec<String>,
    /// Triggers that may give the key: they run before an insert, and call `nextval`.
    pub key_triggers: Vec<String>,
    /// What computes with the key: constraints, columns, indexes.
    pub computed: Vec<String>,
    /// Publications that have the table.
    pub publications: Vec<String>,
    /// How many standbys there are.
    pub standbys: u64,
    /// Roles, other than the table's owner, to whom his default privileges give rights on new sequences.
    pub default_grantees: Vec<String>,
    /// What generates ids: the function, as it is called.
    pub generator: Option<String>,
    /// The greatest key.
    pub max: Option<i64>,
    /// The least id that the node would generate now.
    pub first_id: Option<i64>,
    /// The greatest key, where it is an id of the layout in force whose time may be a floor.
    pub max_is_an_id: bool,
    /// Why no ids can be generated, and what to do about it.
    pub no_ids: Option<(String, String)>,
    /// Whether this server only reads: it can plan, and nothing else.
    pub is_standby: bool,
    /// The conversion of the table's column that has been made.
    pub is_converted: bool,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// Its number.
    pub oid: u32,
    /// The letter of its kind in `pg_class`.
    pub kind: String,
    /// The letter of its persistence.
    pub persistence: String,
    /// Of which table it is a partition.
    pub partition_of: Option<String>,
    /// The type that it is made of.
    pub of_type: Option<String>,
    /// The extension that spreads it over other tables.
    pub engine: Option<String>,
    /// Its owner.
    pub owner: String,
    /// Whether the caller may act as its owner.
    pub may_act: bool,
}

/// The column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_name: String,
    /// Whether it is computed from others.
    pub is_generated: bool,
}

/// A table or view that has the column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its number.
    pub oid: u32,
    /// The letter of its kind.
    pub kind: String,
    /// Its owner.
    pub owner: String,
    /// The column's name: a view's may be another one.
    pub column: String,
    /// `a` or `d` for an identity column, ALWAYS or BY DEFAULT.
    pub identity: String,
    /// Whether the identity is its own, not that of the table that it is a partition of.
    pub own_identity: bool,
    /// Its default.
    pub default: Option<String>,
    /// Whether that is a call of the function that generates ids.
    pub is_converted: bool,
    /// Whether it was not there when the table was converted.
    #[serde(skip)]
    pub is_new: bool,
}

/// A sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sequence {
    /// Its name.
    pub name: String,
    /// The same as a literal.
    pub literal: String,
    /// Its number.
    pub oid: u32,
    /// Its owner.
    pub owner: String,
    /// Whether it belongs to an identity column, with which it comes and goes.
    pub is_identity: bool,
    /// The column that it belongs to.
    pub owned_by: Option<String>,
    /// Its type.
    pub type_name: String,
    /// START.
    pub start: i64,
    /// INCREMENT.
    pub increment: i64,
    /// MINVALUE.
    pub min: i64,
    /// MAXVALUE.
    pub max: i64,
    /// CACHE.
    pub cache: i64,
    /// CYCLE.
    pub cycles: bool,
    /// Its value, and whether that has been used. They say where it stood when it was sealed.
    pub last: i64,
    /// See there.
    pub is_called: bool,
    /// Its comment, as a literal.
    pub comment: Option<String>,
    /// Rights on it beside its owner's, as grants without the name: `SELECT|role`.
    pub grants: Vec<(String, String)>,
    /// Whether somebody has dropped it since.
    #[serde(skip)]
    pub is_gone: bool,
    /// Defaults of other columns that take numbers from it.
    pub other_defaults: Vec<String>,
    /// Functions and views that name it.
    pub mentions: Vec<String>,
}

impl Sequence {
    /// Whether a conversion seals it.
    pub fn is_sealed(&self) -> bool {
        !self.is_identity && self.other_defaults.is_empty()
    }
}
