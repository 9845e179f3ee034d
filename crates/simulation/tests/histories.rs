//! That the judge sees what is wrong, and that a seed is a history.
#![allow(clippy::unwrap_used, missing_docs)]

use snowflake_simulation::plan::{Admitted, Plan};
use snowflake_simulation::{run, set_put_back, shrink};

const TEN_MINUTES: i64 = 600_000_000;

#[test]
fn a_seed_is_one_history() {
    let plan = Plan::new(7, None, TEN_MINUTES, None);
    let (first, second) = (run(&plan, true), run(&plan, true));
    assert_eq!(first.history, second.history);
    assert_eq!((first.ids, first.windows, first.calls), (second.ids, second.windows, second.calls));
    assert_eq!(first.violation, None);
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
