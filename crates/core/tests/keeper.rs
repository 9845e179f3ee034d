//! The keeper's decisions, look by look, in a server that exists only here.
#![allow(missing_docs, clippy::unwrap_used)]

use snowflake_core::keeper::{
    Counted, Failure, Home, Keeper, Notice, Order, Outcome, Reading, Settings, Shown, State, World,
};
use snowflake_core::reserved::at_once;
use snowflake_core::tenancy::{Asked, Held, KeptLease, LeaseStatus, Now, Terms, Trouble};
use snowflake_core::window::{NodeName, Number, Record, before_an_upgrade};
use snowflake_core::{Allocator, Claim, Clock, Layout};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const SECOND: i64 = 1_000_000;
/// Some moment.
const NOW: i64 = 1_800_000_000 * SECOND;
/// How long a lease lasts here.
const LEASE: i64 = 10 * SECOND;

/// A server with one table and a registry that gives what it is asked for.
#[derive(Default)]
struct Server {
    allocator: Allocator,
    settings: Option<Settings>,
    records: Vec<Record>,
    /// The time that leases are renewed by.
    now: Option<Now>,
    /// What is leased, and of which registry.
    lease: Option<(String, Held)>,
    verdict: Option<State>,
    /// When the lease ends, as it is shown.
    leased_until: Option<i64>,
    log: Vec<String>,
    /// What is wanted of it, and what became of the last that was.
    order: Option<Order>,
    outcome: Option<Outcome>,
    /// Whether its disk is full.
    full: bool,
    /// Whether nobody waits for ids.
    idle: bool,
    /// How often the cluster has been promoted.
    promotions: u32,
    /// Whether the registry is out of reach, and has not been heard of.
    silent: bool,
    /// What is the matter with the registry, which has been heard of.
    trouble: Option<Trouble>,
    /// What was given back at the end, and from when on others may have it.
    released: Rc<RefCell<Vec<(u64, i64)>>>,
}

impl World for Server {
    fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    fn settings(&self) -> Settings {
        self.settings.clone().unwrap()
    }

    async fn home(&mut self) -> Result<Home, Failure> {
        Ok(Home {
            name: NodeName { cluster: "1".to_owned(), fingerprint: "2".to_owned() },
            host: String::new(),
            data_directory: String::new(),
            timeline: 1 + self.promotions,
        })
    }

    async fn records(&mut self) -> Result<Vec<Record>, Failure> {
        Ok(self.records.clone())
    }

    async fn write(&mut self, record: &Record) -> Result<(), Failure> {
        if self.full {
            return Err(Failure::Failed("full".to_owned()));
        }
        self.records.retain(|other| other.node != record.node);
        self.records.insert(0, record.clone());
        Ok(())
    }

    async fn amend(
        &mut self,
        _node: &NodeName,
        lease: Option<&KeptLease>,
        drained: bool,
    ) -> Result<bool, Failure> {
        for record in &mut self.records {
            (record.lease, record.drained) = (lease.cloned(), drained);
        }
        Ok(!self.records.is_empty())
    }

    fn hurry(&mut self) {}

    fn is_asked(&self) -> bool {
        !self.idle
    }

    fn take_order(&mut self) -> Option<Order> {
        self.order.take()
    }

    fn answer_order(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }

    fn trust(&mut self, now: Option<Now>) {
        self.now = now;
    }

    fn follow(
        &mut self,
        asked: &Asked,
        _home: &Home,
        _kept: Option<&KeptLease>,
        _remembers: bool,
    ) -> Result<LeaseStatus, String> {
        if self.silent {
            return Ok(self.lease());
        }
        let now = self.now.unwrap().wall;
        let fresh = || Held {
            number: asked.base + asked.range.start(),
            floor: now,
            until: now,
            nonce: "nonce".to_owned(),
            followed: false,
        };
        let before = self.lease.take().filter(|(registry, _)| *registry == asked.registry);
        let (_, held) = before.unwrap_or_else(|| (asked.registry.clone(), fresh()));
        self.lease = Some((asked.registry.clone(), Held { until: now + LEASE, ..held }));
        Ok(self.lease())
    }

    fn lease(&self) -> LeaseStatus {
        if self.silent {
            let trouble = Some(Trouble { since: NOW, why: "no answer".to_owned() });
            return LeaseStatus { trouble, ..LeaseStatus::default() };
        }
        let held = self.lease.as_ref().map(|(_, held)| held.clone());
        let trouble = self.trouble.clone();
        LeaseStatus { held, trouble, answered: true, ..LeaseStatus::default() }
    }

    fn another(&mut self, _last: i64) {}

    fn give_back(&mut self, _held: &Held, _last: i64) {}

    fn let_go(&mut self) {
        self.lease = None;
    }

    async fn release(&mut self, held: &Held, until: i64, _at_most: Duration) -> Result<(), String> {
        self.released.borrow_mut().push((held.number, until));
        Ok(())
    }

    fn show(&mut self, what: Shown<'_>) {
        match what {
            Shown::Verdict(verdict) => self.verdict = Some(verdict.state),
            Shown::Lease(status) => {
                self.leased_until = status.held.as_ref().map(|held| held.until);
            }
            _ => (),
        }
    }

    fn log(&mut self, notice: Notice<'_>) {
        self.log.push(match notice {
            Notice::Ready(number) => format!("ready with {}", number.worker_id.unwrap()),
            Notice::Stopped(verdict) => format!("no ids: {}", verdict.state.word()),
            Notice::SettingsNotUsed(verdict) => format!("as it was: {}", verdict.state.word()),
            Notice::LeaseNotRenewed { trouble, .. } => format!("not renewed: {}", trouble.why),
            notice => format!("{notice:?}"),
        });
    }

    fn count(&mut self, _what: Counted, _by: u64) {}
}

/// A keeper, and the wall clock.
struct Node {
    keeper: Keeper<Server>,
    layout: Layout,
    now: i64,
}

impl Node {
    fn new(layout: &str, settings: Settings) -> Self {
        let layout = Layout::parse(layout, None).unwrap();
        let server = Server { settings: Some(settings), ..Server::default() };
        let keeper = Keeper::new(server, layout, "boot".to_owned());
        Self { keeper, layout, now: NOW }
    }

    fn server(&mut self) -> &mut Server {
        self.keeper.world()
    }

    fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        change(self.server().settings.as_mut().unwrap());
    }

    /// Some looks, a second apart: the state after the last, and what was logged.
    fn looks(&mut self, count: u32) -> (State, Vec<String>) {
        for _ in 0..count {
            self.now += SECOND;
            let reading = Reading { now: self.now, booted_at: 0, estimate: None };
            at_once(self.keeper.look(&reading)).unwrap();
        }
        let server = self.server();
        (server.verdict.unwrap(), std::mem::take(&mut server.log))
    }

    /// The end in peace: what was given back, and from when on others may have it.
    fn stop(mut self) -> Vec<(u64, i64)> {
        let released = Rc::clone(&self.server().released);
        let reading = Reading { now: self.now, booted_at: 0, estimate: None };
        at_once(self.keeper.close(&reading)).unwrap();
        released.take()
    }

    /// The number that ids are issued with now; none where there is no window for now.
    fn issues_with(&mut self) -> Option<u64> {
        let (layout, now) = (self.layout, self.now);
        let position = self.server().allocator.position(&layout);
        let now = layout.first_slot(layout.tick_at(now).unwrap());
        (position.limit > now).then_some(position.node)
    }
}

fn settings() -> Settings {
    Settings {
        worker_id: None,
        datacenter_id: None,
        registry: None,
        range: 0..=1023,
        terms: Terms { duration: Duration::from_secs(10), heartbeat: Duration::from_secs(1) },
        reservation: 2_000_000,
        max_ahead: 0,
        max_wait: 5_000,
        promotion_guard: 0,
        max_clock_jump: None,
        max_clock_error: None,
        refuse_copy: false,
    }
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

#[test]
fn a_bad_reload_leaves_a_running_node_with_its_lease() {
    let leased = Settings { registry: Some("here".to_owned()), range: 7..=9, ..settings() };
    let mut node = Node::new("default", leased);
    assert_eq!(node.looks(2), (State::Ready, lines(&["ready with 7"])));
    assert_eq!(node.issues_with(), Some(7));

    // Longer than the lease was then: it is renewed.
    node.set(|settings| settings.worker_id = Some(5));
    assert_eq!(node.looks(30), (State::Ready, lines(&["as it was: two_sources"])));
    assert_eq!(node.issues_with(), Some(7));
    assert!(node.server().lease.as_ref().unwrap().1.until > NOW + 30 * SECOND);

    // Put right, and made wrong again: that is said again.
    node.set(|settings| settings.worker_id = None);
    assert_eq!(node.looks(2), (State::Ready, vec![]));
    node.set(|settings| settings.worker_id = Some(5));
    assert_eq!(node.looks(2), (State::Ready, lines(&["as it was: two_sources"])));
    // Decided.
    node.set(|settings| settings.registry = None);
    assert_eq!(node.looks(4), (State::Ready, lines(&["ready with 5"])));
    assert_eq!(node.issues_with(), Some(5));
}

#[test]
fn a_bad_reload_leaves_a_running_node_with_its_worker_id() {
    let set = Settings { worker_id: Some(5), datacenter_id: Some(1), ..settings() };
    let mut node = Node::new("twitter", set);
    assert_eq!(node.looks(2), (State::Ready, lines(&["ready with 5"])));
    let number = node.issues_with();
    assert!(number.is_some());
    node.set(|settings| settings.datacenter_id = None);
    assert_eq!(node.looks(30), (State::Ready, lines(&["as it was: no_datacenter_id"])));
    assert_eq!(node.issues_with(), number);
    // That it is to have none is no slip.
    node.set(|settings| settings.worker_id = None);
    assert_eq!(node.looks(2), (State::NoWorkerId, lines(&["no ids: no_worker_id"])));
    assert_eq!(node.issues_with(), None);
}

#[test]
fn by_bad_settings_no_node_starts() {
    let both = Settings { worker_id: Some(5), registry: Some("here".to_owned()), ..settings() };
    let mut node = Node::new("default", both);
    assert_eq!(node.looks(3), (State::TwoSources, lines(&["no ids: two_sources"])));
    assert_eq!(node.issues_with(), None);
    let half = Settings { worker_id: Some(5), ..settings() };
    let mut node = Node::new("twitter", half);
    assert_eq!(node.looks(3), (State::NoDatacenterId, lines(&["no ids: no_datacenter_id"])));
    assert_eq!(node.issues_with(), None);
}

/// A lease is given back whether the registry has been heard of since the terms changed or not; and not
/// sooner than the record on disk, by which the node may go on with it, says that it ends.
#[test]
fn a_stop_gives_back_the_lease_that_the_node_knows_of() {
    let leased = Settings { registry: Some("here".to_owned()), range: 7..=9, ..settings() };
    let ready = || {
        let mut node = Node::new("default", leased.clone());
        assert_eq!(node.looks(2), (State::Ready, lines(&["ready with 7"])));
        node
    };
    let node = ready();
    let back = node.now + 5 * SECOND;
    assert_eq!(node.stop(), [(7, back)]);

    let mut node = ready();
    node.server().silent = true;
    node.looks(1);
    assert_eq!(node.issues_with(), Some(7));
    let back = node.now + 5 * SECOND;
    assert_eq!(node.stop(), [(7, back)]);

    // What the disk says of it, stands.
    let mut node = ready();
    let on_disk = node.server().records[0].lease.as_ref().unwrap().until;
    node.server().full = true;
    assert!(on_disk > node.now + 5 * SECOND);
    assert_eq!(node.stop(), [(7, on_disk)]);

    // Nobody knows what it says.
    let mut node = ready();
    node.server().full = true;
    node.looks(2);
    let end = node.server().lease.as_ref().unwrap().1.until;
    assert_eq!(node.stop(), [(7, end)]);
}

/// Three heartbeats long nobody need know. Then it is said once, whatever the registry's next errors are; and
/// that it has passed, if it was said.
#[test]
fn a_lease_that_is_not_renewed_is_said_before_it_ends() {
    let leased = Settings { registry: Some("here".to_owned()), range: 7..=9, ..settings() };
    let mut node = Node::new("default", leased);
    assert_eq!(node.looks(2), (State::Ready, lines(&["ready with 7"])));
    let trouble = |since, why: &str| Some(Trouble { since, why: why.to_owned() });
    let since = node.now;
    node.server().trouble = trouble(since, "no answer");
    assert_eq!(node.looks(2), (State::Ready, vec![]));
    assert_eq!(node.looks(1), (State::Ready, lines(&["not renewed: no answer"])));
    node.server().trouble = trouble(since, "refused");
    assert_eq!(node.looks(30), (State::Ready, vec![]));
    node.server().trouble = None;
    assert_eq!(node.looks(1), (State::Ready, lines(&["LeaseRenewed"])));
    node.server().trouble = trouble(node.now, "no answer");
    node.looks(2);
    node.server().trouble = None;
    assert_eq!(node.looks(2), (State::Ready, vec![]));

    // Also of the lease on its own disk, by which it has been started again; its end is seen like another's.
    node.server().silent = true;
    assert_eq!(node.looks(1), (State::Ready, lines(&["not renewed: no answer"])));
    let on_disk = node.server().records[0].lease.as_ref().unwrap().until;
    assert_eq!(node.server().leased_until, Some(on_disk));
}

#[test]
fn a_clock_of_which_nothing_is_known_is_no_bad_one() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    assert_eq!(node.looks(2), (State::Ready, lines(&["ready with 5"])));
    // But it is to be known.
    node.set(|settings| settings.max_clock_error = Some(1_000_000));
    assert_eq!(node.looks(2), (State::ClockUnknown, lines(&["no ids: clock_unknown"])));
}

impl Node {
    /// Has a floor set by the next look: what became of that.
    fn set_floor(&mut self, id: i64) -> Outcome {
        self.server().outcome = None;
        self.server().order = Some(Order::SetFloor(id));
        self.looks(1);
        self.server().outcome.unwrap()
    }

    /// The least id that can be issued from now on, and the mark of the record.
    fn next_and_mark(&mut self) -> (i64, i64) {
        let layout = self.layout;
        let position = self.server().allocator.position(&layout);
        (layout.id(position.node, position.cursor), self.server().records[0].reserved_until)
    }

    /// The keeper of a server that has been started again after a crash, with what is on disk.
    fn crash(mut self) -> Self {
        let settings = self.server().settings.clone().unwrap();
        let records = std::mem::take(&mut self.server().records);
        let server = Server { settings: Some(settings), records, ..Server::default() };
        let keeper = Keeper::new(server, self.layout, "boot".to_owned());
        Self { keeper, ..self }
    }
}

#[test]
fn a_floor_holds_for_a_node_that_runs_and_after_a_crash() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    node.looks(2);
    // Below where its ids are, nothing changes: what has been open goes on.
    let (next, _) = node.next_and_mark();
    assert_eq!(node.set_floor(next - 1 - (1 << 22)), Outcome::Done);
    assert_eq!(node.next_and_mark().0, next);
    // An id of a node with another worker id, three seconds ahead.
    let floor = node.layout.lower_bound(node.now + 3 * SECOND) + (900 << 12);
    assert_eq!(node.set_floor(floor), Outcome::Done);
    assert_eq!(node.looks(3).0, State::Ready);
    assert!(node.next_and_mark().0 > floor);
    // At once after it was ordered, there is a crash.
    let floor = node.layout.lower_bound(node.now + 3 * SECOND);
    assert_eq!(node.set_floor(floor), Outcome::Done);
    assert!(node.next_and_mark().1 > floor);
    let mut node = node.crash();
    node.set(|settings| settings.worker_id = Some(3));
    node.looks(4);
    assert_eq!(node.issues_with(), Some(3));
    assert!(node.next_and_mark().0 > floor);
}

#[test]
fn a_floor_holds_while_another_worker_id_waits() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    node.looks(2);
    // Another node had worker id 7, and issued ids by a clock that is ahead.
    let (layout, ahead) = (node.layout, node.now + 3 * SECOND);
    let mark = layout.id(7, layout.first_slot(layout.tick_at(ahead).unwrap()));
    let name = NodeName { cluster: "9".to_owned(), fingerprint: "9".to_owned() };
    let number = Number { datacenter_id: None, worker_id: Some(7) };
    let own = node.server().records[0].clone();
    node.server().records.push(Record { node: name, reserved_until: mark, number, ..own });
    node.set(|settings| settings.worker_id = Some(7));
    node.looks(1);
    assert_eq!(node.issues_with(), Some(5));
    // What was read then says nothing of the floor.
    let floor = layout.lower_bound(node.now + 5 * SECOND);
    assert_eq!(node.set_floor(floor), Outcome::Done);
    for _ in 0..8 {
        node.looks(1);
        assert!(node.issues_with().is_none() || node.next_and_mark().0 > floor);
    }
    assert_eq!(node.issues_with(), Some(7));
}

#[test]
fn a_floor_is_set_before_the_first_id() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    let floor = node.layout.lower_bound(NOW + 5 * SECOND);
    assert_eq!(node.set_floor(floor), Outcome::Done);
    assert!(node.next_and_mark().1 > floor);
    let mut node = node.crash();
    node.looks(6);
    assert_eq!(node.issues_with(), Some(5));
    assert!(node.next_and_mark().0 > floor);
}

#[test]
fn a_floor_that_cannot_be_written_is_refused() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    node.looks(2);
    let floor = node.layout.lower_bound(node.now + 2 * SECOND);
    node.server().full = true;
    assert_eq!(node.set_floor(floor), Outcome::Refused);
    // It waits for what was reserved before, and then cannot go on.
    assert_eq!(node.looks(4).0, State::CannotReserve);
    node.server().full = false;
    assert_eq!(node.looks(4).0, State::Ready);
}

/// A primary was drained, its standby took over, and it again: between the two, only the newest record says
/// after an upgrade whether it is drained.
#[test]
fn a_drained_node_that_is_promoted_again_has_the_last_word() {
    let promoted = |issued: bool| {
        let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
        if issued {
            node.looks(2);
        }
        node.server().order = Some(Order::Drain);
        node.looks(1);
        let own = node.server().records[0].clone();
        let (name, until) =
            (NodeName { fingerprint: "9".to_owned(), ..own.node.clone() }, node.now);
        let theirs = node.layout.lower_bound(until + 3 * SECOND);
        let sibling = Record { node: name, reserved_until: theirs, timeline: 2, ..own.clone() };
        node.server().records.push(Record { drained: false, updated_at: until, ..sibling });
        let mut node = node.crash();
        node.server().promotions = 2;
        assert_eq!(node.looks(1).0, State::Drained);
        (node, own, theirs)
    };
    for issued in [false, true] {
        let (mut node, own, theirs) = promoted(issued);
        let records = node.server().records.clone();
        assert_eq!((records[0].node.clone(), records[0].timeline), (own.node, 3));
        assert!(before_an_upgrade(&records, "").unwrap().last.drained);
        // What it says of ids is above all of both.
        assert_eq!(records[0].has_mark(), issued);
        assert!(!issued || records[0].reserved_until >= theirs);
        node.server().order = Some(Order::Resume);
        assert_eq!(node.looks(5).0, State::Ready);
        assert!(!before_an_upgrade(&node.server().records, "").unwrap().last.drained);
        assert!(node.next_and_mark().0 >= theirs);
    }
}

/// Nobody asks for ids, so that nothing else would write anything, or fail to.
#[test]
fn a_drain_that_failed_before_the_first_id_is_not_forgotten() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    (node.server().idle, node.server().full) = (true, true);
    node.server().order = Some(Order::Drain);
    assert_eq!(node.looks(1).0, State::CannotReserve);
    assert_eq!(node.server().outcome, Some(Outcome::Refused));
    assert_eq!(node.looks(2).0, State::CannotReserve);
    node.server().full = false;
    assert_eq!(node.looks(1).0, State::Ready);
    // It may have been written all the same: now that is over.
    assert!(!node.server().records[0].drained);
}

/// A clock that stands still.
struct At(i64);

impl Clock for At {
    fn now(&self) -> i64 {
        self.0
    }
}

/// A record is written slowly, and ids are issued meanwhile: their times are after the keeper's look at the clock.
#[test]
fn ids_of_while_it_looked_are_not_ahead_of_the_clock() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    assert_eq!(node.looks(2), (State::Ready, lines(&["ready with 5"])));
    let (layout, later) = (node.layout, node.now + SECOND + 50_000);
    let claim = node.server().allocator.claim(&layout, &At(later), 1, 0);
    assert!(matches!(claim, Claim::Ready(_)), "{claim:?}");
    assert_eq!(node.looks(2), (State::Ready, lines(&[])));
}

#[test]
fn a_clock_that_falls_behind_is_said_once() {
    let mut node = Node::new("default", Settings { worker_id: Some(5), ..settings() });
    assert_eq!(node.looks(2), (State::Ready, lines(&["ready with 5"])));
    let (layout, now) = (node.layout, node.now);
    let claim = node.server().allocator.claim(&layout, &At(now), 1, 0);
    assert!(matches!(claim, Claim::Ready(_)), "{claim:?}");

    node.now -= 10 * SECOND;
    assert_eq!(node.looks(3), (State::ClockFellBehind, lines(&["no ids: clock_behind"])));
    // By itself again; and the next time it is said again.
    assert_eq!(node.looks(7), (State::Ready, lines(&["ready with 5"])));
    node.now -= 3 * SECOND;
    assert_eq!(node.looks(1), (State::ClockFellBehind, lines(&["no ids: clock_behind"])));
    // What calls wait for is none.
    node.set(|settings| settings.max_wait = 3_600_000_000);
    assert_eq!(node.looks(1), (State::Ready, lines(&["ready with 5"])));
}
