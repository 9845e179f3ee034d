//! One day of a large cluster: up to a thousand nodes in three regions, each with a registry and a range
//! of worker ids of its own; and what that costs.
//!
//! Regions share nothing, so each has a thread. That no id is there twice is judged within each; and
//! that no region has issued with a worker id outside of its range.
//!
//! There are as many worker ids as nodes. So those that die and are copied elsewhere leave no free
//! ones, until the leases of the dead have ended.

use crate::chance::Chance;
use crate::cluster::{Cluster, stop};
use crate::network::Load;
use crate::node::{Node, Role};
use crate::plan::{Plan, World};
use crate::{BEGUN, time};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

/// When what happens, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Day {
    /// How long it lasts.
    pub length: i64,
    /// How long a lease lasts.
    pub lease: i64,
    /// All nodes are started within this time.
    pub started: i64,
    /// All nodes are stopped in order and started again, one after the other: from when on, and how long
    /// after each other.
    pub restarts: (i64, i64),
    /// The registries are down: from when on, and for how long.
    pub outage: (i64, i64),
    /// The nodes of the second region cannot reach theirs: from when on, and for how long. Their leases
    /// end.
    pub cut: (i64, i64),
    /// Nodes die, and copies of them are started elsewhere: when, and how many, of all.
    pub deaths: (i64, usize),
}

impl Day {
    /// What a day of this length has, for so many nodes.
    pub fn new(nodes: u32, length: i64) -> Self {
        let part = length / 24;
        let lease = part.clamp(MINUTE, 60 * MINUTE);
        Self {
            length,
            lease,
            started: MINUTE,
            restarts: (part, 3 * part / i64::from(nodes)),
            outage: (6 * part, part / 2),
            cut: (9 * part, 3 * lease / 2),
            deaths: (14 * part, (nodes as usize * 20 / 1024).max(1)),
        }
    }
}

/// What came of it. All times in virtual microseconds, sorted.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was wrong.
    pub violation: Option<String>,
    /// Ids that were issued,
    pub ids: u64,
    /// windows that were reserved,
    pub windows: u64,
    /// calls that failed,
    pub failures: u64,
    /// and what the registries had to do, all in all,
    pub load: Load,
    /// while all nodes joined,
    pub joining: Load,
    /// for an hour in which nothing happened, or less where the day is shorter, with that time,
    pub quiet: (Load, i64),
    /// and from the deaths to the end of the exhaustion.
    pub exhausted: Load,
    /// From the start of a server to ids: where all join,
    pub joins: Vec<i64>,
    /// after a restart in order,
    pub restarts: Vec<i64>,
    /// and, from the deaths, for copies of the dead.
    pub copies: Vec<i64>,
}

/// The cluster's plan, but for what happens in it.
fn plan(seed: u64, nodes: u32, day: &Day) -> Plan {
    let world = World {
        nodes,
        layout: "timestamp:41,worker:10,sequence:12",
        sessions: 1,
        pauses: &[60_000_000, 600_000_000, 600_000_000],
        leased: 1,
        range: nodes,
        lease: (day.lease / SECOND).unsigned_abs(),
        admitted: None,
    };
    Plan { seed, world, events: Vec::new(), length: day.length }
}

/// The regions: the first worker id of each, and the last. Those of 1,024 are 0-341, 342-683 and 684-1023.
pub fn regions(nodes: u32) -> [(u32, u32); 3] {
    let third = nodes.div_ceil(3);
    [(0, third - 1), (third, 2 * third - 1), (2 * third, nodes - 1)]
}

/// Has a day happen.
pub fn run(seed: u64, nodes: u32, length: i64) -> Report {
    let day = Day::new(nodes, length);
    let mut report = Report::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..3).map(|place| scope.spawn(move || region(seed, nodes, place, &day))).collect();
        for thread in threads {
            report.add(thread.join().expect("a region ends"));
        }
    });
    for times in [&mut report.joins, &mut report.restarts, &mut report.copies] {
        times.sort_unstable();
    }
    report
}

impl Report {
    fn add(&mut self, mut region: Self) {
        self.violation = self.violation.take().or(region.violation);
        self.ids += region.ids;
        self.windows += region.windows;
        self.failures += region.failures;
        self.load.add(&region.load);
        self.joining.add(&region.joining);
        self.quiet.0.add(&region.quiet.0);
        self.quiet.1 = region.quiet.1;
        self.exhausted.add(&region.exhausted);
        self.joins.append(&mut region.joins);
        self.restarts.append(&mut region.restarts);
        self.copies.append(&mut region.copies);
    }
}

/// The day of one region.
fn region(seed: u64, nodes: u32, place: usize, day: &Day) -> Report {
    let (first, last) = regions(nodes)[place];
    let range = u64::from(first)..=u64::from(last);
    let nodes = last - first + 1;
    let plan = plan(Chance::part(seed, place as u64).next(), nodes, day);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        BEGUN.set(Some(Instant::now()));
        let cluster = Cluster::without_nodes(&plan, false);
        for _ in 0..nodes {
            let (node, _) = cluster.add_primary();
            let mut settings = node.settings.borrow_mut();
            settings.range = range.clone();
            (settings.reservation, settings.max_ahead) = (1_000_000, 0);
        }
        let mut report = Report::default();
        tokio::select! {
            biased;
            () = cluster.broken.notified() => (),
            () = live(&cluster, day, place, &mut report) => (),
        }
        let nodes = cluster.nodes.borrow();
        report.violation.clone_from(&cluster.judge.borrow().violation);
        let numbers = cluster.judge.borrow().numbers();
        if numbers.is_none_or(|(low, high)| !range.contains(&low) || !range.contains(&high)) {
            let what = format!("region {range:?} has issued with worker ids {numbers:?}");
            report.violation.get_or_insert(what);
        }
        report.ids = cluster.judge.borrow().ids;
        report.load = cluster.network.registry().load;
        report.windows = nodes.iter().map(|node| node.windows.get()).sum();
        report.failures = nodes.iter().map(|node| node.failures.get()).sum();
        for (node, started, took) in cluster.joined.borrow().iter() {
            if *node >= plan.world.nodes as usize {
                report.copies.push(started + took - day.deaths.0);
            } else if *started < day.restarts.0 {
                report.joins.push(*took);
            } else {
                report.restarts.push(*took);
            }
        }
        report
    })
}

async fn until(at: i64) {
    let left = u64::try_from(at - time()).unwrap_or(0);
    tokio::time::sleep(Duration::from_micros(left)).await;
}

async fn live(cluster: &Rc<Cluster>, day: &Day, place: usize, report: &mut Report) {
    let mut chance = Chance::new(cluster.next());
    let nodes: Vec<Rc<Node>> = cluster.nodes.borrow().clone();
    let load = || std::mem::take(&mut cluster.network.registry().load);
    for node in &nodes {
        let node = Rc::clone(node);
        cluster.later(chance.below(day.started.unsigned_abs()), move |_| node.start());
    }
    let mut all = Load::default();
    let mut account = |load: Load| {
        all.add(&load);
        load
    };
    until(day.started + MINUTE / 2).await;
    report.joining = account(load());

    // To the restarts, and between others: nothing happens.
    let from = time();
    until(day.restarts.0).await;
    report.quiet = (account(load()), time() - from);
    // One region after the other.
    let before = place as i64 * i64::from(cluster.world.nodes + 1);
    for (node, turn) in nodes.iter().zip(before..) {
        until(day.restarts.0 + turn * day.restarts.1).await;
        let (second, down) = (chance.below(3_000), 2_000_000 + chance.below(10_000_000));
        spawn_local(stop(Rc::clone(cluster), Rc::clone(node), second, down, None));
    }

    until(day.outage.0).await;
    cluster.network.set_down(true);
    until(day.outage.0 + day.outage.1).await;
    cluster.network.set_down(false);

    until(day.cut.0).await;
    for node in nodes.iter().filter(|_| place == 1) {
        node.way.link().cut = true;
    }
    until(day.cut.0 + day.cut.1).await;
    for node in &nodes {
        node.way.link().cut = false;
    }

    until(day.deaths.0).await;
    account(load());
    // Where they cannot be shared out evenly, the first regions have more.
    let deaths = (day.deaths.1 + 2 - place) / 3;
    for node in nodes.iter().step_by(nodes.len() / deaths.max(1)).take(deaths) {
        cluster.copy(node, &mut chance);
        node.kill();
        node.role.set(Role::Gone);
    }
    // Until their leases have ended, and a little longer.
    until(day.deaths.0 + day.lease + MINUTE).await;
    report.exhausted = account(load());
    until(day.length).await;
    account(load());
    cluster.network.registry().load = all;
    // Whoever rests, rests for this long at most.
    cluster.judge_end(day.length - 20 * MINUTE);
}
