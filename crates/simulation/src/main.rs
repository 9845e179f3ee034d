//! `make simulate`: histories of a cluster, from seeds.
//!
//! Usage: snowflake-simulation [--seed N] [--seeds N] [--nodes N] [--hours N] [--threads N]
//! [--tries N]
//! [--put-back FAULT,...] [--admit twins|forgetting|slow-standby]
//!
//! Without a seed it is the day's. More than 26 nodes are a large cluster, and have a day of their own
//! (`scale`).

use snowflake_simulation::network::Load;
use snowflake_simulation::plan::{Admitted, Plan};
use snowflake_simulation::{Outcome, run, scale, set_put_back, shrink};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// In virtual microseconds.
const HOUR: f64 = 3_600_000_000.0;

struct Options {
    seed: u64,
    seeds: u64,
    nodes: Option<u32>,
    /// Virtual microseconds of each.
    length: i64,
    put_back: Vec<String>,
    admitted: Option<Admitted>,
    threads: usize,
    /// How many histories may be tried to shrink one that fails.
    tries: u32,
}

fn options() -> Result<Options, String> {
    let day =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() / 86_400);
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let mut options = Options {
        // Far enough from the next day's.
        seed: day * 1_000_000,
        seeds: 1,
        nodes: None,
        length: 600_000_000,
        put_back: Vec::new(),
        admitted: None,
        threads,
        tries: 300,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
        match name.as_str() {
            _ if value.is_empty() => (),
            "--seed" => options.seed = number()?,
            "--seeds" => options.seeds = number()?,
            "--nodes" => options.nodes = Some(number()? as u32),
            "--hours" => {
                let hours =
                    value.parse::<f64>().map_err(|error| format!("{name} {value}: {error}"))?;
                options.length = (hours * HOUR) as i64;
            }
            "--tries" => options.tries = number()? as u32,
            "--threads" => options.threads = number()? as usize,
            "--put-back" => options.put_back = value.split(',').map(str::to_owned).collect(),
            "--admit" => {
                options.admitted = Some(match value.as_str() {
                    "twins" => Admitted::Twins,
                    "forgetting" => Admitted::Forgetting,
                    "slow-standby" => Admitted::SlowStandby,
                    _ => return Err(format!("--admit {value} is not known")),
                });
            }
            _ => return Err(format!("{name} is not known")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let Options { seed, seeds, nodes, length, .. } = options;
    let hours = length as f64 / HOUR;
    if let Some(nodes @ 27..) = nodes {
        return large(seed, nodes, length);
    }
    println!("seeds {seed} to {}, {:.1} virtual minutes each", seed + seeds - 1, hours * 60.0);
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    // Each history has one thread; several run beside each other.
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                set_put_back(&options.put_back);
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let failed = || total.lock().unwrap_or_else(PoisonError::into_inner).failed;
                    if turn >= seeds || failed().is_some_and(|failed| failed < seed + turn) {
                        return;
                    }
                    let outcome =
                        run(&Plan::new(seed + turn, nodes, length, options.admitted), false);
                    total.lock().unwrap_or_else(PoisonError::into_inner).add(seed + turn, &outcome);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all = total.histories as f64 * hours;
    println!(
        "{} histories, {all:.1} virtual hours, {} ids, {} windows, {} calls of the registry, {} calls failed, in {:.1} s",
        total.histories,
        total.ids,
        total.windows,
        total.calls,
        total.failures,
        begun.elapsed().as_secs_f64(),
    );
    let faults = total.faults.iter().map(|(name, times)| format!("{name} {times}"));
    println!("faults: {}", faults.collect::<Vec<_>>().join(", "));
    let Some(failed) = total.failed else {
        println!("0 violations");
        return ExitCode::SUCCESS;
    };
    set_put_back(&options.put_back);
    let plan = Plan::new(failed, nodes, length, options.admitted);
    println!("seed {failed}: {}", run(&plan, false).violation.unwrap_or_default());
    let shrunk = shrink(&plan, options.tries);
    let outcome = run(&shrunk, true);
    println!(
        "\nseed {failed}, the {}. history: {} of {} events are left",
        failed - seed + 1,
        shrunk.events.len(),
        plan.events.len()
    );
    println!("{:?}", shrunk.world);
    for line in &outcome.history {
        println!("  {line}");
    }
    println!("VIOLATION: {}", outcome.violation.unwrap_or_default());
    let nodes = nodes.map_or(String::new(), |nodes| format!(" NODES={nodes}"));
    println!("To repeat it: make simulate SEED={failed}{nodes} HOURS={hours}");
    ExitCode::FAILURE
}

/// A day of a large cluster, and its figures.
fn large(seed: u64, nodes: u32, length: i64) -> ExitCode {
    let day = scale::Day::new(nodes, length);
    let minutes = |time: i64| time as f64 / HOUR * 60.0;
    let seconds = |time: i64| time as f64 / 1e6;
    println!(
        "seed {seed}: {nodes} nodes in three regions, {:.1} virtual hours, leases of {:.0} min, each region with a registry of its own",
        length as f64 / HOUR,
        minutes(day.lease),
    );
    println!(
        "all started within {:.0} s; one after the other restarted from {:.0} min on, each {:.1} s; \
         the registries down from {:.0} min on for {:.1}; a region cut off from {:.0} min on for {:.1}; \
         {} nodes die at {:.0} min, and copies of them are started",
        seconds(day.started),
        minutes(day.restarts.0),
        seconds(day.restarts.1),
        minutes(day.outage.0),
        minutes(day.outage.1),
        minutes(day.cut.0),
        minutes(day.cut.1),
        day.deaths.1,
        minutes(day.deaths.0),
    );
    let begun = Instant::now();
    let report = scale::run(seed, nodes, length);
    println!(
        "{} ids, {} windows, {} calls of the registries, {} records read, {} calls failed, in {:.1} s",
        report.ids,
        report.windows,
        report.load.calls,
        report.load.records,
        report.failures,
        begun.elapsed().as_secs_f64(),
    );
    let load = |what: &str, load: &Load, time: i64| {
        println!(
            "the registries, {what}: {:.1} calls/s, at one of them {} in the busiest second, {:.1} records read/s",
            load.calls as f64 / seconds(time),
            load.most,
            load.records as f64 / seconds(time),
        );
    };
    load("while all join", &report.joining, day.started + 30_000_000);
    load("while nothing happens", &report.quiet.0, report.quiet.1);
    load("while none is free", &report.exhausted, day.lease + 60_000_000);
    load("all the time", &report.load, length);
    let times = |what: &str, times: &[i64]| {
        let at = |part: f64| times.get(((times.len().max(1) - 1) as f64 * part) as usize);
        println!(
            "ids flow, {what}: {} times; after {:.1} s at the median, {:.1} s at most",
            times.len(),
            seconds(at(0.5).copied().unwrap_or(0)),
            seconds(at(1.0).copied().unwrap_or(0)),
        );
    };
    times("from the first start", &report.joins);
    times("from a restart in order", &report.restarts);
    times("at the copies, from the deaths", &report.copies);
    match report.violation {
        Some(what) => {
            println!("VIOLATION: {what}");
            ExitCode::FAILURE
        }
        None => {
            println!("0 violations");
            ExitCode::SUCCESS
        }
    }
}

#[derive(Default)]
struct Total {
    histories: u64,
    ids: u64,
    windows: u64,
    failures: u64,
    calls: u64,
    faults: BTreeMap<&'static str, u64>,
    /// The first seed that failed.
    failed: Option<u64>,
}

impl Total {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.histories += 1;
        self.ids += outcome.ids;
        self.windows += outcome.windows;
        self.failures += outcome.failures;
        self.calls += outcome.calls;
        for (name, times) in &outcome.faults {
            *self.faults.entry(name).or_default() += times;
        }
        if outcome.violation.is_some() && self.failed.is_none_or(|failed| seed < failed) {
            self.failed = Some(seed);
        }
    }
}
