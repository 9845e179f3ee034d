//! A cluster of nodes in one process and one thread, on virtual time: one seed is one history.
//!
//! The keeper, the windows, the allocator, the clock watch, leases and their holders are the real
//! ones. Simulated is what is around them: clocks, disks, PostgreSQL's life, the registry and the
//! way to it, administrators, sessions. After every step a judge looks at what must never be.

pub mod chance;
mod client;
pub mod cluster;
pub mod data;
pub mod judge;
pub mod machine;
pub mod network;
pub mod node;
pub mod plan;
pub mod scale;

use cluster::Cluster;
use plan::{Event, Plan, QUIET};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    static PUT_BACK: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The virtual time, in microseconds from the beginning of the history.
pub fn time() -> i64 {
    let begun = BEGUN.get();
    begun.map_or(0, |begun| i64::try_from(begun.elapsed().as_micros()).unwrap_or(i64::MAX))
}

/// Whether a fault of the server's side, which this crate has to imitate, has been put back.
pub(crate) fn put_back(fault: &str) -> bool {
    PUT_BACK.with_borrow(|faults| faults.iter().any(|other| other == fault))
}

/// What is put back in this thread from now on.
pub fn set_put_back(faults: &[String]) {
    PUT_BACK.with_borrow_mut(|all| *all = faults.to_vec());
}

/// What came of a history.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was wrong.
    pub violation: Option<String>,
    /// Ids that were issued,
    pub ids: u64,
    /// windows that were reserved,
    pub windows: u64,
    /// calls that failed,
    pub failures: u64,
    /// calls that the registry served,
    pub calls: u64,
    /// and faults that took place.
    pub faults: BTreeMap<&'static str, u64>,
    /// What happened, where it was asked for.
    pub history: Vec<String>,
}

/// Has a history happen.
pub fn run(plan: &Plan, verbose: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        BEGUN.set(Some(Instant::now()));
        let cluster = Cluster::new(plan, verbose);
        cluster.start();
        tokio::select! {
            biased;
            () = cluster.broken.notified() => (),
            () = live(&cluster, plan) => (),
        }
        let nodes = cluster.nodes.borrow();
        let judge = cluster.judge.borrow();
        let sum = |of: fn(&node::Node) -> u64| nodes.iter().map(|node| of(node)).sum();
        Outcome {
            violation: judge.violation.clone(),
            ids: judge.ids,
            windows: sum(|node| node.windows.get()),
            failures: sum(|node| node.failures.get()),
            calls: cluster.network.registry().load.calls,
            faults: cluster.faults.borrow().clone(),
            history: cluster.history(),
        }
    })
}

async fn live(cluster: &std::rc::Rc<Cluster>, plan: &Plan) {
    let until = async |at: i64| {
        let left = u64::try_from(at - time()).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(left)).await;
    };
    for event in &plan.events {
        until(event.at).await;
        cluster.happen(event);
    }
    until(plan.length - QUIET).await;
    // What lasts a while ends by itself.
    cluster.heal();
    for part in 1..4 {
        until(plan.length - QUIET + part * QUIET / 6).await;
        cluster.heal();
        cluster.resume_all();
    }
    until(plan.length).await;
    cluster.judge_end(plan.length - 30_000_000);
}

/// The same failure with as little as possible: events are left out as long as it still fails. At
/// most so many histories are tried.
pub fn shrink(plan: &Plan, mut tries: u32) -> Plan {
    let mut plan = plan.clone();
    let mut size = plan.events.len().div_ceil(2);
    while size > 0 && tries > 0 {
        let (mut first, mut shrunk) = (0, false);
        while first < plan.events.len() && tries > 0 {
            let left: Vec<Event> = plan
                .events
                .iter()
                .enumerate()
                .filter(|(i, _)| !(first..first + size).contains(i))
                .map(|(_, event)| *event)
                .collect();
            let candidate = Plan { events: left, ..plan.clone() };
            tries -= 1;
            if run(&candidate, false).violation.is_some() {
                plan = candidate;
                shrunk = true;
            } else {
                first += size;
            }
        }
        if !shrunk || size > 1 {
            size /= 2;
        }
    }
    plan
}
