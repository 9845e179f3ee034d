//! Plans of all kinds of tables, run on catalogs that exist only here.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use snowflake_migration::{
    Column, Facts, Relation, Sequence, Severity, Step, Table, plan, revert, since,
};
use std::collections::BTreeMap;

const GENERATOR: &str = "public.snowflake_nextval()";

/// Where a table's keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Identity(char),
    Serial,
    Expression,
    Nothing,
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        Just(Source::Identity('a')),
        Just(Source::Identity('d')),
        Just(Source::Serial),
        Just(Source::Expression),
        Just(Source::Nothing),
    ]
}

fn sequence(number: usize) -> impl Strategy<Value = Sequence> {
    (1..1000_i64, 1..50_i64, any::<bool>(), 1..i64::MAX / 2, any::<bool>(), any::<bool>()).prop_map(
        move |(start, increment, cycles, last, is_called, shared)| Sequence {
            name: format!("public.s{number}"),
            literal: format!("'public.s{number}'"),
            oid: 100 + number as u32,
            owner: "me".to_owned(),
            type_name: "bigint".to_owned(),
            start,
            increment,
            min: 1,
            max: i64::MAX,
            cache: 1,
            cycles,
            last,
            is_called,
            other_defaults: if shared { vec!["public.other.n".to_owned()] } else { vec![] },
            ..Sequence::default()
        },
    )
}

prop_compose! {
    /// A table with up to three children, each with a source of its own, and a view perhaps.
    fn facts()(
        sources in proptest::collection::vec(source(), 1..5),
        sequences in (sequence(0), sequence(1), sequence(2), sequence(3)),
        view in any::<bool>(),
        max in proptest::option::of(0..1_i64 << 40),
        kind in prop_oneof![Just("r"), Just("p")],
    ) -> Facts {
        let known = [sequences.0, sequences.1, sequences.2, sequences.3];
        let (mut tables, mut sequences) = (Vec::new(), Vec::new());
        for (number, (source, sequence)) in sources.iter().zip(known).enumerate() {
            let name = format!("public.t{number}");
            let mut table = Table {
                oid: 1 + number as u32,
                kind: if number == 0 { kind } else { "r" }.to_owned(),
                owner: "me".to_owned(),
                column: "id".to_owned(),
                ..Table { name: name.clone(), ..Table::default() }
            };
            let owned_by = Some(format!("{name}.id"));
            match source {
                Source::Identity(letter) => {
                    table.identity = letter.to_string();
                    table.own_identity = true;
                    let other_defaults = Vec::new();
                    sequences.push(Sequence { is_identity: true, owned_by, other_defaults, ..sequence });
                }
                Source::Serial => {
                    table.default = Some(format!("nextval('{}'::regclass)", sequence.name));
                    sequences.push(Sequence { owned_by, ..sequence });
                }
                Source::Expression => table.default = Some("public.next_id()".to_owned()),
                Source::Nothing => (),
            }
            tables.push(table);
        }
        if view && let Some(serial) = sequences.first() {
            tables.push(Table {
                name: "public.v".to_owned(),
                oid: 50,
                kind: "v".to_owned(),
                owner: "me".to_owned(),
                column: "number".to_owned(),
                default: Some(format!("nextval('{}'::regclass)", serial.name)),
                ..Table::default()
            });
        }
        Facts {
            relation: Relation {
                name: "public.t0".to_owned(),
                oid: 1,
                kind: kind.to_owned(),
                persistence: "p".to_owned(),
                owner: "me".to_owned(),
                may_act: true,
                ..Relation::default()
            },
            column: Some(Column {
                name: "id".to_owned(),
                type_name: "bigint".to_owned(),
                is_generated: false,
            }),
            tables,
            sequences,
            has_key: true,
            generator: Some(GENERATOR.to_owned()),
            max,
            first_id: Some(1 << 50),
            ..Facts::default()
        }
    }
}

/// What the catalogs say: of a table its default and its identity, of a sequence its parameters, where it
/// stands, and whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Catalogs {
    tables: BTreeMap<String, (Option<String>, String)>,
    sequences: BTreeMap<String, (String, i64, bool, String)>,
}

fn parameters(sequence: &Sequence) -> String {
    let Sequence { increment, min, max, start, cache, .. } = sequence;
    let cycle = if sequence.cycles { "CYCLE" } else { "NO CYCLE" };
    format!(
        "INCREMENT BY {increment} MINVALUE {min} MAXVALUE {max} START WITH {start} CACHE {cache} {cycle}"
    )
}

impl Catalogs {
    fn of(facts: &Facts) -> Self {
        let tables = facts.tables.iter();
        let sequences = facts.sequences.iter().map(|sequence| {
            let owner = sequence.owned_by.clone().unwrap_or_else(|| "NONE".to_owned());
            let stands = (parameters(sequence), sequence.last, sequence.is_called, owner);
            (sequence.name.clone(), stands)
        });
        Self {
            tables: tables
                .map(|table| (table.name.clone(), (table.default.clone(), table.identity.clone())))
                .collect(),
            sequences: sequences.collect(),
        }
    }

    fn run(&mut self, statement: &str) {
        if statement.starts_with("SET LOCAL ") || statement.starts_with("LOCK TABLE ") {
            return;
        }
        if let Some(rest) = statement.strip_prefix("ALTER SEQUENCE ") {
            let (name, rest) = rest.split_once(" AS bigint ").unwrap();
            let (range, rest) = rest.split_once(" RESTART WITH ").unwrap();
            let (value, rest) = rest.split_once(' ').unwrap();
            let (more, owner) = rest.split_once(" OWNED BY ").unwrap();
            let sequence = self.sequences.get_mut(name).unwrap();
            *sequence =
                (format!("{range} {more}"), value.parse().unwrap(), false, owner.to_owned());
        } else if let Some(rest) = statement.strip_prefix("SELECT pg_catalog.setval('") {
            let (name, rest) = rest.split_once("'::pg_catalog.regclass, ").unwrap();
            let (value, called) = rest.trim_end_matches(')').split_once(", ").unwrap();
            let sequence = self.sequences.get_mut(name).unwrap();
            (sequence.1, sequence.2) = (value.parse().unwrap(), called.parse().unwrap());
        } else {
            let rest = statement.strip_prefix("ALTER ").unwrap();
            let rest = ["TABLE ONLY ", "TABLE ", "VIEW "]
                .iter()
                .find_map(|kind| rest.strip_prefix(kind))
                .unwrap();
            let (name, rest) = rest.split_once(" ALTER COLUMN ").unwrap();
            let (column, how) = rest.split_once(' ').unwrap();
            let owner = format!("{name}.{column}");
            let defaults =
                self.tables.values().filter_map(|table| table.0.clone()).collect::<Vec<_>>();
            let table = self.tables.get_mut(name).unwrap();
            if how == "DROP IDENTITY" {
                assert_ne!(table.1, "");
                table.1.clear();
                self.sequences.retain(|sequence, (.., whose)| {
                    // PostgreSQL refuses to drop what a default needs.
                    let is_needed = defaults.contains(&format!("nextval('{sequence}'::regclass)"));
                    assert!(*whose != owner || !is_needed);
                    *whose != owner
                });
            } else if how == "DROP DEFAULT" {
                table.0 = None;
            } else if let Some(default) = how.strip_prefix("SET DEFAULT ") {
                // PostgreSQL refuses it.
                assert_eq!(table.1, "");
                let named = default.split('\'').nth(1);
                assert!(named.is_none_or(|sequence| self.sequences.contains_key(sequence)));
                table.0 = Some(default.to_owned());
            } else {
                let rest = how.strip_prefix("ADD GENERATED ").unwrap();
                let (kind, rest) = rest.split_once(" AS IDENTITY (SEQUENCE NAME ").unwrap();
                let (sequence, parameters) = rest.trim_end_matches(')').split_once(' ').unwrap();
                assert_eq!(*table, (None, String::new()));
                table.1 = if kind == "ALWAYS" { "a" } else { "d" }.to_owned();
                let stands = (parameters.to_owned(), 0, false, owner);
                self.sequences.insert(sequence.to_owned(), stands);
            }
        }
    }
}

fn statements(steps: &[Step]) -> Vec<String> {
    steps.iter().filter_map(|step| step.statement.clone()).collect()
}

/// From PostgreSQL 17 on, a partition that was attached has the identity of its table, and the default that it
/// had.
#[test]
fn a_default_beside_an_identity() {
    let table = |oid: u32, own_identity, default: Option<&str>| Table {
        name: format!("public.t{oid}"),
        oid,
        kind: "r".to_owned(),
        column: "id".to_owned(),
        identity: "a".to_owned(),
        own_identity,
        default: default.map(str::to_owned),
        is_converted: default == Some(GENERATOR),
        ..Table::default()
    };
    let own = Some("nextval('public.s1'::regclass)");
    let facts = Facts {
        relation: Relation { oid: 1, ..Relation::default() },
        tables: vec![table(1, true, None), table(2, false, own), table(3, false, Some(GENERATOR))],
        ..Facts::default()
    };
    let steps = statements(&revert(&facts, "100ms"));
    for (number, statement) in (1..).zip(&steps[5..]) {
        let drop = format!("ALTER TABLE ONLY public.t{number} ALTER COLUMN id DROP DEFAULT");
        assert_eq!(*statement, drop);
    }
    assert_eq!(steps.len(), 8);
}

proptest! {
    #[test]
    fn what_a_plan_does_is_taken_back(facts in facts()) {
        let steps = plan(&facts, "100ms");
        prop_assert!(steps.iter().all(|step| step.severity != Severity::Refuse));
        let before = Catalogs::of(&facts);
        let mut now = before.clone();
        statements(&steps).iter().for_each(|statement| now.run(statement));
        // All that had keys of its own generates ids, the root in any case, and nothing else.
        for table in &facts.tables {
            let had = table.default.is_some() || !table.identity.is_empty() || table.oid == 1;
            let default = had.then(|| GENERATOR.to_owned());
            prop_assert_eq!(&now.tables[&table.name], &(default, String::new()));
        }
        for sequence in &facts.sequences {
            let stands = now.sequences.get(&sequence.name);
            if sequence.is_identity {
                prop_assert_eq!(stands, None);
            } else if sequence.other_defaults.is_empty() {
                let (_, last, is_called, owner) = stands.unwrap();
                prop_assert_eq!((*last, *is_called, owner.as_str()), (i64::MAX, true, "NONE"));
            } else {
                prop_assert_eq!(stands, before.sequences.get(&sequence.name));
            }
        }
        statements(&revert(&facts, "100ms")).iter().for_each(|statement| now.run(statement));
        prop_assert_eq!(now, before);
    }

    #[test]
    fn only_the_first_lock_is_waited_for(facts in facts()) {
        for steps in [plan(&facts, "70ms"), revert(&facts, "70ms")] {
            let all = statements(&steps);
            prop_assert_eq!(&all[0], "SET LOCAL lock_timeout = '70ms'");
            let tables = facts.tables.iter().filter(|table| table.kind != "v").count();
            for (number, lock) in all[1..=tables].iter().enumerate() {
                prop_assert!(lock.starts_with("LOCK TABLE ONLY "));
                prop_assert_eq!(lock.ends_with(" NOWAIT"), number > 0);
            }
            prop_assert_eq!(&all[tables + 1], "SET LOCAL lock_timeout = '1ms'");
            let waits = |text: &String| text.starts_with("LOCK ") || text.starts_with("SET ");
            prop_assert!(!all[tables + 2..].iter().any(waits));
        }
    }

    #[test]
    fn it_does_not_depend_on_what_is_inserted(facts in facts(), last in any::<i64>(), max in 0..1_i64 << 49) {
        let mut later = facts.clone();
        later.max = Some(max);
        for sequence in &mut later.sequences {
            (sequence.last, sequence.is_called) = (last, true);
        }
        prop_assert_eq!(statements(&plan(&facts, "1s")), statements(&plan(&later, "1s")));
    }

    #[test]
    fn what_refuses_has_nothing_run(facts in facts(), which in 0..9_usize) {
        let mut facts = facts;
        match which {
            0 => facts.relation.may_act = false,
            1 => facts.relation.kind = "v".to_owned(),
            2 => facts.relation.persistence = "t".to_owned(),
            3 => facts.has_key = false,
            4 => facts.column = None,
            5 => facts.max = facts.first_id,
            6 => facts.no_ids = Some((String::new(), String::new())),
            7 => facts.tables[0].owner = "another".to_owned(),
            _ => {
                let (reference, to) = ("public.lines.item".to_owned(), "public.t0.id".to_owned());
                facts.narrow_references = vec![(reference, to)];
            }
        }
        let steps = plan(&facts, "100ms");
        prop_assert_eq!(steps[0].severity, Severity::Refuse);
        prop_assert!(statements(&steps).is_empty());
        let findings = steps.iter().filter_map(|step| step.finding).count();
        prop_assert_eq!(findings, steps.len());
    }

    #[test]
    fn whatever_has_become_of_its_partitions(facts in facts(), dropped in any::<usize>(), renamed in any::<usize>(), restored in any::<bool>()) {
        let mut now = facts.clone();
        now.tables.retain(|table| table.kind != "v");
        now.tables.iter_mut().for_each(|table| table.is_converted = true);
        let mut expected = facts.clone();
        // A partition was dropped, another one created; the root or a partition was renamed, or
        // all of it restored from a dump.
        let gone = dropped % now.tables.len();
        if gone > 0 {
            now.tables.remove(gone);
            expected.tables.remove(gone);
        }
        let new = Table { name: "public.new".to_owned(), oid: 99, is_new: false, ..now.tables[0].clone() };
        now.tables.push(new.clone());
        let place = expected.tables.iter().position(|table| table.kind == "v");
        let default = facts.tables[0].default.clone();
        let made_since = Table { default, identity: new.identity.clone(), own_identity: new.own_identity, is_new: true, is_converted: false, ..new };
        expected.tables.insert(place.unwrap_or(expected.tables.len()), made_since);
        let which = renamed % (now.tables.len() - 1);
        if restored {
            for (table, expected) in now.tables.iter_mut().zip(&mut expected.tables) {
                table.oid += 1000;
                expected.oid += 1000;
            }
        } else {
            let (old, new) = (now.tables[which].name.clone(), "public.renamed".to_owned());
            now.tables[which].name.clone_from(&new);
            expected.tables[which].name.clone_from(&new);
            for sequence in &mut expected.sequences {
                if sequence.owned_by == Some(format!("{old}.id")) {
                    sequence.owned_by = Some(format!("{new}.id"));
                }
            }
        }
        now.relation.name.clone_from(&now.tables[0].name);
        now.relation.oid = now.tables[0].oid;
        expected.relation = now.relation.clone();
        prop_assert_eq!(since(facts, now), expected);
    }

    #[test]
    fn facts_are_kept_as_they_are(facts in facts()) {
        let text = serde_json::to_string(&facts).unwrap();
        prop_assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }
}
