//! From facts to findings and statements.

use crate::facts::{Facts, Sequence, Table};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// There is no conversion.
    Refuse,
    /// There is one if the caller has read it.
    Warn,
    /// Worth to know.
    Info,
    /// No finding: a statement that runs.
    Do,
}

impl Severity {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Do => "do",
        }
    }
}

/// What a statement costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Some rows of catalogs, whatever the size of the table.
    Catalog,
}

impl Work {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
        }
    }
}

/// A row of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is.
    pub severity: Severity,
    /// The finding's name; `None` for a statement.
    pub finding: Option<&'static str>,
    /// What it is about.
    pub object: String,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub hint: String,
    /// The statement.
    pub statement: Option<String>,
    /// The lock that it takes, on the object.
    pub lock: Option<&'static str>,
    /// The number of what is locked.
    pub locked: Option<u32>,
    /// What it costs.
    pub work: Option<Work>,
}

const ACCESS_EXCLUSIVE: &str = "ACCESS EXCLUSIVE";
const SHARE_ROW_EXCLUSIVE: &str = "SHARE ROW EXCLUSIVE";

/// The least of the values that a sealed sequence has left. See the crate.
pub const SEALED_FROM: i64 = i64::MAX - 1;
/// The greatest of them, which it has used.
pub const SEALED_TO: i64 = i64::MAX;

/// The plan: what was found, the worst first, and what would run. Statements are missing where a
/// finding refuses.
pub fn plan(facts: &Facts, lock_timeout: &str) -> Vec<Step> {
    let mut findings = refusals(facts);
    let refused = !findings.is_empty();
    findings.extend(warnings(facts));
    findings.extend(infos(facts));
    if !refused {
        findings.extend(statements(facts, lock_timeout));
    }
    findings
}

/// The statements that take the locks: they alone wait, and are tried again.
pub fn locks(facts: &Facts, lock_timeout: &str) -> Vec<Step> {
    // Whoever waits for a lock has others wait behind it. So only the first one is waited for.
    let tables = facts.tables.iter().filter(|table| table.kind != "v");
    let mut steps = vec![set_lock_timeout(lock_timeout)];
    for (number, table) in tables.enumerate() {
        let at_once = if number == 0 { "" } else { " NOWAIT" };
        steps.push(run(
            format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE{at_once}", table.name),
            ACCESS_EXCLUSIVE,
            &table.name,
            table.oid,
        ));
    }
    // The least that there is: what is locked now, others wait for.
    steps.push(set_lock_timeout("1ms"));
    steps
}

fn statements(facts: &Facts, lock_timeout: &str) -> Vec<Step> {
    let Some(generator) = &facts.generator else { return Vec::new() };
    let mut steps = locks(facts, lock_timeout);
    let (plain, identities): (Vec<&Table>, Vec<&Table>) = facts
        .tables
        .iter()
        .filter(|table| gets_default(table, facts))
        .partition(|table| table.identity.is_empty());
    let set_default = |table| alter(table, &format!("SET DEFAULT {generator}"), Only::Yes);
    // An identity's sequence is dropped with it: nobody must need it any more.
    steps.extend(plain.into_iter().map(set_default));
    for table in facts.tables.iter().filter(|table| table.own_identity) {
        steps.push(alter(table, "DROP IDENTITY", Only::No));
    }
    steps.extend(identities.into_iter().map(set_default));
    for sequence in facts.sequences.iter().filter(|sequence| sequence.is_sealed()) {
        steps.extend(seal(sequence));
    }
    steps
}

/// Whether a table is to have ids by default: the root, and what had keys of its own.
fn gets_default(table: &Table, facts: &Facts) -> bool {
    let is_root = table.oid == facts.relation.oid;
    let had_keys = table.default.is_some() || !table.identity.is_empty();
    !table.is_converted && (is_root || table.is_new || had_keys)
}

/// Whether all that was to have ids by default has: what the plan's statements name could have been renamed
/// meanwhile, and others of the name altered.
pub fn is_converted(before: &Facts, now: &Facts) -> bool {
    let mut tables =
        before.tables.iter().filter(|table| table.kind != "v" && gets_default(table, before));
    tables.all(|table| now.tables.iter().any(|now| now.oid == table.oid && now.is_converted))
}

/// The same of a conversion that has been taken back.
pub fn is_reverted(before: &Facts, now: &Facts) -> bool {
    let was_converted =
        |oid| before.tables.iter().any(|table| table.oid == oid && table.is_converted);
    now.tables.iter().all(|table| !table.is_converted || was_converted(table.oid))
}

fn seal(sequence: &Sequence) -> [Step; 2] {
    let Sequence { name, .. } = sequence;
    [
        run(
            format!(
                "ALTER SEQUENCE {name} AS bigint INCREMENT BY 1 MINVALUE {SEALED_FROM} MAXVALUE {SEALED_TO} START WITH {SEALED_TO} RESTART WITH {SEALED_TO} CACHE 1 NO CYCLE OWNED BY NONE"
            ),
            SHARE_ROW_EXCLUSIVE,
            name,
            sequence.oid,
        ),
        setval(sequence, SEALED_TO, true),
    ]
}

fn setval(sequence: &Sequence, value: i64, is_called: bool) -> Step {
    run(
        format!(
            "SELECT pg_catalog.setval({}::pg_catalog.regclass, {value}, {is_called})",
            sequence.literal
        ),
        "ROW EXCLUSIVE",
        &sequence.name,
        sequence.oid,
    )
}

/// The way back, from the facts as they were before. (What they say of the sequences is where these
/// stood when they were sealed.)
pub fn revert(before: &Facts, lock_timeout: &str) -> Vec<Step> {
    let mut steps = locks(before, lock_timeout);
    // Beside an identity, as a partition can have it that was attached, a default is not asked; and where there
    // is one, no identity can be added.
    let (with_default, without): (Vec<&Table>, Vec<&Table>) = before
        .tables
        .iter()
        .filter(|table| gets_default(table, before) || !table.identity.is_empty())
        .partition(|table| table.default.is_some() && table.identity.is_empty());
    steps.extend(without.into_iter().map(|table| alter(table, "DROP DEFAULT", Only::Yes)));
    for sequence in &before.sequences {
        if sequence.is_identity {
            let owner = before.tables.iter().find(|table| {
                table.own_identity && sequence.owned_by.as_ref() == Some(&owned_by(table))
            });
            if let Some(table) = owner {
                steps.extend(with_identity(table, sequence, before));
            }
        } else if sequence.is_sealed() {
            steps.extend(unseal(sequence, before));
        }
    }
    // They name the sequences.
    for table in with_default {
        let default = table.default.as_deref().unwrap_or_default();
        steps.push(alter(table, &format!("SET DEFAULT {default}"), Only::Yes));
    }
    steps
}

fn range(sequence: &Sequence) -> String {
    let Sequence { increment, min, max, .. } = sequence;
    format!("INCREMENT BY {increment} MINVALUE {min} MAXVALUE {max}")
}

fn cycle(sequence: &Sequence) -> &'static str {
    if sequence.cycles { "CYCLE" } else { "NO CYCLE" }
}

/// An identity again, with the sequence that it had.
fn with_identity(table: &Table, sequence: &Sequence, before: &Facts) -> Vec<Step> {
    let Sequence { name, start, cache, last, is_called, .. } = sequence;
    let kind = if table.identity == "a" { "ALWAYS" } else { "BY DEFAULT" };
    let (range, cycle) = (range(sequence), cycle(sequence));
    let how = format!(
        "ADD GENERATED {kind} AS IDENTITY (SEQUENCE NAME {name} {range} START WITH {start} CACHE {cache} {cycle})"
    );
    let mut steps = vec![alter(table, &how, Only::No), setval(sequence, *last, *is_called)];
    steps.extend(comment_and_rights(sequence, before));
    steps
}

/// A sequence as it was before it was sealed.
fn unseal(sequence: &Sequence, before: &Facts) -> Vec<Step> {
    let Sequence { name, type_name, start, cache, last, is_called, oid, .. } = sequence;
    let mut steps = Vec::new();
    if sequence.is_gone {
        steps.push(run(format!("CREATE SEQUENCE {name}"), "none", name, *oid));
        steps.extend(comment_and_rights(sequence, before));
    }
    let owner = sequence.owned_by.as_deref().unwrap_or("NONE");
    let (range, cycle) = (range(sequence), cycle(sequence));
    steps.push(run(
        format!(
            "ALTER SEQUENCE {name} AS {type_name} {range} START WITH {start} RESTART WITH {last} CACHE {cache} {cycle} OWNED BY {owner}"
        ),
        SHARE_ROW_EXCLUSIVE,
        name,
        *oid,
    ));
    steps.push(setval(sequence, *last, *is_called));
    steps
}

/// What a sequence that has just been created again had beside its numbers.
fn comment_and_rights(sequence: &Sequence, before: &Facts) -> Vec<Step> {
    let Sequence { name, oid, .. } = sequence;
    let mut steps = Vec::new();
    if let Some(comment) = &sequence.comment {
        let statement = format!("COMMENT ON SEQUENCE {name} IS {comment}");
        steps.push(run(statement, "SHARE UPDATE EXCLUSIVE", name, *oid));
    }
    // What default privileges have just given, it did not have.
    if !before.default_grantees.is_empty() {
        let roles = before.default_grantees.join(", ");
        let statement = format!("REVOKE ALL ON SEQUENCE {name} FROM {roles}");
        steps.push(run(statement, "none", name, *oid));
    }
    for (right, role) in &sequence.grants {
        let statement = format!("GRANT {right} ON SEQUENCE {name} TO {role}");
        steps.push(run(statement, "none", name, *oid));
    }
    steps
}

/// What is left to do when there is no way back any more: the sealed sequences go.
pub fn finish(before: &Facts, lock_timeout: &str) -> Vec<Step> {
    let mut steps = vec![set_lock_timeout(lock_timeout)];
    let sealed = |sequence: &&Sequence| sequence.is_sealed() && !sequence.is_gone;
    for sequence in before.sequences.iter().filter(sealed) {
        let statement = format!("DROP SEQUENCE {}", sequence.name);
        steps.push(run(statement, ACCESS_EXCLUSIVE, &sequence.name, sequence.oid));
    }
    steps
}

/// How a sequence names the column that it belongs to.
fn owned_by(table: &Table) -> String {
    format!("{}.{}", table.name, table.column)
}

/// Whether a statement is for the table alone. An identity is dropped from all partitions, or from none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    Yes,
    No,
}

fn alter(table: &Table, how: &str, only: Only) -> Step {
    let what = match (table.kind.as_str(), only) {
        ("v", _) => "VIEW ",
        (_, Only::Yes) => "TABLE ONLY ",
        (_, Only::No) => "TABLE ",
    };
    let Table { name, column, .. } = table;
    let statement = format!("ALTER {what}{name} ALTER COLUMN {column} {how}");
    run(statement, ACCESS_EXCLUSIVE, name, table.oid)
}

fn set_lock_timeout(timeout: &str) -> Step {
    Step {
        severity: Severity::Do,
        finding: None,
        object: String::new(),
        detail: String::new(),
        hint: String::new(),
        statement: Some(format!("SET LOCAL lock_timeout = '{timeout}'")),
        lock: None,
        locked: None,
        work: None,
    }
}

fn run(statement: String, lock: &'static str, object: &str, locked: u32) -> Step {
    Step {
        severity: Severity::Do,
        finding: None,
        object: object.to_owned(),
        detail: String::new(),
        hint: String::new(),
        statement: Some(statement),
        lock: Some(lock),
        locked: Some(locked),
        work: Some(Work::Catalog),
    }
}

fn found(
    severity: Severity,
    finding: &'static str,
    object: &str,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> Step {
    Step {
        severity,
        finding: Some(finding),
        object: object.to_owned(),
        detail: detail.into(),
        hint: hint.into(),
        statement: None,
        lock: None,
        locked: None,
        work: None,
    }
}

fn refusals(facts: &Facts) -> Vec<Step> {
    let relation = &facts.relation;
    let name = &relation.name;
    let mut steps = Vec::new();
    let mut refuse = |finding, object: &str, detail: String, hint: &str| {
        steps.push(found(Severity::Refuse, finding, object, detail, hint));
    };
    if !relation.may_act {
        refuse(
            "not_owner",
            name,
            format!(
                "Table {name} belongs to role {}, as which the caller may not act.",
                relation.owner
            ),
            "Call it as the owner, or as a superuser.",
        );
    }
    match relation.kind.as_str() {
        "r" | "p" => (),
        "f" => refuse(
            "foreign_table",
            name,
            format!("{name} is a foreign table: its keys are made where its rows are."),
            "Convert the table on the foreign server.",
        ),
        _ => refuse(
            "not_a_table",
            name,
            format!("{name} is not a table."),
            "Name the table that has the key.",
        ),
    }
    if relation.persistence == "t" {
        refuse(
            "temporary_table",
            name,
            format!("{name} is a temporary table of this session."),
            "Give it the default where it is created: DEFAULT snowflake_nextval().",
        );
    }
    if let Some(of_type) = &relation.of_type {
        refuse(
            "typed_table",
            name,
            format!("{name} is a table of type {of_type}."),
            "ALTER TABLE ... NOT OF makes it an ordinary one.",
        );
    }
    if let Some(engine) = &relation.engine {
        refuse(
            "distributed_table",
            name,
            format!(
                "Extension {engine} spreads {name} over other tables, which have defaults of their own."
            ),
            "Set the default by the means of that extension.",
        );
    }
    if let Some(parent) = &relation.partition_of {
        refuse(
            "partition",
            name,
            format!("{name} is a partition of {parent}."),
            "Convert the whole table, with all its partitions.",
        );
    }
    let Some(column) = &facts.column else {
        refuse(
            "no_column",
            name,
            format!("It is not clear which column of {name} is meant."),
            "Name a column that there is: snowflake_convert_plan('table', 'column').",
        );
        return steps;
    };
    let key = format!("{name}.{}", column.name);
    if facts.is_converted {
        refuse(
            "converted_already",
            &key,
            format!("The default of column {key} is the generator of ids already."),
            "SELECT * FROM snowflake_conversions; shows what has been converted.",
        );
        return steps;
    }
    if column.is_generated {
        refuse(
            "generated_column",
            &key,
            format!("Column {key} is computed from others: it has no default."),
            "Name the column that the key comes from.",
        );
    }
    if column.type_name != "bigint" {
        refuse(
            "not_bigint",
            &key,
            format!("Column {key} is of type {}, and an id takes bigint.", column.type_name),
            "Make it bigint first: ALTER TABLE ... ALTER COLUMN ... TYPE bigint; rewrites an integer column.",
        );
        return steps;
    }
    if !facts.has_key {
        refuse(
            "no_unique_index",
            &key,
            format!("No unique index that is immediate and whole begins with column {key}."),
            "Add one: CREATE UNIQUE INDEX CONCURRENTLY.",
        );
    }
    for table in &facts.tables {
        if table.kind == "f" {
            refuse(
                "foreign_partition",
                &table.name,
                format!("{} is a foreign table, whose server may make keys by itself.", table.name),
                "Detach it, or convert the table on the foreign server and detach it meanwhile.",
            );
        }
        if table.owner != relation.owner {
            refuse(
                "another_owner",
                &table.name,
                format!(
                    "{} belongs to role {}, not to {}.",
                    table.name, table.owner, relation.owner
                ),
                "Give all of them to one role: ALTER TABLE ... OWNER TO.",
            );
        }
    }
    for sequence in &facts.sequences {
        if sequence.owner != relation.owner {
            refuse(
                "another_owner",
                &sequence.name,
                format!(
                    "Sequence {} belongs to role {}, not to {}.",
                    sequence.name, sequence.owner, relation.owner
                ),
                "Give it to the table's owner: ALTER SEQUENCE ... OWNER TO.",
            );
        }
        let users = [&sequence.other_defaults[..], &views(sequence)].concat();
        if sequence.is_identity && !users.is_empty() {
            refuse(
                "shared_identity",
                &sequence.name,
                format!(
                    "Sequence {} goes with the identity of column {key}, and is needed by {}.",
                    sequence.name,
                    users.join(", ")
                ),
                "Give the others a sequence of their own.",
            );
        }
    }
    for (reference, to) in &facts.narrow_references {
        refuse(
            "narrow_reference",
            reference,
            format!("Column {reference} has a foreign key to {to}, and no room for an id."),
            "Make it bigint first: ALTER TABLE ... ALTER COLUMN ... TYPE bigint; rewrites an integer column.",
        );
    }
    if facts.generator.is_none() {
        refuse(
            "no_generator",
            name,
            "Function snowflake_nextval() is none of extension snowflake_id's in this database."
                .to_owned(),
            "ALTER EXTENSION snowflake_id ADD FUNCTION snowflake_nextval();",
        );
    }
    if let Some((reason, hint)) = facts.no_ids.as_ref().filter(|_| !facts.is_standby) {
        refuse("no_ids", name, reason.clone(), hint);
    }
    if let Some((max, first)) = facts.max.zip(facts.first_id)
        && max >= first
    {
        let (detail, hint) = if facts.max_is_an_id {
            (
                format!(
                    "The greatest key, {max}, is an id of the layout in force, and not below the next one, {first}."
                ),
                format!("Stop what makes such keys, then: SELECT snowflake_set_floor({max});"),
            )
        } else {
            (
                format!("The greatest key, {max}, is above the first id, {first}, and no id of the layout in force: new keys would lie among the old ones."),
                "Choose a layout whose ids are above all keys, or the layout that has made them; an earlier epoch gives greater ids.".to_owned(),
            )
        };
        refuse("keys_ahead", &key, detail, &hint);
    }
    steps
}

/// The views among what names a sequence.
fn views(sequence: &Sequence) -> Vec<String> {
    sequence.mentions.iter().filter(|what| what.starts_with("view ")).cloned().collect()
}

fn warnings(facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut warn = |finding, object: &str, detail: String, hint: &str| {
        steps.push(found(Severity::Warn, finding, object, detail, hint));
    };
    for table in facts.tables.iter().filter(|table| table.own_identity && table.identity == "a") {
        warn(
            "identity_always",
            &table.name,
            format!(
                "Column {}.{} is GENERATED ALWAYS, and refuses a value that is given to it. A default does not.",
                table.name, table.column
            ),
            "If that must stay, revoke the right to insert into the column.",
        );
    }
    for sequence in &facts.sequences {
        let Sequence { name, .. } = sequence;
        if !sequence.other_defaults.is_empty() {
            warn(
                "shared_sequence",
                name,
                format!(
                    "Sequence {name} is not sealed: it is also the default of {}.",
                    sequence.other_defaults.join(", ")
                ),
                "Convert these, too, or leave them as they are: their keys and the ids never meet.",
            );
        }
        if !sequence.mentions.is_empty() {
            warn(
                "sequence_named",
                name,
                format!(
                    "{} may call nextval, currval or lastval of sequence {name}.",
                    sequence.mentions.join(", ")
                ),
                "Have them call snowflake_nextval() and snowflake_lastval(), or use RETURNING.",
            );
        }
        if sequence.increment != 1 {
            warn(
                "called_by_applications",
                name,
                format!(
                    "Sequence {name} counts by {}: it may be that an application calls nextval itself and gives the keys, as Hibernate's pooled optimizer does. Such a program never asks a default.",
                    sequence.increment
                ),
                "Have it take ids from snowflake_batch(), or leave the key to the default.",
            );
        }
    }
    for what in &facts.key_triggers {
        warn(
            "key_by_trigger",
            what,
            format!(
                "Trigger {what} runs before an insert and calls nextval: if it gives the key, a default does not matter."
            ),
            "If it does, drop it, or have it call snowflake_nextval().",
        );
    }
    for what in &facts.partitioned_by_key {
        warn(
            "partitioned_by_key",
            what,
            format!("{what} is partitioned by the key: ids need a partition that takes them."),
            "Create the partitions before: FOR VALUES FROM (snowflake_lower_bound(...)).",
        );
    }
    for what in &facts.unindexed {
        warn(
            "unindexed_child",
            what,
            format!(
                "{what} has no index that begins with the key: all of it is read for its greatest key, also while it is locked."
            ),
            "If that takes long, add one: CREATE INDEX CONCURRENTLY.",
        );
    }
    for what in &facts.computed {
        warn(
            "key_in_expression",
            what,
            format!(
                "The {what} computes with the key: where it does not take an id, no row is inserted any more."
            ),
            "Try it: BEGIN; SELECT * FROM snowflake_convert(...); INSERT ...; ROLLBACK;",
        );
    }
    for what in &facts.likely_references {
        warn(
            "likely_reference",
            what,
            format!(
                "Column {what} has the name of a reference to this table, and no room for an id."
            ),
            "If it is one, make it bigint first.",
        );
    }
    for what in &facts.narrow_arguments {
        warn(
            "narrow_argument",
            what,
            format!(
                "Function {what} has an argument with the name of a reference to this table, and no room for an id."
            ),
            "If it is one, make it bigint first.",
        );
    }
    for what in &facts.narrow_views {
        warn(
            "narrow_view",
            what,
            format!(
                "View {what} makes an integer or a smallint of the key: reading it is an error with the first id."
            ),
            "Create it anew without the cast.",
        );
    }
    steps
}

/// The greatest number that JavaScript's numbers count exactly.
const JAVASCRIPT: i64 = (1 << 53) - 1;

fn infos(facts: &Facts) -> Vec<Step> {
    let name = &facts.relation.name;
    let mut steps = Vec::new();
    let mut info = |finding, object: &str, detail: String, hint: &str| {
        steps.push(found(Severity::Info, finding, object, detail, hint));
    };
    for publication in &facts.publications {
        info(
            "published",
            publication,
            format!(
                "Publication {publication} has {name}. Rows are replicated with their keys; defaults are not."
            ),
            "A subscriber that inserts rows of its own is converted by itself, with another worker id.",
        );
    }
    if facts.standbys > 0 {
        info(
            "standbys",
            name,
            format!(
                "{} standbys replay the lock, and there it waits for queries up to max_standby_streaming_delay.",
                facts.standbys
            ),
            "",
        );
    }
    if facts.first_id.is_some_and(|first| first > JAVASCRIPT) {
        info(
            "javascript",
            name,
            "Ids are greater than 2^53, which JavaScript's numbers do not count exactly."
                .to_owned(),
            "Send them as strings, or choose the layout js53.",
        );
    }
    if let Some(max) = facts.max.filter(|_| !facts.max_is_an_id) {
        info(
            "legacy_keys",
            name,
            format!(
                "Keys up to {max} stay as they are, and read as ids of the first moments of the epoch."
            ),
            "Where time matters, treat keys up to that one by themselves; partitions by time need one for them.",
        );
    }
    if facts.is_standby {
        info(
            "standby",
            name,
            "This server is a standby: it can plan, and nothing else.".to_owned(),
            "Convert on the primary.",
        );
    }
    steps
}
