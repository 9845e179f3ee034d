//! The thread that keeps a lease: what it makes of a registry that forgets, of others that want
//! the same number, of a clock that is not to be trusted, and of one that never answers.
#![allow(clippy::unwrap_used)]

use snowflake_registry::lease::Taker;
use snowflake_registry::{
    Address, Contested, Entry, Error, Held, Holder, KeptLease, Memory, Now, Provider, Record,
    State, Status, Terms,
};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

const TERMS: Terms =
    Terms { duration: Duration::from_secs(60), heartbeat: Duration::from_millis(40) };
const MINUTE: i64 = 60_000_000;
const NOW: i64 = 1_800_000_000_000_000;

/// A clock that the test sets; 0 is one that is not trusted, and such looks at it are counted.
#[derive(Clone, Default)]
struct Clock {
    now: Arc<AtomicI64>,
    in_vain: Arc<AtomicI64>,
    /// How far ids may run ahead of it.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    fn new() -> Self {
        let clock = Self::default();
        clock.set(NOW);
        clock
    }

    fn set(&self, now: i64) {
        self.now.store(now, Ordering::Relaxed);
    }

    fn holder(&self, memory: &Memory, taker: Taker) -> Holder {
        let Self { now, in_vain, ahead } = self.clone();
        let now = move || match now.load(Ordering::Relaxed) {
            0 => {
                in_vain.fetch_add(1, Ordering::Relaxed);
                None
            }
            now => Some(Now { wall: now, ids: now + ahead.load(Ordering::Relaxed) }),
        };
        Holder::start(Provider::Memory(memory.clone()), taker, TERMS, now).unwrap()
    }
}

fn taker(node: &str, last: u64) -> Taker {
    Taker {
        node: node.to_owned(),
        host: String::new(),
        range: 0..=last,
        base: 0,
        layout: "layout".to_owned(),
        epoch: 0,
        kept: None,
        remembers: false,
        avoid: BTreeSet::new(),
    }
}

/// Waits until something is so.
fn wait<T>(what: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "that does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn held(holder: &Holder) -> Held {
    wait(|| holder.status().held)
}

/// Waits for so many further heartbeats, failed ones included.
fn heartbeats(holder: &Holder, more: u64) {
    let count = |status: Status| status.renewals + status.failures;
    let goal = count(holder.status()) + more;
    wait(|| (count(holder.status()) >= goal).then_some(()));
}

fn record(memory: &Memory, number: u64) -> Option<Record> {
    let entries = memory.entries();
    entries.get(&number).map(|entry| serde_json::from_str(&entry.value).unwrap())
}

fn write(memory: &Memory, number: u64, record: &Record) {
    let mut entries = memory.entries();
    let revision = entries.get(&number).map_or(1, |entry| entry.revision + 1);
    let value = serde_json::to_string(record).unwrap();
    entries.insert(number, Entry { number, revision, value, alive: true });
}

#[test]
fn a_lease_is_confirmed_after_a_heartbeat_and_a_half_and_then_renewed() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let begun = Instant::now();
    let holder = clock.holder(&memory, taker("a", 0));
    let (number, until) = wait(|| holder.status().claimed);
    assert_eq!((number, until), (0, NOW + 60_000));
    assert_eq!(record(&memory, 0).unwrap().state, State::Claimed);
    assert_eq!(holder.status().held, None);
    let first = held(&holder);
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert_eq!((first.number, first.floor, first.until), (0, NOW, NOW + MINUTE));
    assert_eq!(holder.status().claimed, None);
    clock.set(NOW + 5);
    wait(|| (held(&holder).until == NOW + 5 + MINUTE).then_some(()));
    wait(|| (record(&memory, 0)?.until == NOW + 5 + MINUTE).then_some(()));
}

#[test]
fn while_no_time_is_trusted_nothing_is_written() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 0));
    held(&holder);
    clock.set(0);
    let looks = |number| wait(|| (clock.in_vain.load(Ordering::Relaxed) >= number).then_some(()));
    looks(1);
    let revision = || memory.entries()[&0].revision;
    let before = revision();
    looks(5);
    assert_eq!(revision(), before);
    clock.set(NOW + 9);
    wait(|| (record(&memory, 0)?.until == NOW + 9 + MINUTE).then_some(()));
}

#[test]
fn a_registry_that_was_emptied_is_filled_again() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 5));
    let number = held(&holder).number;
    memory.entries().clear();
    let again = wait(|| record(&memory, number));
    assert_eq!((again.state, again.nonce), (State::Held, held(&holder).nonce));
}

/// Another node writes that it has a lease's number from a time on.
fn rival(memory: &Memory, lease: &Held, floor: i64) -> Record {
    let other = Record {
        node: "b".to_owned(),
        nonce: "other".to_owned(),
        floor,
        until: lease.until + MINUTE,
        updated_at: NOW + 1,
        ..record(memory, lease.number).unwrap()
    };
    write(memory, lease.number, &other);
    other
}

#[test]
fn another_that_follows_leaves_what_is_left_of_the_lease() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 1));
    let first = held(&holder);
    let other = rival(&memory, &first, first.until);
    let followed = wait(|| holder.status().held.filter(|held| held.followed));
    assert_eq!(followed, Held { followed: true, ..first.clone() });
    let second = wait(|| holder.status().held.filter(|held| held.number != first.number));
    assert!(!second.followed);
    assert_eq!(record(&memory, first.number).unwrap(), other);
}

#[test]
fn another_that_uses_the_same_time_ends_the_lease_at_once() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 1));
    let first = held(&holder);
    let other = rival(&memory, &first, first.until - 1);
    let contested = wait(|| Some(holder.status()).filter(|status| status.contested.is_some()));
    let by = Contested { nonce: first.nonce, by: other };
    assert_eq!((contested.contested, contested.held), (Some(by.clone()), None));
    let second = held(&holder);
    assert_ne!(second.number, first.number);
    // For whoever has not looked meanwhile.
    assert_eq!(holder.status().contested, Some(by));
}

#[test]
fn two_that_believe_themselves_the_same_node_get_a_number_each() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let first = clock.holder(&memory, Taker { remembers: true, ..taker("a", 9) });
    let number = held(&first).number;
    // It knows the name, but not the nonce.
    clock.set(NOW + 1);
    let second = clock.holder(&memory, Taker { remembers: true, ..taker("a", 9) });
    let other = held(&second);
    assert_ne!(other.number, number);
    assert_eq!(held(&first).number, number);

    // It knows the nonce as well, and is the later one: the first one has to yield.
    let Held { nonce, until, .. } = held(&first);
    let kept = Some(KeptLease { nonce, until });
    let third = clock.holder(&memory, Taker { remembers: true, kept, ..taker("a", 9) });
    assert_eq!(held(&third).number, number);
    wait(|| first.status().contested.is_some().then_some(()));
    let numbers = [held(&first).number, held(&second).number, held(&third).number];
    assert_eq!(numbers[1..], [other.number, number]);
    assert!(!numbers[1..].contains(&numbers[0]), "{numbers:?}");
}

#[test]
fn a_claim_ends_with_its_holder() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 0));
    wait(|| holder.status().claimed);
    drop(holder);
    wait(|| (record(&memory, 0)?.state == State::Released).then_some(()));
    assert_eq!(record(&memory, 0).unwrap().until, NOW);
    // A lease does not: ids may be generated with it until its end.
    let holder = clock.holder(&memory, taker("b", 0));
    let lease = held(&holder);
    drop(holder);
    let late = clock.holder(&memory, taker("c", 0));
    heartbeats(&late, 2);
    let left = record(&memory, 0).unwrap();
    assert_eq!((left.state, left.nonce), (State::Held, lease.nonce));
}

#[test]
fn a_number_is_given_back_for_another_one() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let mut holder = clock.holder(&memory, taker("a", 9));
    let first = held(&holder);
    holder.another(NOW + 7);
    // At once, whatever the thread is about.
    assert_eq!(holder.status().held, None);
    let second = held(&holder);
    assert_ne!(second.number, first.number);
    let given_back = record(&memory, first.number).unwrap();
    assert_eq!((given_back.state, given_back.until), (State::Released, NOW + 7));

    holder.give_back(&first, NOW + 3);
    wait(|| (record(&memory, first.number)?.until == NOW + 3).then_some(()));
    // Not what is another's by now.
    let other = Record { nonce: "other".to_owned(), ..given_back };
    write(&memory, first.number, &other);
    holder.give_back(&first, NOW + 1);
    holder.release(&second, NOW + 2, Duration::from_secs(30)).unwrap();
    assert_eq!(record(&memory, first.number).unwrap(), other);
    let released = record(&memory, second.number).unwrap();
    assert_eq!((released.state, released.until), (State::Released, NOW + 2));
}

/// As at a stop soon after a start, or after the terms have changed: the node knows its lease, and the
/// holder has not asked for it yet.
#[test]
fn a_lease_is_given_back_that_was_not_found_again() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let first = held(&clock.holder(&memory, taker("a", 0)));
    clock.set(0);
    let again = clock.holder(&memory, taker("a", 0));
    again.release(&first, NOW + 5, Duration::from_secs(30)).unwrap();
    let released = record(&memory, 0).unwrap();
    assert_eq!((released.state, released.until), (State::Released, NOW + 5));
    assert_eq!(again.status().held, None);
}

#[test]
fn ids_that_run_ahead_of_the_clock_have_a_lease_and_end_none() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 0));
    let first = held(&holder);
    clock.ahead.store(2 * MINUTE, Ordering::Relaxed);
    let until = NOW + 3 * MINUTE;
    let later = wait(|| holder.status().held.filter(|held| held.until == until));
    assert_eq!(later, Held { until, ..first });
    assert_eq!(holder.status().claimed, None);
}

#[test]
fn a_lease_that_has_ended_is_claimed_again() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 0));
    let first = held(&holder);
    clock.set(first.until);
    let (number, _) = wait(|| holder.status().claimed);
    assert_eq!((number, held(&holder)), (0, first.clone()));
    let second = wait(|| holder.status().held.filter(|held| held.nonce != first.nonce));
    assert_eq!((second.number, second.floor), (0, first.until));
}

#[test]
fn what_is_the_matter_is_known_since_when() {
    let (memory, clock) = (Memory::default(), Clock::new());
    let holder = clock.holder(&memory, taker("a", 0));
    let lease = held(&holder);
    let late = clock.holder(&memory, taker("b", 0));
    let trouble = wait(|| late.status().trouble);
    assert_eq!(trouble.since, NOW);
    assert_eq!(trouble.error, Error::Exhausted { range: 0..=0, alive: 1, free_at: None });
    clock.set(NOW + 1);
    heartbeats(&late, 2);
    assert_eq!(late.status().trouble.unwrap().since, NOW);
    holder.release(&lease, NOW, Duration::from_secs(30)).unwrap();
    assert_eq!(held(&late).number, 0);
    assert_eq!(late.status().trouble, None);
}

#[test]
fn a_server_that_never_answers_holds_up_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = silent.local_addr().unwrap();
    for address in [
        format!("etcd://{place}/a"),
        format!("zookeeper://{place}/a"),
        format!("postgres://u@{place}/a"),
    ] {
        let provider = Address::parse(&address).unwrap().provider(TERMS);
        let holder =
            Holder::start(provider, taker("a", 0), TERMS, || Some(Now { wall: NOW, ids: NOW }))
                .unwrap();
        // The end of a server waits for so long, whatever the holder waits for.
        let nonce = "nonce".to_owned();
        let lease = Held { number: 0, floor: NOW, until: NOW + MINUTE, nonce, followed: false };
        let unanswered = Error::unreachable("the registry", "no answer in time");
        let released = holder.release(&lease, NOW, Duration::from_millis(10));
        assert_eq!(released, Err(unanswered));
        let provider = Address::parse(&address).unwrap().provider(TERMS);
        let holder =
            Holder::start(provider, taker("a", 0), TERMS, || Some(Now { wall: NOW, ids: NOW }))
                .unwrap();
        let trouble = wait(|| holder.status().trouble);
        let Error::Unreachable { why, .. } = trouble.error else { panic!("{trouble:?}") };
        // ZooKeeper's client gives up sooner, with such short sessions.
        let accepts = "it accepts connections and does not answer";
        assert!(["no answer within 3 s", accepts].contains(&&*why), "{why}");
    }
}

#[test]
fn an_objection_is_not_for_ever() {
    let (memory, clock, late) = (Memory::default(), Clock::new(), Clock::new());
    let first = clock.holder(&memory, taker("a", 0));
    let lease = held(&first);
    // The registry forgets, and another one is faster than the next heartbeat.
    clock.set(0);
    wait(|| (clock.in_vain.load(Ordering::Relaxed) > 0).then_some(()));
    memory.entries().clear();
    let second = late.holder(&memory, taker("b", 0));
    wait(|| second.status().claimed);
    clock.set(NOW + 1);
    wait(|| second.status().trouble);
    assert_eq!(second.status().held, None);
    assert_eq!(record(&memory, 0).unwrap().nonce, lease.nonce);
    first.release(&lease, NOW, Duration::from_secs(30)).unwrap();
    assert_eq!(held(&second).number, 0);
}
