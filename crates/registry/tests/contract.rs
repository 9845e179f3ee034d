//! What every registry must do. One suite, run against the registry that SNOWFLAKE_REGISTRY
//! names, with {} in place of a name that each test makes up; without it, against the
//! one in memory. tests/cluster/test_registries.py runs it against all of them.
#![allow(clippy::unwrap_used)]

use snowflake_registry::lease::{self, Fate, Taker, Tenure};
use snowflake_registry::{
    Address, Entry, Error, KeptLease, Memory, Provider, Record, State, Store, Surroundings, Terms,
};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::{JoinSet, LocalSet};

const TERMS: Terms =
    Terms { duration: Duration::from_secs(3600), heartbeat: Duration::from_secs(10) };
/// The lease's duration in microseconds.
const HOUR: i64 = 3_600_000_000;
/// Some moment.
const NOW: i64 = 1_800_000_000_000_000;
/// Before something is tried again.
const PAUSE: Duration = Duration::from_millis(100);
const LAYOUT: &str = "timestamp:41,worker:10,sequence:12";

/// A registry of a test's own, to which any number of nodes connect.
#[derive(Clone)]
enum Registry {
    There(String),
    Memory(Memory),
}

impl Registry {
    async fn new(test: &str) -> Self {
        let Ok(address) = std::env::var("SNOWFLAKE_REGISTRY") else {
            return Self::Memory(Memory::default());
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let name = format!("{test}_{}", since.as_micros());
        let address_here = address.replace("{}", &name);
        if address.starts_with("postgres") {
            let admin = address.replace("{}", "postgres");
            execute(&admin, &format!("CREATE DATABASE {name}")).await;
            execute(&address_here, "CREATE EXTENSION snowflake_id_node").await;
        }
        Self::There(address_here)
    }

    fn connect(&self) -> Provider {
        match self {
            Self::There(address) => Address::parse(address).unwrap().provider(TERMS),
            Self::Memory(memory) => Provider::Memory(memory.clone()),
        }
    }
}

async fn execute(address: &str, statement: &str) {
    let (client, connection) =
        tokio_postgres::connect(address, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
}

fn taker(node: &str, last: u64) -> Taker {
    Taker {
        node: node.to_owned(),
        host: "here".to_owned(),
        range: 0..=last,
        base: 0,
        layout: LAYOUT.to_owned(),
        epoch: 5,
        kept: None,
        remembers: false,
        avoid: BTreeSet::new(),
    }
}

/// What does not matter here: the time.
fn surroundings() -> impl Surroundings {
    || None::<snowflake_registry::Now>
}

fn nonce() -> String {
    surroundings().nonce().unwrap()
}

async fn take(store: &mut Provider, taker: &Taker, now: i64) -> Tenure {
    try_take(store, taker, now).await.unwrap()
}

async fn try_take(store: &mut Provider, taker: &Taker, now: i64) -> Result<Tenure, Error> {
    lease::take(store, taker, &nonce(), now, now + HOUR, &surroundings()).await
}

async fn keep(store: &mut Provider, tenure: &mut Tenure, now: i64) -> Result<Fate, Error> {
    lease::keep(store, tenure, now, now + HOUR).await
}

async fn take_and_confirm(store: &mut Provider, taker: &Taker, now: i64) -> Tenure {
    let mut tenure = take(store, taker, now).await;
    assert_eq!(keep(store, &mut tenure, now).await, Ok(Fate::Kept));
    tenure
}

fn kept(tenure: &Tenure) -> Option<KeptLease> {
    Some(KeptLease { nonce: tenure.record.nonce.clone(), until: tenure.record.until })
}

async fn found(store: &mut Provider, number: u64) -> (Entry, Record) {
    let entry = store.get(number).await.unwrap().unwrap();
    let record = serde_json::from_str(&entry.value).unwrap();
    (entry, record)
}

/// Writes over what is there, as somebody else.
async fn overwrite(store: &mut Provider, number: u64, record: &Record) {
    let revision = store.get(number).await.unwrap().map(|entry| entry.revision);
    let value = serde_json::to_string(record).unwrap();
    assert_eq!(store.swap(number, revision, &value).await, Ok(true));
}

#[tokio::test]
async fn a_number_is_claimed_confirmed_kept_and_given_back() {
    let mut store = Registry::new("basic").await.connect();
    let mut tenure = take(&mut store, &taker("a", 0), NOW).await;
    assert_eq!((tenure.number, tenure.record.state), (0, State::Claimed));
    assert_eq!((tenure.record.floor, tenure.record.until), (NOW, NOW + HOUR));
    assert_eq!(found(&mut store, 0).await.1, tenure.record);

    assert_eq!(keep(&mut store, &mut tenure, NOW + 5).await, Ok(Fate::Kept));
    assert_eq!(tenure.record.state, State::Held);
    assert_eq!((tenure.record.floor, tenure.record.until), (NOW, NOW + 5 + HOUR));
    // A clock that was set back shortens no lease.
    assert_eq!(keep(&mut store, &mut tenure, NOW - 9).await, Ok(Fate::Kept));
    assert_eq!(tenure.record.until, NOW + 5 + HOUR);
    assert_eq!(found(&mut store, 0).await.1, tenure.record);
    let alive = |entries: Vec<Entry>| entries[0].alive;
    assert!(alive(store.list().await.unwrap()));

    let nonce = &tenure.record.nonce;
    lease::release(&mut store, 0, &[nonce], NOW + 7, NOW + 6).await.unwrap();
    let (_, record) = found(&mut store, 0).await;
    assert_eq!((record.state, record.until), (State::Released, NOW + 7));
    assert!(!alive(store.list().await.unwrap()));

    let next = take(&mut store, &taker("b", 0), NOW + 8).await;
    assert_eq!((next.number, next.record.floor), (0, NOW + 8));
}

#[tokio::test]
async fn a_revision_that_is_not_the_one_read_writes_nothing() {
    let mut store = Registry::new("revision").await.connect();
    assert_eq!(store.get(3).await, Ok(None));
    assert_eq!(store.swap(3, Some(1), "1").await, Ok(false));
    assert_eq!(store.swap(3, None, "1").await, Ok(true));
    assert_eq!(store.swap(3, None, "2").await, Ok(false));
    let first = store.get(3).await.unwrap().unwrap();
    assert_eq!((first.number, &*first.value), (3, "1"));
    assert_eq!(store.swap(3, Some(first.revision), "2").await, Ok(true));
    assert_eq!(store.swap(3, Some(first.revision), "3").await, Ok(false));
    let second = store.get(3).await.unwrap().unwrap();
    assert_eq!(second.value, "2");
    assert_ne!(second.revision, first.revision);
    assert_eq!(store.get(4).await, Ok(None));
    let keys: Vec<_> =
        store.list().await.unwrap().into_iter().map(|e| (e.number, e.value)).collect();
    assert_eq!(keys, [(3, "2".to_owned())]);
}

#[tokio::test]
async fn a_node_that_comes_back_has_its_number_at_once() {
    let registry = Registry::new("resume").await;
    let mut store = registry.connect();
    let first = take_and_confirm(&mut store, &taker("a", 99), NOW).await;
    let remembers = Taker { remembers: true, ..taker("a", 99) };
    let back = Taker { kept: kept(&first), ..remembers.clone() };
    let second = take(&mut registry.connect(), &back, NOW + HOUR - 1).await;
    assert_eq!((second.number, second.record.state), (first.number, State::Held));
    assert_eq!(second.record.floor, first.record.floor);
    assert_ne!(second.record.nonce, first.record.nonce);

    // Its lease has ended: the same number, but others may object.
    let back = Taker { kept: kept(&second), ..remembers.clone() };
    let third = take(&mut registry.connect(), &back, NOW + 2 * HOUR).await;
    assert_eq!((third.number, third.record.state), (first.number, State::Claimed));
    assert_eq!(third.record.floor, NOW + 2 * HOUR);

    // By shorter terms it does not end before what it follows: ids may have been reserved up to there.
    let short = Taker { kept: kept(&third), ..remembers.clone() };
    let shorter = lease::take(
        &mut store,
        &short,
        &nonce(),
        NOW + 2 * HOUR,
        NOW + 2 * HOUR + HOUR / 2,
        &surroundings(),
    )
    .await
    .unwrap();
    assert_eq!(shorter.record.until, third.record.until);
    let third = shorter;

    // What it kept has ended, but its record has not: what it has issued, it knows by itself.
    let kept = Some(KeptLease { nonce: third.record.nonce.clone(), until: NOW });
    let back = Taker { kept, ..remembers.clone() };
    let fourth = take(&mut registry.connect(), &back, NOW + 2 * HOUR + 1).await;
    assert_eq!((fourth.number, fourth.record.state), (first.number, State::Claimed));
    assert_eq!(fourth.record.floor, third.record.floor);

    // It kept another one, as after a crash in the middle of taking this one, or as a clone of
    // the one that holds it: it is its own only when no id can be generated by it any more.
    let unknown = Some(KeptLease { nonce: "another".to_owned(), until: fourth.record.until });
    let back = Taker { kept: unknown.clone(), ..remembers.clone() };
    let fifth = take(&mut registry.connect(), &back, NOW + 2 * HOUR + 2).await;
    assert_eq!((fifth.number, fifth.record.state), (first.number, State::Claimed));
    let mut fifth = fifth;
    assert_eq!(keep(&mut store, &mut fifth, NOW + 2 * HOUR + 2).await, Ok(Fate::Kept));
    let sixth = take(&mut registry.connect(), &back, NOW + 2 * HOUR + 3).await;
    assert_ne!(sixth.number, first.number);
    let late = Taker { range: first.number..=first.number, ..back };
    let seventh = take(&mut registry.connect(), &late, fifth.record.until).await;
    assert_eq!((seventh.number, seventh.record.floor), (first.number, fifth.record.until));

    // It has lost what it knew: it is like any other.
    let other = take(&mut registry.connect(), &taker("a", 99), NOW + 2 * HOUR + 3).await;
    assert_ne!(other.number, first.number);
    // Nor shall it have the same again, if it is so told.
    store.withdraw(other.number).await.unwrap();
    let avoid =
        Taker { range: first.number..=first.number, avoid: [first.number].into(), ..remembers };
    let none = try_take(&mut store, &avoid, NOW + 2 * HOUR + 4).await;
    assert!(matches!(none, Err(Error::Exhausted { .. })), "{none:?}");
}

#[tokio::test]
async fn a_claim_that_got_no_answer_is_found_again() {
    let mut store = Registry::new("again").await.connect();
    let (nonce, a) = (nonce(), taker("a", 9));
    let first =
        lease::take(&mut store, &a, &nonce, NOW, NOW + HOUR, &surroundings()).await.unwrap();
    let again = lease::take(&mut store, &a, &nonce, NOW + 1, NOW + 1 + HOUR, &surroundings())
        .await
        .unwrap();
    assert_eq!(again.number, first.number);
    assert_eq!(again.record.state, State::Claimed);
    assert_eq!((again.record.floor, again.record.until), (NOW, NOW + 1 + HOUR));
    assert_eq!(store.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn of_several_numbers_of_its_own_a_node_has_the_last() {
    let mut store = Registry::new("several").await.connect();
    let only = |number| Taker { base: number, remembers: true, ..taker("a", 0) };
    let first = take_and_confirm(&mut store, &only(0), NOW).await;
    let last = take_and_confirm(&mut store, &only(2), NOW + 2).await;
    let between = take_and_confirm(&mut store, &only(1), NOW + 1).await;
    for (tenure, at) in [(&last, NOW + 2), (&between, NOW + 1)] {
        let nonce = &tenure.record.nonce;
        lease::release(&mut store, tenure.number, &[nonce], at, at).await.unwrap();
    }
    // Also if it has not come to keep that one.
    let back = Taker { remembers: true, kept: kept(&first), ..taker("a", 9) };
    assert_eq!(take(&mut store, &back, NOW + 3).await.number, last.number);
}

#[tokio::test]
async fn what_was_only_claimed_is_free_again_for_what_it_had_left() {
    let mut store = Registry::new("unclaim").await.connect();
    let claim = take(&mut store, &taker("a", 0), NOW).await;
    lease::unclaim(&mut store, &claim, NOW + 1).await.unwrap();
    let (_, record) = found(&mut store, 0).await;
    assert_eq!((record.state, record.until), (State::Released, NOW));

    // A number's earlier holder may have generated ids up to the floor, whatever who follows says.
    let claim = take(&mut store, &taker("b", 0), NOW + 5).await;
    assert_eq!(claim.record.floor, NOW + 5);
    lease::release(&mut store, 0, &[&claim.record.nonce], NOW + 2, NOW + 6).await.unwrap();
    assert_eq!(found(&mut store, 0).await.1.until, NOW + 5);

    // What is held stays, and what a node had before it claimed it.
    let mut held = take(&mut store, &taker("c", 0), NOW + 7).await;
    assert_eq!(keep(&mut store, &mut held, NOW + 7).await, Ok(Fate::Kept));
    lease::unclaim(&mut store, &held, NOW + 8).await.unwrap();
    assert_eq!(found(&mut store, 0).await.1, held.record);
    let kept = Some(KeptLease { nonce: held.record.nonce, until: NOW });
    let again = take(&mut store, &Taker { remembers: true, kept, ..taker("c", 0) }, NOW + 8).await;
    assert_eq!(again.record.state, State::Claimed);
    lease::unclaim(&mut store, &again, NOW + 9).await.unwrap();
    assert_eq!(found(&mut store, 0).await.1, again.record);
}

#[tokio::test]
async fn a_number_is_free_when_its_lease_has_ended_and_its_holder_is_silent() {
    let registry = Registry::new("expiry").await;
    let mut store = registry.connect();
    let mut first = take_and_confirm(&mut store, &taker("a", 0), NOW).await;
    let later = NOW + HOUR;
    let taken =
        |alive| Error::Exhausted { range: 0..=0, alive, free_at: (alive == 0).then_some(later) };
    let mut other = registry.connect();
    let try_at = async |store: &mut Provider, now| try_take(store, &taker("b", 0), now).await;
    assert_eq!(try_at(&mut other, NOW + 1).await, Err(taken(1)));
    // It is alive, but cannot renew.
    assert_eq!(try_at(&mut other, later).await, Err(taken(1)));
    store.withdraw(0).await.unwrap();
    assert_eq!(try_at(&mut other, later - 1).await, Err(taken(0)));
    let mut second = try_at(&mut other, later).await.unwrap();
    assert_eq!((second.number, second.record.floor), (0, later));
    // The first one comes back too late, and changes nothing.
    assert_eq!(keep(&mut store, &mut first, later + 1).await, Ok(Fate::Followed));
    assert_eq!(first.record.until, later);
    lease::release(&mut store, 0, &[&first.record.nonce], later, later + 1).await.unwrap();
    assert_eq!(found(&mut store, 0).await.1, second.record);
    assert_eq!(keep(&mut other, &mut second, later + 2).await, Ok(Fate::Kept));
    assert_eq!(keep(&mut store, &mut first, later + 3).await, Ok(Fate::Followed));
}

#[tokio::test]
async fn unused_numbers_come_first_and_then_those_that_ended_first() {
    let mut store = Registry::new("order").await.connect();
    for (number, until) in [(0, NOW + 30), (1, NOW + 10), (3, NOW + 20)] {
        let range = taker("a", 0);
        let tenure = take(&mut store, &Taker { base: number, ..range }, NOW).await;
        let nonce = &tenure.record.nonce;
        lease::release(&mut store, number, &[nonce], until, NOW).await.unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(take(&mut store, &taker("b", 3), NOW + 40).await.number);
    }
    assert_eq!(order, [2, 1, 3, 0]);
}

#[tokio::test]
async fn datacenters_and_ranges_do_not_meet() {
    let mut store = Registry::new("ranges").await.connect();
    let mut numbers = BTreeSet::new();
    for (base, range) in [(0, 0..=1), (0, 2..=3), (32, 0..=1)] {
        for _ in 0..2 {
            let taker = Taker { base, range: range.clone(), ..taker("a", 0) };
            numbers.insert(take(&mut store, &taker, NOW).await.number);
        }
        let taker = Taker { base, range: range.clone(), ..taker("a", 0) };
        let error = try_take(&mut store, &taker, NOW).await.unwrap_err();
        assert_eq!(error, Error::Exhausted { range, alive: 2, free_at: None });
    }
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 32, 33]);
}

/// So many takers at once for the numbers from 0 on: the numbers given, and the errors.
async fn rush(registry: &Registry, takers: usize, last: u64) -> (Vec<u64>, Vec<Error>) {
    LocalSet::new().run_until(rush_here(registry, takers, last)).await
}

async fn rush_here(registry: &Registry, takers: usize, last: u64) -> (Vec<u64>, Vec<Error>) {
    let mut tasks = JoinSet::new();
    for node in 0..takers {
        let mut store = registry.connect();
        tasks.spawn_local(async move {
            let (taker, nonce) = (taker(&format!("node {node}"), last), nonce());
            // As a holder does, who waits for longer: again after a race that was lost, and where a
            // busy machine had no answer in time.
            let again = |error: &Error| matches!(error, Error::Outrun | Error::Unreachable { .. });
            let mut tenure = loop {
                match lease::take(&mut store, &taker, &nonce, NOW, NOW + HOUR, &surroundings())
                    .await
                {
                    Err(error) if again(&error) => tokio::time::sleep(PAUSE).await,
                    taken => break taken?,
                }
            };
            loop {
                match keep(&mut store, &mut tenure, NOW + 1).await {
                    Err(error) if again(&error) => tokio::time::sleep(PAUSE).await,
                    kept => break assert_eq!(kept?, Fate::Kept),
                }
            }
            // The connection stays: its end would end a ZooKeeper session.
            Ok((tenure.number, store))
        });
    }
    let (mut numbers, mut errors, mut stores) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(taken) = tasks.join_next().await {
        match taken.unwrap() {
            Ok((number, store)) => {
                numbers.push(number);
                stores.push(store);
            }
            Err(error) => errors.push(error),
        }
    }
    numbers.sort_unstable();
    (numbers, errors)
}

#[tokio::test]
async fn no_number_is_given_twice_to_64_takers_at_once() {
    let registry = Registry::new("rush").await;
    let (numbers, errors) = rush(&registry, 64, 63).await;
    assert_eq!(errors, []);
    assert_eq!(numbers, (0..64).collect::<Vec<_>>());
    let mut store = registry.connect();
    let late = try_take(&mut store, &taker("late", 63), NOW).await;
    assert!(matches!(late, Err(Error::Exhausted { range, .. }) if range == (0..=63)));
}

#[tokio::test]
async fn a_registry_that_has_gone_back_learns_again() {
    let mut store = Registry::new("back").await.connect();
    let mut tenure = take_and_confirm(&mut store, &taker("a", 0), NOW).await;
    let before = Record {
        nonce: "that of a holder before".to_owned(),
        node: "z".to_owned(),
        floor: NOW - 9,
        until: NOW,
        ..tenure.record.clone()
    };
    overwrite(&mut store, 0, &before).await;
    assert_eq!(keep(&mut store, &mut tenure, NOW + 1).await, Ok(Fate::Kept));
    assert_eq!(found(&mut store, 0).await.1, tenure.record);

    // The same node's run before, whose lease it has taken up.
    let back = Taker { kept: kept(&tenure), remembers: true, ..taker("a", 0) };
    let earlier = tenure.record.clone();
    let mut tenure = take(&mut store, &back, NOW + 2).await;
    overwrite(&mut store, 0, &earlier).await;
    assert_eq!(keep(&mut store, &mut tenure, NOW + 3).await, Ok(Fate::Kept));
    assert_eq!(found(&mut store, 0).await.1, tenure.record);
}

#[tokio::test]
async fn a_registry_that_has_gone_back_to_a_holder_before_learns_again() {
    let mut store = Registry::new("before").await.connect();
    // The first one has given its number back, long before its lease would have ended.
    let first = take_and_confirm(&mut store, &taker("a", 0), NOW).await;
    lease::release(&mut store, 0, &[&first.record.nonce], NOW + 1, NOW + 1).await.unwrap();
    let mut second = take_and_confirm(&mut store, &taker("b", 0), NOW + 2).await;
    overwrite(&mut store, 0, &first.record).await;
    assert_eq!(keep(&mut store, &mut second, NOW + 3).await, Ok(Fate::Kept));
    assert_eq!(found(&mut store, 0).await.1, second.record);
    // But if that one goes on by it, it has written later.
    let on = Record { updated_at: NOW + 3, ..first.record };
    overwrite(&mut store, 0, &on).await;
    let fate = keep(&mut store, &mut second, NOW + 4).await;
    assert_eq!(fate, Ok(Fate::Contested { by: on }));
}

#[tokio::test]
async fn two_processes_that_go_on_as_one_are_told_apart() {
    let mut store = Registry::new("twins").await.connect();
    let mut one = take_and_confirm(&mut store, &taker("a", 0), NOW).await;
    let mut other = one.clone();
    assert_eq!(keep(&mut store, &mut one, NOW + 2).await, Ok(Fate::Kept));
    let fate = keep(&mut store, &mut other, NOW + 3).await;
    assert_eq!(fate, Ok(Fate::Contested { by: one.record.clone() }));
    assert_eq!(keep(&mut store, &mut one, NOW + 4).await, Ok(Fate::Kept));
}

#[tokio::test]
async fn a_newcomer_that_believed_such_a_registry_has_to_yield() {
    let mut store = Registry::new("claim").await.connect();
    let mut tenure = take_and_confirm(&mut store, &taker("a", 0), NOW).await;
    let before = Record {
        nonce: "that of a holder before".to_owned(),
        floor: NOW - 9,
        until: NOW,
        ..tenure.record.clone()
    };
    overwrite(&mut store, 0, &before).await;
    store.withdraw(0).await.unwrap();
    let mut newcomer = take(&mut store, &taker("b", 0), NOW + 1).await;
    assert_eq!(newcomer.record.state, State::Claimed);
    assert_eq!(keep(&mut store, &mut tenure, NOW + 2).await, Ok(Fate::Kept));
    assert_eq!(keep(&mut store, &mut newcomer, NOW + 3).await, Ok(Fate::Followed));
    assert_eq!(found(&mut store, 0).await.1, tenure.record);

    // One that uses it already, which the wait before it does so is to prevent.
    let by = Record { state: State::Held, floor: NOW + 4, ..newcomer.record };
    overwrite(&mut store, 0, &by).await;
    let fate = keep(&mut store, &mut tenure, NOW + 5).await;
    assert_eq!(fate, Ok(Fate::Contested { by: by.clone() }));
    assert_eq!(found(&mut store, 0).await.1, by);
}

#[tokio::test]
async fn what_no_node_wrote_is_named_and_left_alone() {
    let mut store = Registry::new("foreign").await.connect();
    let mut tenure = take_and_confirm(&mut store, &taker("a", 0), NOW).await;
    let json = ["{}", "[1]", "7", "\"garbage\""];
    // A database takes nothing else.
    let others = if matches!(store, Provider::Postgres(_)) { &[][..] } else { &["", "\u{0}{"] };
    for value in json.iter().chain(others) {
        let revision = store.get(7).await.unwrap().map(|entry| entry.revision);
        assert_eq!(store.swap(7, revision, value).await, Ok(true));
        let error = try_take(&mut store, &taker("b", 9), NOW).await.unwrap_err();
        let Error::Foreign { key, why } = error else { panic!("{error:?}") };
        assert!(key.contains('7') && !why.is_empty(), "{key}: {why}");
        assert_eq!(store.get(7).await.unwrap().unwrap().value, *value);
    }
    let format = serde_json::to_string(&Record { format: 2, ..tenure.record.clone() }).unwrap();
    let revision = store.get(7).await.unwrap().map(|entry| entry.revision);
    assert_eq!(store.swap(7, revision, &format).await, Ok(true));
    let error = try_take(&mut store, &taker("b", 9), NOW).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { why, .. } if *why == *"format 2 instead of 1"));

    let layout = Record { layout: "another".to_owned(), ..tenure.record.clone() };
    overwrite(&mut store, 7, &layout).await;
    let error = try_take(&mut store, &taker("b", 9), NOW).await.unwrap_err();
    assert!(matches!(error, Error::OtherLayout { layout, epoch: 5, .. } if *layout == *"another"));
    let epoch = Record { epoch: 6, ..tenure.record.clone() };
    overwrite(&mut store, 7, &epoch).await;
    let error = try_take(&mut store, &taker("b", 9), NOW).await.unwrap_err();
    assert!(matches!(error, Error::OtherLayout { epoch: 6, .. }));

    // Who has a number keeps it.
    assert_eq!(keep(&mut store, &mut tenure, NOW + 1).await, Ok(Fate::Kept));
    let revision = store.get(0).await.unwrap().map(|entry| entry.revision);
    assert_eq!(store.swap(0, revision, "[]").await, Ok(true));
    let error = keep(&mut store, &mut tenure, NOW + 2).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }));
    assert_eq!(store.get(0).await.unwrap().unwrap().value, "[]");
}

#[tokio::test]
async fn of_1024_takers_for_1000_numbers_24_are_told_that_there_are_none() {
    let registry = Registry::new("crowd").await;
    let (mut numbers, mut errors) = (Vec::new(), Vec::new());
    // Not all at once: they and the server share this machine, and a call may take 3 s.
    for _ in 0..32 {
        let (mut some, mut others) = rush(&registry, 32, 999).await;
        numbers.append(&mut some);
        errors.append(&mut others);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    assert_eq!(errors.len(), 24);
    for error in errors {
        let text = error.to_string();
        assert!(text.starts_with("all worker ids from 0 to 999 are taken"), "{text}");
    }
}
