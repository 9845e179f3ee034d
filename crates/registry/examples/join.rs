//! How long a node takes to join an empty registry and a full one, without the heartbeat and a
//! half for which it then waits. `make bench` runs it.
//!
//! Usage: join ROUNDS NUMBERS ADDRESS...
#![allow(clippy::unwrap_used)]

use snowflake_registry::lease::{self, Taker};
use snowflake_registry::{Address, Now, Provider, Surroundings, Terms};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const TERMS: Terms =
    Terms { duration: Duration::from_secs(3600), heartbeat: Duration::from_secs(10) };
const HOUR: i64 = 3_600_000_000;
const NOW: i64 = 1_800_000_000_000_000;

fn taker(range: std::ops::RangeInclusive<u64>) -> Taker {
    Taker {
        node: "node".to_owned(),
        host: "host".to_owned(),
        range,
        base: 0,
        layout: "timestamp:41,worker:10,sequence:12".to_owned(),
        epoch: 0,
        kept: None,
        remembers: false,
        avoid: BTreeSet::new(),
    }
}

async fn take(store: &mut Provider, range: std::ops::RangeInclusive<u64>) -> (u64, String) {
    // The time is given with each call.
    let surroundings = || None::<Now>;
    let nonce = surroundings.nonce().unwrap();
    let taker = taker(range);
    let tenure = lease::take(store, &taker, &nonce, NOW, NOW + HOUR, &surroundings).await.unwrap();
    (tenure.number, tenure.record.nonce)
}

/// How long it takes to connect and take a number: milliseconds. It is given back each time.
async fn join(address: &Address, rounds: u32, last: u64) -> String {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let mut store = address.clone().provider(TERMS);
        let begun = Instant::now();
        let (number, nonce) = take(&mut store, 0..=last).await;
        times.push(format!("{:.2}", begun.elapsed().as_secs_f64() * 1000.0));
        lease::release(&mut store, number, &[&nonce], NOW, NOW).await.unwrap();
    }
    times.join(",")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().unwrap().parse().unwrap();
    let (rounds, numbers) = (number(), u64::from(number()));
    for address in arguments {
        let kind = address.split("://").next().unwrap_or_default().to_owned();
        let address = Address::parse(&address).unwrap();
        let empty = join(&address, rounds, numbers - 1).await;
        let mut store = address.clone().provider(TERMS);
        for number in 0..numbers - 1 {
            // Those that were given back above are taken again.
            take(&mut store, number..=number).await;
        }
        let full = join(&address, rounds, numbers - 1).await;
        println!("{kind} {empty} {full}");
    }
}
