//! What an audit finds, and only that.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(not(loom))]

use snowflake_core::audit::{Audit, Expected, Finding, MAX_NUMBERS, Sample, Span};
use snowflake_core::{Fields, Layout};
use std::collections::BTreeSet;

/// Microseconds.
const SECOND: i64 = 1_000_000;

fn layout() -> Layout {
    Layout::parse("default", None).unwrap()
}

/// `seconds` after the epoch.
fn id(seconds: u64, worker: u32, sequence: u32) -> i64 {
    let worker = Some(worker);
    let sequence = Some(sequence);
    layout().pack(&Fields { tick: seconds * 1000, datacenter: None, worker, sequence }).unwrap()
}

fn expected() -> Expected {
    Expected {
        layout: layout(),
        before: layout().epoch() + 1000 * SECOND,
        workers: None,
        known: None,
        tolerance: None,
    }
}

fn audit(expected: Expected, rows: &[(i64, Option<i64>)]) -> Audit {
    let mut audit = Audit::new(expected);
    for &(id, created) in rows {
        audit.row(id, created);
    }
    audit
}

fn of_ids(expected: Expected, ids: &[i64]) -> Audit {
    audit(expected, &ids.iter().map(|&id| (id, None)).collect::<Vec<_>>())
}

/// Findings with something in them.
fn found(audit: &Audit) -> Vec<(Finding, u64, Vec<i64>)> {
    audit
        .findings()
        .filter(|(_, tally)| tally.count > 0)
        .map(|(finding, tally)| (finding, tally.count, tally.examples.clone()))
        .collect()
}

#[test]
fn sound_ids_have_no_finding() {
    let ids = [id(0, 0, 0), id(0, 0, 1), id(0, 1, 0), id(999, 1023, 4095)];
    let audit = of_ids(expected(), &ids);
    assert_eq!(found(&audit), []);
    assert_eq!(audit.rows(), 4);
    let span = |count, first, last| Span { count, first, last };
    let numbers: Vec<_> = audit.numbers().collect();
    assert_eq!(
        numbers,
        [
            (0, span(2, ids[0], ids[1])),
            (1, span(1, ids[2], ids[2])),
            (1023, span(1, ids[3], ids[3])),
        ]
    );
    assert_eq!(audit.others(), 0);
}

#[test]
fn every_further_row_of_an_id_is_a_duplicate() {
    let (a, b, c) = (id(1, 1, 1), id(2, 1, 1), id(3, 1, 1));
    let audit = of_ids(expected(), &[a, a, a, b, c, c]);
    assert_eq!(found(&audit), [(Finding::Duplicate, 3, vec![a, c])]);
}

#[test]
fn the_clock_s_own_tick_is_not_ahead() {
    let mut at = expected();
    at.before += 500;
    let (last, first) = (id(1000, 0, 4095), id(1000, 0, 4095) + (1 << 22));
    assert_eq!(found(&of_ids(at.clone(), &[last])), []);
    assert_eq!(found(&of_ids(at, &[last, first])), [(Finding::AheadOfClock, 1, vec![first])]);
    // Exactly between two ticks the one that ends is past.
    let (past, now) = (id(999, 7, 0), id(1000, 7, 0));
    assert_eq!(found(&of_ids(expected(), &[past, now])), [(Finding::AheadOfClock, 1, vec![now])]);
}

#[test]
fn negative_numbers_and_set_zero_bits_are_told_apart() {
    let layout = Layout::parse("js53", None).unwrap();
    let before = layout.epoch() + 1000 * SECOND;
    let at = Expected { layout, before, ..expected() };
    assert_eq!(
        found(&of_ids(at, &[i64::MIN, -1, 0, i64::MAX])),
        [(Finding::BeforeEpoch, 2, vec![i64::MIN, -1]), (Finding::NotOfLayout, 1, vec![i64::MAX])]
    );
}

#[test]
fn workers_are_held_against_ranges_and_the_registry() {
    let ids = [id(1, 0, 0), id(1, 4, 0), id(1, 5, 0), id(1, 9, 0)];
    let workers = Some(vec![0..=3, 5..=5]);
    let known = Some(BTreeSet::from([0, 4, 5]));
    assert_eq!(
        found(&of_ids(Expected { workers, known, ..expected() }, &ids)),
        [
            (Finding::ForeignWorker, 2, vec![ids[1], ids[3]]),
            (Finding::UnknownWorker, 1, vec![ids[3]])
        ]
    );
}

#[test]
fn an_inversion_is_a_row_created_before_that_of_the_id_before_it() {
    let row = |second, created: i64| (id(second, 1, 0), Some(created));
    let tolerance = Some(100);
    let rows = [
        row(1, 1000),
        row(2, 900),         // within the tolerance
        (id(3, 1, 0), None), // nobody knows
        row(4, 799),         // one microsecond beyond it
        row(5, 50_000),      // far ahead: that alone is none
        row(6, 1000),        // but this is before it
        row(7, 1001),
    ];
    assert_eq!(
        found(&audit(Expected { tolerance, ..expected() }, &rows)),
        [(Finding::Inversion, 2, vec![id(4, 1, 0), id(6, 1, 0)])]
    );
    assert_eq!(found(&audit(expected(), &rows)), []);
}

#[test]
fn what_was_not_looked_for_is_no_finding_of_nothing() {
    let kinds = |expected| -> Vec<_> {
        Audit::new(expected).findings().map(|(finding, _)| finding).collect()
    };
    let always = &Finding::ALL[..4];
    assert_eq!(kinds(expected()), always);
    assert_eq!(
        kinds(Expected { workers: Some(vec![]), ..expected() })[4..],
        [Finding::ForeignWorker]
    );
    let known = Some(BTreeSet::new());
    assert_eq!(kinds(Expected { known, ..expected() })[4..], [Finding::UnknownWorker]);
    assert_eq!(kinds(Expected { tolerance: Some(0), ..expected() })[4..], [Finding::Inversion]);
}

#[test]
fn examples_and_numbers_are_bounded() {
    // 17 bits of worker.
    let layout = Layout::parse("timestamp:41,worker:17,sequence:5", None).unwrap();
    let before = layout.epoch();
    let mut audit = Audit::new(Expected { layout, before, ..expected() });
    let ids: Vec<i64> = (0..=MAX_NUMBERS as i64 + 1).map(|worker| worker << 5).collect();
    for &id in &ids {
        audit.row(id, None);
    }
    audit.row(*ids.last().unwrap(), None);
    let all = ids.len() as u64 + 1;
    assert_eq!(
        found(&audit),
        [
            (Finding::Duplicate, 1, vec![*ids.last().unwrap()]),
            (Finding::AheadOfClock, all, ids[..10].to_vec())
        ]
    );
    assert_eq!(audit.numbers().count(), MAX_NUMBERS);
    assert_eq!(audit.others(), 3);
    assert_eq!(audit.rows(), all);
}

#[test]
fn a_sample_is_a_share_of_any_ids_and_takes_an_id_or_not() {
    for share in [-1.0, 0.0, 1.000_001, f64::NAN] {
        assert_eq!(Sample::of(share), None);
    }
    let all = Sample::of(1.0).unwrap();
    let few = Sample::of(0.01).unwrap();
    let fewer = Sample::of(0.005).unwrap();
    assert_eq!(Sample::from_word(few.into_word()), Some(few));
    assert_eq!(Sample::from_word(0), None);
    assert!(Sample::of(1e-300).unwrap().into_word() > 0);
    // One node's ids under load, one an hour, and one of each of all nodes.
    let series: [fn(i64) -> i64; 3] =
        [|i| 5 << 32 | i, |i| (i * 3_600_000) << 22 | 1 << 12, |i| 7 << 40 | i << 12];
    for ids in series {
        let taken = |sample: Sample| (0..100_000).filter(|&i| sample.takes(ids(i))).count();
        assert_eq!(taken(all), 100_000);
        let share = taken(few);
        assert!((900..=1100).contains(&share), "{share}");
        // A greater sample has all of a smaller one.
        assert!((0..100_000).all(|i| !fewer.takes(ids(i)) || few.takes(ids(i))));
    }
}
