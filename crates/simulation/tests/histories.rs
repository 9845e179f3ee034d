//! That the judge sees what is wrong, and that a seed is a history.
#![allow(clippy::unwrap_used, missing_docs)]

use snowflake_simulation::plan::{Admitted, Plan};
use snowflake_simulation::{run, scale, set_put_back, shrink};

const TEN_MINUTES: i64 = 600_000_000;

#[test]
fn a_seed_is_one_history() {
    let plan = Plan::new(7, None, TEN_MINUTES, None);
    let (first, second) = (run(&plan, true), run(&plan, true));
    assert_eq!(first.history, second.history);
    assert_eq!((first.ids, first.windows, first.calls), (second.ids, second.windows, second.calls));
    assert_eq!(first.violation, None);
}

/// A day of a thousand nodes, in small: everybody joins, restarts, outlasts an outage; and where as many
/// nodes as there are worker ids have died, their copies have ids when the leases of the dead have ended.
#[test]
fn a_large_cluster_has_its_day() {
    let (nodes, hour) = (33, 3_600_000_000);
    let (first, second) = (scale::run(1, nodes, hour), scale::run(1, nodes, hour));
    assert_eq!(first.violation, None);
    assert_eq!((first.joins.len(), first.restarts.len(), first.copies.len()), (33, 33, 1));
    let lease = scale::Day::new(nodes, hour).lease;
    assert!(first.copies[0] >= lease - 10_000_000, "{:?}", first.copies);
    assert_eq!(
        (first.ids, first.load.calls, first.copies),
        (second.ids, second.load.calls, second.copies)
    );
}

/// Two running nodes with one worker id: what the docs admit, the judge finds, and little is left of it.
#[test]
fn what_is_admitted_is_found() {
    let fails = |seed: &u64| {
        let plan = Plan::new(*seed, None, TEN_MINUTES, Some(Admitted::Twins));
        run(&plan, false).violation.is_some()
    };
    let seed = (1..20).find(fails).unwrap();
    let plan = Plan::new(seed, None, TEN_MINUTES, Some(Admitted::Twins));
    let shrunk = shrink(&plan, 40);
    assert!(shrunk.events.len() < plan.events.len());
    assert!(run(&shrunk, false).violation.is_some());
}

/// A stop whose second signal interrupts the last write.
#[test]
fn a_stop_out_of_order_is_found() {
    set_put_back(&["F4".to_owned()]);
    let found = (1..40)
        .any(|seed| run(&Plan::new(seed, None, TEN_MINUTES, None), false).violation.is_some());
    set_put_back(&[]);
    assert!(found);
}
