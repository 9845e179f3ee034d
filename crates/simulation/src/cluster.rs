//! All nodes, and what happens to them.

use crate::chance::Chance;
use crate::data::Data;
use crate::judge::{Judge, seconds};
use crate::machine::{BEGIN, Machine};
use crate::network::{Link, Network, Way};
use crate::node::{Disk, Lead, Node, Role, Server, Signals};
use crate::plan::{Admitted, Event, Fault, Plan, World};
use crate::time;
use snowflake_core::keeper::{Order, Outcome, Settings, State};
use snowflake_core::tenancy::Terms;
use snowflake_core::window::{NodeName, Number, Record};
use snowflake_core::{Layout, window};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// The whole.
pub struct Cluster {
    /// The layout of all ids.
    pub layout: Layout,
    /// All nodes that there have been.
    pub nodes: RefCell<Vec<Rc<Node>>>,
    /// The registry and the ways to it.
    pub network: Arc<Network>,
    /// What has been seen.
    pub judge: RefCell<Judge>,
    /// The last two numbers that each node has recorded: nobody opens a window of another one.
    pub(crate) numbers: RefCell<Vec<[u64; 2]>>,
    pub(crate) moved: Notify,
    pub(crate) broken: Notify,
    history: RefCell<Vec<String>>,
    verbose: bool,
    pub(crate) world: World,
    chance: RefCell<Chance>,
    /// Of nodes whose synchronous standby has been promoted: they never commit again.
    lost: RefCell<Vec<usize>>,
    /// Faults that took place, by kind.
    pub faults: RefCell<BTreeMap<&'static str, u64>>,
    names: Cell<u64>,
    /// How many nodes have begun as standbys.
    standbys: Cell<usize>,
    /// Nothing happens until then.
    quiet_until: Cell<i64>,
    /// Servers that were started and could issue ids: of which node, when they were started, and how long
    /// that took; virtual microseconds.
    pub joined: RefCell<Vec<(usize, i64, i64)>>,
}

const SECOND: i64 = 1_000_000;
/// How long a call to the registry takes at most, each way: where all is well; and where a stop in order
/// still has time to give a lease back, though it may have to try twice. Microseconds.
const FAST: u64 = 2_000;
const NOT_FAST: u64 = 100_000;
/// The layout's first number that no registry leases.
const STATIC: u32 = 32;
/// Numbers that one family may be given by hand.
const POOL: u32 = 4;

impl Cluster {
    /// A cluster as a seed has it; nothing runs yet.
    pub fn new(plan: &Plan, verbose: bool) -> Rc<Self> {
        let (world, cluster) = (plan.world, Self::without_nodes(plan, verbose));
        for _ in 0..world.nodes {
            let (primary, family) = cluster.add_primary();
            if cluster.one_in(2) && cluster.nodes.borrow().len() < world.nodes as usize {
                let synchronous = cluster.one_in(2);
                let standby = cluster.add_standby(&primary, family, synchronous);
                // One that is not there yet may never hear of the first record.
                if !synchronous && cluster.one_in(2) {
                    standby.connected.set(false);
                    let micros = cluster.chance.borrow_mut().below(120 * SECOND as u64);
                    cluster.later(micros, move |cluster| cluster.connect(&standby));
                }
            }
            if cluster.nodes.borrow().len() >= world.nodes as usize {
                break;
            }
        }
        cluster
    }

    /// The same, to which nodes are added as somebody likes.
    pub(crate) fn without_nodes(plan: &Plan, verbose: bool) -> Rc<Self> {
        let world = plan.world;
        let layout = Layout::parse(world.layout, Some(BEGIN - 3_600 * SECOND));
        let layout = layout.expect("a layout");
        Rc::new(Self {
            layout,
            nodes: RefCell::default(),
            network: Arc::default(),
            judge: RefCell::new(Judge::new(layout)),
            numbers: RefCell::default(),
            moved: Notify::new(),
            broken: Notify::new(),
            history: RefCell::default(),
            verbose,
            world,
            chance: RefCell::new(Chance::part(plan.seed, 1)),
            lost: RefCell::default(),
            faults: RefCell::default(),
            names: Cell::new(0),
            standbys: Cell::new(0),
            quiet_until: Cell::new(0),
            joined: RefCell::default(),
        })
    }

    fn one_in(&self, times: u64) -> bool {
        self.chance.borrow_mut().one_in(times)
    }

    pub(crate) fn next(&self) -> u64 {
        self.chance.borrow_mut().next()
    }

    fn add(self: &Rc<Self>, data: Data, settings: Settings, role: Role) -> Rc<Node> {
        let index = self.nodes.borrow().len();
        let mut chance = Chance::new(self.next());
        let offset = chance.between(-200_000, 200_000);
        let drift = chance.between(-50, 50);
        let machine =
            Machine { offset, jump: 0, drift, booted: time() - 1000 * SECOND, boot: chance.next() };
        let link = Arc::new(Mutex::new(Link::new(Chance::new(chance.next()))));
        let (network, writes) = (Arc::clone(&self.network), Arc::default());
        let way = Way { network, link, time, writes };
        let node = Rc::new(Node {
            index,
            letter: letter(index),
            cluster: Rc::downgrade(self),
            machine: RefCell::new(machine),
            data: RefCell::new(data),
            settings: RefCell::new(settings),
            role: Cell::new(role),
            server: RefCell::default(),
            disk: Cell::new(Disk { locked: false, latency: 5_000, fails: 0 }),
            way,
            frozen: Cell::new(false),
            connected: Cell::new(true),
            replayed: Cell::new(0),
            chance: RefCell::new(chance),
            last_id: Cell::new(-1),
            issued: RefCell::default(),
            drained: Cell::new(false),
            resumed: Cell::new(0),
            floor: Cell::new(-1),
            floor_wanted: Cell::new(-1),
            issued_at: Cell::new(i64::MIN),
            windows: Cell::new(0),
            refused: Cell::new(""),
            failures: Cell::new(0),
            accepted: Cell::new(0),
            begun_at: Cell::new(i64::MIN),
            attempted: Cell::new(0),
        });
        self.nodes.borrow_mut().push(Rc::clone(&node));
        self.numbers.borrow_mut().push([u64::MAX; 2]);
        node
    }

    fn fresh(&self) -> u64 {
        self.names.set(self.names.get() + 1);
        self.names.get() * 0x1_0001
    }

    /// A node of its own, and the first of the numbers that its family may be given by hand.
    pub(crate) fn add_primary(self: &Rc<Self>) -> (Rc<Node>, u32) {
        let twins = self.world.admitted == Some(Admitted::Twins);
        let place = if twins { 0 } else { self.nodes.borrow().len() as u32 };
        let family = STATIC + place * POOL;
        let data = Data::new(self.fresh(), self.fresh());
        let settings = self.settings(family);
        (self.add(data, settings, Role::Primary), family)
    }

    fn add_standby(
        self: &Rc<Self>,
        primary: &Rc<Node>,
        family: u32,
        synchronous: bool,
    ) -> Rc<Node> {
        self.standbys.set(self.standbys.get() + 1);
        let mut data = primary.data.borrow().clone();
        data.fingerprint = self.fresh();
        data.marks.clear();
        let mut settings = self.settings(family);
        // A standby has the files of its primary, more or less.
        let theirs = primary.settings.borrow();
        settings.max_ahead = theirs.max_ahead;
        if settings.worker_id.is_some() && self.one_in(3) {
            settings.worker_id = Some(family + (self.next() % u64::from(POOL)) as u32);
        }
        drop(theirs);
        let replayed = data.commits;
        let of = primary.index;
        let standby = self.add(data, settings, Role::Standby { of, synchronous });
        standby.replayed.set(replayed);
        // Clocks of a pair agree, or failover rests on the guard.
        let apart = match self.world.admitted {
            Some(Admitted::SlowStandby) => (-15 * SECOND, -2 * SECOND),
            _ => (-300_000, 300_000),
        };
        standby.machine.borrow_mut().offset = primary.machine.borrow().offset
            + standby.throw(|chance| chance.between(apart.0, apart.1));
        standby
    }

    fn settings(&self, family: u32) -> Settings {
        let mut chance = self.chance.borrow_mut();
        let leased = match self.world.leased {
            0 => false,
            1 => true,
            _ => chance.one_in(2),
        };
        Settings {
            worker_id: (!leased).then_some(family),
            datacenter_id: None,
            registry: leased.then(|| "simulated".to_owned()),
            range: 0..=u64::from(self.world.range - 1),
            terms: Terms {
                duration: Duration::from_secs(self.world.lease),
                heartbeat: Duration::from_secs(10),
            },
            reservation: chance.pick(&[300_000, 1_000_000, 1_000_000, 3_000_000]),
            max_ahead: chance.pick(&[0, 0, 1_000_000, 10_000_000]),
            max_wait: crate::client::MAX_WAIT,
            promotion_guard: 1_000_000,
            max_clock_jump: Some(30_000_000),
            max_clock_error: None,
            refuse_copy: false,
        }
    }

    /// A node records a number.
    pub(crate) fn records(&self, node: &Node, number: u64) {
        let [last, before] = &mut self.numbers.borrow_mut()[node.index];
        if *last != number {
            *before = std::mem::replace(last, number);
        }
    }

    /// Those that follow a node.
    pub fn followers(&self, of: usize) -> Vec<Rc<Node>> {
        if self.standbys.get() == 0 {
            return Vec::new();
        }
        let nodes = self.nodes.borrow();
        let follows = |node: &&Rc<Node>| matches!(node.role.get(), Role::Standby { of: whom, .. } if whom == of);
        nodes.iter().filter(follows).cloned().collect()
    }

    pub(crate) fn lost_synchronous(&self, index: usize) -> bool {
        self.lost.borrow().contains(&index)
    }

    pub(crate) fn lag(&self, standby: &Node) -> u64 {
        standby.throw(
            |chance| if chance.one_in(10) { chance.below(500_000) } else { chance.below(5_000) },
        )
    }

    pub(crate) const fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Something that happened, for the history.
    pub fn note(&self, what: &str) {
        let history = self.history.borrow();
        // What goes on is said once.
        let is_new = !history.last().is_some_and(|last| last.ends_with(&format!(": {what}")));
        if self.verbose && is_new {
            drop(history);
            self.history.borrow_mut().push(format!("{}: {what}", seconds(time())));
        }
    }

    /// What happened.
    pub fn history(&self) -> Vec<String> {
        self.history.borrow().clone()
    }

    /// Something is wrong. Where a duplicate is to be found, nothing less shall be.
    pub fn found(&self, what: &str) {
        if self.world.admitted.is_some() {
            return;
        }
        self.judge.borrow_mut().found(what);
        self.broken.notify_one();
    }

    /// A session got ids.
    pub fn issued(&self, node: &Rc<Node>, server: &Server, first: i64, last: i64, in_order: bool) {
        let layout = &self.layout;
        let Ok(from) = layout.unpack(first) else {
            return self.found(&format!("{first} is no id"));
        };
        let number = layout.node(from.datacenter, from.worker).unwrap_or(u64::MAX);
        let slot = |id| layout.slot_of(id).unwrap_or(0);
        let (begin, end) = (slot(first), slot(last) + 1);
        let clock = node.wall();
        node.lead(clock, node.settings.borrow().max_ahead);
        node.issued_at.set(time());
        self.judge.borrow_mut().issued(&node.letter, number, begin, end, time());
        let mark = node.data.borrow().marks.get(&number).copied().unwrap_or(0);
        if end > mark {
            self.found(&format!(
                "node {} issued id {last} at {}, and no record of worker id {number} is above it",
                node.letter,
                seconds(time()),
            ));
        }
        if in_order && first <= node.last_id.get() {
            self.found(&format!(
                "node {} issued id {first} (worker id {number}) at {} after id {}",
                node.letter,
                seconds(time()),
                node.last_id.get(),
            ));
        }
        node.last_id.set(node.last_id.get().max(last));
        if node.drained.get() {
            self.found(&format!(
                "node {} issued id {first} at {}, and is drained",
                node.letter,
                seconds(time()),
            ));
        }
        if first <= node.floor.get() {
            self.found(&format!(
                "node {} issued id {first} at {}, and its floor is {}",
                node.letter,
                seconds(time()),
                node.floor.get(),
            ));
        }
        // A clock that jumped by days is believed only where somebody said so.
        let ahead = window::time_of_slot(layout, begin) - BEGIN - time();
        if ahead > 600 * SECOND + node.accepted.get() {
            self.found(&format!(
                "node {} issued id {first} at {}, by a clock that jumped and was not accepted",
                node.letter,
                seconds(time()),
            ));
        }
        // A leased number is used within what the registry was ever told.
        let time_of = |slot| window::time_of_slot(layout, slot);
        if number < u64::from(STATIC.max(self.world.range))
            && !self.network.registry().allows(number, time_of(begin), time_of(end - 1))
        {
            self.found(&format!(
                "node {} issued id {last} at {}, and no lease of worker id {number} is for its time",
                node.letter,
                seconds(time()),
            ));
        }
        // Nobody else may issue from here on with the same number.
        let (nodes, numbers) = (self.nodes.borrow(), self.numbers.borrow());
        let same = numbers.iter().zip(nodes.iter()).filter(|(last, _)| last.contains(&number));
        for (_, other) in same {
            let Some(theirs) = &*other.server.borrow() else { continue };
            if std::ptr::eq(&raw const **theirs, server) {
                continue;
            }
            let position = theirs.allocator.position(layout);
            let open = position.node == number && position.limit > position.cursor;
            let mine = server.allocator.position(layout);
            let mine_open = mine.node == number && mine.limit > mine.cursor;
            if open && mine_open && position.cursor < mine.limit && mine.cursor < position.limit {
                self.found(&format!(
                    "nodes {} and {} both may issue ids of worker id {number} from slot {} on, at {}",
                    node.letter,
                    other.letter,
                    position.cursor.max(mine.cursor),
                    seconds(time()),
                ));
            }
        }
        if self.judge.borrow().violation.is_some() {
            self.broken.notify_one();
        }
    }

    fn count(&self, kind: &'static str) {
        *self.faults.borrow_mut().entry(kind).or_default() += 1;
    }

    fn node(&self, choice: u64, which: impl Fn(&Node) -> bool) -> Option<Rc<Node>> {
        let nodes = self.nodes.borrow();
        let fit: Vec<_> = nodes.iter().filter(|node| which(node)).collect();
        (!fit.is_empty()).then(|| Rc::clone(fit[choice as usize % fit.len()]))
    }

    /// Starts all servers.
    pub fn start(&self) {
        for node in self.nodes.borrow().iter() {
            node.start();
        }
    }

    /// What is planned happens, where it can.
    pub fn happen(self: &Rc<Self>, event: &Event) {
        if time() < self.quiet_until.get() {
            return;
        }
        let mut chance = Chance::new(event.chance);
        let before = self.history.borrow().len();
        if self.fault(event.fault, event.place, &mut chance).is_some() {
            self.count(event.fault.name());
            if self.history.borrow().len() == before {
                self.note(event.fault.name());
            }
        }
    }

    fn fault(self: &Rc<Self>, fault: Fault, choice: u64, chance: &mut Chance) -> Option<()> {
        let micros = chance.between(100_000, 20 * SECOND).unsigned_abs();
        let up = |node: &Node| node.is_up();
        match fault {
            Fault::ClockStep => {
                let node = self.node(choice, |node| match node.role.get() {
                    Role::Primary => node.is_up() && !node.is_beginning(),
                    Role::Standby { .. } => true,
                    Role::Gone => false,
                })?;
                // That of an asynchronous standby may be wrong by less than the guard, and it is rarely more.
                let most = match node.role.get() {
                    Role::Standby { synchronous: false, .. } => {
                        &[3_000, 50_000, 400_000, 900_000][..]
                    }
                    _ => &[3_000, 50_000, 900_000, 8_000_000, 20_000_000],
                };
                let most = chance.pick(most);
                let by = chance.between(-most, most);
                let mut machine = node.machine.borrow_mut();
                machine.offset = (machine.offset + by).clamp(-28 * SECOND, 28 * SECOND);
                drop(machine);
                node.note(&format!("the clock is set by {by} us"));
            }
            Fault::ClockJump => {
                let node = self.node(choice, knows_its_clock)?;
                let by = chance.pick(&[3_600, 86_400, 864_000]) * SECOND;
                node.machine.borrow_mut().jump = by;
                node.note(&format!("the clock jumps by {} s", by / SECOND));
                self.later(micros, move |_| {
                    node.machine.borrow_mut().jump = 0;
                    node.note("and is put right");
                });
            }
            Fault::Freeze => {
                let node = self.node(choice, up)?;
                self.freeze(&node, micros);
            }
            Fault::CrashOfABackend => {
                let node = self.node(choice, up)?;
                node.note("a backend crashes");
                node.kill();
                let down = chance.below(500_000);
                self.later(down, move |_| node.start());
            }
            Fault::Kill => {
                let node = self.node(choice, up)?;
                node.note("the server is killed");
                node.kill();
                let reboots = chance.one_in(2);
                self.later(micros, move |_| {
                    let mut machine = node.machine.borrow_mut();
                    // A machine that is started with a clock that is days ahead: nobody can know.
                    if reboots && machine.jump == 0 && !node.is_up() {
                        machine.boot += 1;
                        machine.booted = time();
                    }
                    drop(machine);
                    node.note("the server is started");
                    node.start();
                });
            }
            Fault::Stop => {
                let node = self.node(choice, up)?;
                let (second, down) = (chance.below(3_000), chance.below(30 * SECOND as u64));
                let amidst = chance.one_in(3).then(|| chance.below(100_000));
                spawn_local(stop(Rc::clone(self), node, second, down, amidst));
            }
            Fault::TerminateKeeper => {
                let node = self.node(choice, up)?;
                node.note("the keeper is terminated");
                let server = node.server.borrow().clone()?;
                let signals = Rc::clone(&server.keeper.borrow());
                signals.terminate();
            }
            Fault::CutFromRegistry => {
                let node = self.node(choice, up)?;
                node.note("cut off from the registry");
                node.way.link().cut = true;
                let micros = if chance.one_in(3) { 5 * micros } else { micros };
                self.later(micros, move |_| {
                    node.note("the registry can be reached again");
                    node.way.link().cut = false;
                });
            }
            Fault::RegistryDown => {
                self.note("the registry is down");
                self.network.set_down(true);
                let micros = if chance.one_in(3) { 5 * micros } else { micros };
                self.later(micros, |cluster| {
                    cluster.note("the registry is up again");
                    cluster.network.set_down(false);
                });
            }
            Fault::SlowRegistry => {
                let node = self.node(choice, up)?;
                node.way.link().latency = chance.pick(&[100_000, 600_000, 2_500_000]);
                node.note("the registry answers slowly");
                self.later(2 * micros, move |_| node.way.link().latency = FAST);
            }
            Fault::LostAnswers => {
                let node = self.node(choice, up)?;
                node.way.link().loses = 2;
                node.note("answers of the registry get lost");
                self.later(2 * micros, move |_| node.way.link().loses = 0);
            }
            Fault::RegistryFailover => {
                self.note("the registry's standby is cut off");
                self.network.cut_standby();
                self.later(2 * micros, |cluster| {
                    if cluster.network.fail_over() {
                        cluster.note("the registry fails over to its standby");
                    }
                });
            }
            Fault::RegistryRestored => {
                self.restore_registry(choice, chance)?;
            }
            Fault::LockedTable => {
                let node = self.node(choice, up)?;
                node.note("the table is locked");
                node.disk.set(Disk { locked: true, ..node.disk.get() });
                self.later(micros, move |_| {
                    node.note("the table is free again");
                    node.disk.set(Disk { locked: false, ..node.disk.get() });
                    // From here on an attempt of the keeper can succeed, also one for no call.
                    if let Some(server) = &*node.server.borrow() {
                        server.refused_while_locked.set(false);
                    }
                });
            }
            Fault::BadDisk => {
                let node = self.node(choice, up)?;
                let (latency, fails) =
                    (chance.pick(&[5_000, 300_000, 1_500_000]), chance.pick(&[0, 2, 5]));
                node.note(&format!("commits take up to {latency} us, one in {fails} fails"));
                node.disk.set(Disk { latency, fails, ..node.disk.get() });
                self.later(micros, move |_| {
                    node.disk.set(Disk { latency: 5_000, fails: 0, ..node.disk.get() });
                });
            }
            Fault::CutStandby => {
                let is_standby = |node: &Node| matches!(node.role.get(), Role::Standby { .. });
                let standby = self.node(choice, is_standby)?;
                standby.note("hears nothing of its primary");
                standby.connected.set(false);
                self.later(2 * micros, move |cluster| cluster.connect(&standby));
            }
            Fault::Promotion => {
                let is_standby = |node: &Node| matches!(node.role.get(), Role::Standby { .. });
                let standby = self.node(choice, is_standby)?;
                if chance.one_in(2) {
                    self.promote(&standby, chance)?;
                } else {
                    self.prepare_promotion(&standby, chance)?;
                }
            }
            Fault::Recovery => {
                let node = self.node(choice, |node| node.role.get() == Role::Primary)?;
                self.recover(&node, chance)?;
            }
            Fault::Copy => {
                if self.nodes.borrow().len() >= self.world.nodes as usize + 4 {
                    return None;
                }
                let node = self.node(choice, |node| node.role.get() == Role::Primary)?;
                self.copy(&node, chance);
            }
            Fault::Upgrade => {
                let node = self.node(choice, |node| {
                    node.role.get() == Role::Primary && self.followers(node.index).is_empty()
                })?;
                self.upgrade(&node, chance);
            }
            Fault::RestoredRows => {
                let node = self.node(choice, |node| {
                    node.is_up() && node.settings.borrow().registry.is_none()
                })?;
                self.restore_rows(&node, chance)?;
            }
            Fault::Reload => {
                let node = self
                    .node(choice, |node| node.role.get() != Role::Gone && !node.is_beginning())?;
                let changes = chance.between(1, 3);
                for _ in 0..changes {
                    self.reload(&node, chance);
                }
            }
            Fault::Drain => self.order(choice, Order::Drain)?,
            Fault::Resume => self.order(choice, Order::Resume)?,
            Fault::Exchange => self.order(choice, Order::Exchange)?,
            Fault::AcceptClock => self.accept_later_jump(choice, chance)?,
            Fault::Floor => self.set_floor(choice, chance)?,
        }
        Some(())
    }

    /// Whether each node that may have a lease renews it now.
    fn all_hear_the_registry(&self) -> bool {
        let nodes = self.nodes.borrow();
        let mut primaries = nodes.iter().filter(|node| node.role.get() == Role::Primary);
        self.network.is_well()
            && primaries.all(|node| {
                let link = node.way.link();
                let hears = !link.cut && link.loses == 0 && link.latency <= FAST;
                let server = node.server.borrow();
                let state = server.as_ref().map(|server| server.verdict.borrow().state);
                let clock = node.machine.borrow().jump == 0;
                hears
                    && clock
                    && !node.frozen.get()
                    && matches!(state, Some(State::Ready | State::ClockFellBehind))
            })
    }

    /// Something that happens in a while.
    pub(crate) fn later(self: &Rc<Self>, micros: u64, what: impl FnOnce(&Rc<Self>) + 'static) {
        let cluster = Rc::clone(self);
        spawn_local(async move {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            what(&cluster);
        });
    }

    fn freeze(self: &Rc<Self>, node: &Rc<Node>, micros: u64) {
        node.note("stands still");
        node.frozen.set(true);
        node.way.link().frozen = true;
        let node = Rc::clone(node);
        self.later(micros, move |_| {
            node.note("goes on");
            node.frozen.set(false);
            node.way.link().frozen = false;
        });
    }

    fn connect(&self, standby: &Rc<Node>) {
        standby.note("hears of its primary again");
        standby.connected.set(true);
        self.catch_up(standby);
    }

    /// The registry is as it was some time ago, or empty. All nodes can tell it what they have; and
    /// somebody may want a number before they have.
    fn restore_registry(self: &Rc<Self>, choice: u64, chance: &mut Chance) -> Option<()> {
        let admitted = self.world.admitted == Some(Admitted::Forgetting);
        if !admitted && !self.all_hear_the_registry() {
            self.network.back_up();
            return None;
        }
        if chance.one_in(2) {
            self.network.empty();
            self.note("the registry has lost everything");
        } else if self.network.restore() {
            self.note("the registry is restored from a backup");
        } else {
            self.network.back_up();
            return None;
        }
        let leases = |node: &Node| node.is_up() && node.settings.borrow().registry.is_some();
        if admitted {
            // But one cannot.
            let node = self.node(choice, leases)?;
            node.note("cut off from the registry");
            node.way.link().cut = true;
            self.later(50 * SECOND as u64, move |_| node.way.link().cut = false);
        } else {
            // docs/GUARANTEES.md: until each node has written its lease again.
            self.quiet_until.set(time() + 60 * SECOND);
        }
        let newcomers = if admitted { self.world.nodes.into() } else { chance.below(3) };
        for _ in 0..newcomers {
            let (choice, mut chance) = (chance.next(), Chance::new(chance.next()));
            self.later(chance.below(12 * SECOND as u64), move |cluster| {
                let room = cluster.nodes.borrow().len() < cluster.world.nodes as usize + 4;
                match cluster.node(choice, leases) {
                    Some(node) if room && chance.one_in(2) => cluster.copy(&node, &mut chance),
                    Some(node) => drop(spawn_local(give(node, Order::Exchange))),
                    None => (),
                }
            });
        }
        Some(())
    }

    /// What a node had recorded that had the same number, and is no more, comes with a dump. What it
    /// issued is of a time to come; the node that runs has to begin anew above it.
    fn restore_rows(self: &Rc<Self>, node: &Rc<Node>, chance: &mut Chance) -> Option<()> {
        let layout = &self.layout;
        let server = node.server.borrow().clone()?;
        let position = server.allocator.position(layout);
        let number = Number::of(layout, position.node);
        // Not while it is about to change its number, or to begin anew.
        let is_settled = node.settings.borrow().worker_id == number.worker_id
            && server.verdict.borrow().state == State::Ready;
        // Of one that waits for a standby, the restored row may be lost.
        let synchronous =
            |other: &Rc<Node>| matches!(other.role.get(), Role::Standby { synchronous: true, .. });
        let waits =
            self.lost_synchronous(node.index) || self.followers(node.index).iter().any(synchronous);
        if position.limit == 0 || !is_settled || waits {
            return None;
        }
        // Up to there it may issue before it looks into the table again.
        let known = position.limit.max(node.attempted.get());
        let first = layout.tick_of_slot(known) + 1 + chance.below(10);
        let (from, to) =
            (layout.first_slot(first), layout.first_slot(first + 1 + chance.below(20)));
        let (name, time) = (NodeName::parse(&format!("{:x}", self.fresh())), node.wall());
        node.note(&format!("a record of worker id {:?} is restored", number.worker_id));
        node.attempted.set(to);
        self.judge.borrow_mut().issued(
            "of which the record is",
            position.node,
            from,
            to,
            crate::time(),
        );
        // Whoever has not heard of it must be clear of it as well.
        node.lead(window::time_of_slot(layout, to), 0);
        let record = Record {
            node: name,
            reserved_until: layout.id(position.node, to),
            number,
            layout: layout.to_string(),
            epoch: layout.epoch(),
            timeline: 1,
            max_ahead: 0,
            updated_at: time - 3_600 * SECOND,
            boot_id: String::new(),
            booted_at: 0,
            host: "elsewhere".to_owned(),
            data_directory: String::new(),
            lease: None,
            drained: false,
        };
        {
            let mut data = node.data.borrow_mut();
            let mut table = (*data.table).clone();
            table.push(record);
            data.commit(crate::time(), table);
        }
        node.ship();
        Some(())
    }

    fn catch_up(&self, standby: &Rc<Node>) {
        if let Role::Standby { of, .. } = standby.role.get() {
            let primary = Rc::clone(&self.nodes.borrow()[of]);
            standby.follow(&primary, 1000);
        }
    }

    /// Whether what a history issued after a commit is within what a start on its state, at a clock,
    /// keeps clear of: the guard, and the greatest lead that is known there.
    fn is_covered(&self, from: &Node, after: u64, to: &Node, table: &crate::data::Table) -> bool {
        if self.world.admitted == Some(Admitted::SlowStandby) {
            return true;
        }
        let settings = to.settings.borrow();
        let known = table.iter().map(|record| record.max_ahead).max().unwrap_or(0);
        let lead = known.max(settings.max_ahead);
        // What is in force counts as well as what the clock was.
        let issued = from.issued.borrow();
        let mut later = issued.iter().filter(|lead| lead.commit >= after);
        later.all(|then| {
            let beyond = then.max_ahead.saturating_sub(lead);
            then.clock.saturating_add_unsigned(beyond)
                <= to.wall() + settings.promotion_guard.cast_signed() - 20_000
        })
    }

    /// A standby is promoted in a while. Before that, its primary's worker id is changed, or `max_ahead` is
    /// lowered on both; and the standby hears nothing of it, if nobody waits for it, or its clock is set back.
    fn prepare_promotion(self: &Rc<Self>, standby: &Rc<Node>, chance: &mut Chance) -> Option<()> {
        let Role::Standby { of, synchronous } = standby.role.get() else { return None };
        let (primary, standby) = (Rc::clone(&self.nodes.borrow()[of]), Rc::clone(standby));
        // What it keeps clear of is decided by what it has until then.
        if primary.is_beginning() {
            return None;
        }
        let lowers = chance.one_in(2);
        // The files of both say the same.
        standby.settings.borrow_mut().worker_id = primary.settings.borrow().worker_id;
        standby.settings.borrow_mut().registry.clone_from(&primary.settings.borrow().registry);
        if lowers {
            for node in [&primary, &standby] {
                node.set("max_ahead = 20 s", |settings| settings.max_ahead = 20_000_000);
            }
        }
        let family = family_of(&primary).filter(|_| !lowers);
        let id = family.map(|family| family + chance.below(u64::from(POOL)) as u32);
        let by = chance.between(-20 * SECOND, 0);
        let [known, moment, rest] = [4, 5, 2].map(|most| chance.below(most * SECOND as u64));
        let mut chance = Chance::new(chance.next());
        let is_standby = |node: &Node| matches!(node.role.get(), Role::Standby { .. });
        self.later(known, move |cluster| {
            if !is_standby(&standby) {
                return;
            }
            if synchronous {
                let mut machine = standby.machine.borrow_mut();
                machine.offset = (machine.offset + by).max(-28 * SECOND);
                drop(machine);
                standby.note(&format!("the clock is set by {by} us"));
            } else {
                standby.note("hears nothing of its primary");
                standby.connected.set(false);
            }
            cluster.later(moment, move |cluster| {
                if is_standby(&standby) && !primary.is_beginning() {
                    if let Some(id) = id {
                        primary.set(&format!("worker_id = {id}"), |s| s.worker_id = Some(id));
                    }
                    for node in [&primary, &standby].into_iter().filter(|_| lowers) {
                        node.set("max_ahead = 0", |settings| settings.max_ahead = 0);
                    }
                }
                cluster.later(rest, move |cluster| {
                    // Not where the registry has forgotten what the primary has, which would never say so.
                    let is_quiet = time() < cluster.quiet_until.get();
                    if is_standby(&standby)
                        && (is_quiet || cluster.promote(&standby, &mut chance).is_none())
                    {
                        cluster.connect(&standby);
                    }
                });
            });
        });
        Some(())
    }

    /// A standby is promoted. Its primary has died, or has been cut off if it waits for it.
    fn promote(self: &Rc<Self>, standby: &Rc<Node>, chance: &mut Chance) -> Option<()> {
        let Role::Standby { of, synchronous } = standby.role.get() else { return None };
        let primary = Rc::clone(&self.nodes.borrow()[of]);
        let mut table = Rc::clone(&standby.data.borrow().table);
        // As the docs advise, for nodes that never run again; here at once.
        let deletes = chance.one_in(4);
        let mut from = vec![Rc::clone(&primary)];
        if deletes {
            let is_gone = |node: &&Rc<Node>| node.role.get() == Role::Gone;
            from.extend(self.nodes.borrow().iter().filter(is_gone).cloned());
            let gone: Vec<_> = from.iter().map(|node| node.data.borrow().name()).collect();
            let left = table.iter().filter(|record| !gone.contains(&record.node)).cloned();
            table = Rc::new(left.collect());
        }
        // Then their marks say nothing any more, and all rests on the guard.
        let after = if deletes { 0 } else { standby.replayed.get() };
        let is_known = synchronous && !deletes;
        let is_covered = |from: &Rc<Node>| self.is_covered(from, after, standby, &table);
        if !is_known && !from.iter().all(is_covered) {
            return None;
        }
        let others = self.followers(of);
        let runs_on = is_known && others.len() == 1 && chance.one_in(2);
        if runs_on {
            standby.note("is promoted; its primary, which waits for it, runs on");
            self.lost.borrow_mut().push(of);
            let primary = Rc::clone(&primary);
            self.later(30 * SECOND as u64, move |_| {
                primary.note("is fenced");
                primary.kill();
                primary.role.set(Role::Gone);
            });
        } else {
            primary.note("dies for good");
            primary.kill();
            primary.role.set(Role::Gone);
            standby.note("is promoted");
            if chance.one_in(2) {
                self.rejoin(&primary, standby, chance);
            }
        }
        for other in others {
            if !Rc::ptr_eq(&other, standby) {
                other.role.set(Role::Gone);
            }
        }
        if is_known {
            standby.floor.set(primary.floor.get());
            standby.floor_wanted.set(primary.floor_wanted.get());
        }
        if deletes {
            standby.note("the records of nodes that are no more are deleted");
            let table = (*table).clone();
            standby.data.borrow_mut().commit(time(), table);
        }
        self.begin_timeline(standby, &from, after);
        let start = chance.pick(&[100_000, 2 * SECOND as u64]);
        let start = chance.below(start);
        let (standby, family) = (Rc::clone(standby), family_of(&primary));
        let (of_two, synchronous) = (chance.one_in(2), chance.one_in(2));
        self.later(start, move |cluster| {
            standby.start();
            if of_two && cluster.nodes.borrow().len() < cluster.world.nodes as usize + 4 {
                let next = cluster.add_standby(&standby, family.unwrap_or(STATIC), synchronous);
                next.note(&format!("follows node {}", standby.letter));
                // The same source of its number.
                let settings = standby.settings.borrow();
                next.settings.borrow_mut().registry.clone_from(&settings.registry);
                next.settings.borrow_mut().worker_id = settings.worker_id;
            }
        });
        Some(())
    }

    /// A primary that died comes back in a while, as a standby of who was promoted: pg_rewind gives it
    /// the new one's data, but it is the directory that it was.
    fn rejoin(self: &Rc<Self>, old: &Rc<Node>, new: &Rc<Node>, chance: &mut Chance) {
        let (old, new, synchronous) = (Rc::clone(old), Rc::clone(new), chance.one_in(2));
        let apart = chance.between(-300_000, 300_000);
        self.later(chance.below(30 * SECOND as u64), move |cluster| {
            // An upgrade makes it another cluster.
            let is_over = new.role.get() != Role::Primary
                || cluster.lost_synchronous(new.index)
                || new.data.borrow().cluster != old.data.borrow().cluster;
            if old.role.get() != Role::Gone || is_over {
                return;
            }
            old.note(&format!("is rewound, and follows node {}", new.letter));
            {
                let mut data = old.data.borrow_mut();
                let fingerprint = data.fingerprint;
                data.clone_from(&new.data.borrow());
                data.fingerprint = fingerprint;
                data.marks.clear();
                old.replayed.set(data.commits);
            }
            let mut machine = old.machine.borrow_mut();
            (machine.offset, machine.jump) = (new.machine.borrow().offset + apart, 0);
            drop(machine);
            old.settings.borrow_mut().max_ahead = new.settings.borrow().max_ahead;
            old.connected.set(true);
            // What it was told, and had not been replicated, it has forgotten.
            old.drained.set(false);
            old.floor.set(-1);
            old.role.set(Role::Standby { of: new.index, synchronous });
        });
    }

    /// A node begins a timeline, with the state that others, or itself, had after a commit.
    fn begin_timeline(&self, node: &Node, from: &[Rc<Node>], after: u64) {
        node.role.set(Role::Primary);
        node.begun_at.set(time());
        let commit = node.data.borrow().commits;
        let mut issued = Vec::new();
        for from in from {
            let leads = from.issued.borrow();
            let later = leads.iter().filter(|lead| lead.commit >= after);
            issued.extend(later.map(|lead| Lead { commit, ..*lead }));
        }
        *node.issued.borrow_mut() = issued;
        let mut data = node.data.borrow_mut();
        data.timeline += 1;
        data.marks.clear();
        data.history.clear();
        let (commits, timeline) = (data.commits, data.timeline);
        let table = Rc::clone(&data.table);
        data.history.push_back((commits, time(), timeline, table));
    }

    /// Recovery to a point in time, in place.
    fn recover(self: &Rc<Self>, node: &Rc<Node>, chance: &mut Chance) -> Option<()> {
        let state = {
            let data = node.data.borrow();
            let places = data.history.len() as u64;
            // Now and then to before all of it, or to a moment ago.
            let place = match chance.below(4) {
                0 => 0,
                1 => places - 1 - chance.below(places.min(8)),
                _ => chance.below(places),
            };
            data.history[place as usize].clone()
        };
        let (commit, at, _, table) = state;
        let is_replicated_by = |standby: &Rc<Node>| matches!(standby.role.get(), Role::Standby { of, .. } if of == node.index);
        if node.machine.borrow().jump != 0
            || node.is_beginning()
            || self.nodes.borrow().iter().any(is_replicated_by)
            || !self.is_covered(node, commit, node, &table)
        {
            return None;
        }
        node.note(&format!("is put back to {}", seconds(at)));
        node.kill();
        {
            let mut data = node.data.borrow_mut();
            data.table = table;
        }
        self.begin_timeline(node, slice::from_ref(node), commit);
        // What it was told after that, it has forgotten.
        node.drained.set(false);
        node.floor.set(-1);
        if chance.one_in(3) {
            // It is started where the registry cannot be reached yet.
            node.way.link().cut = true;
            let node = Rc::clone(node);
            self.later(30 * SECOND as u64, move |_| node.way.link().cut = false);
        }
        let node = Rc::clone(node);
        self.later(chance.below(10 * SECOND as u64), move |_| node.start());
        Some(())
    }

    /// A base backup that is started beside its original.
    pub(crate) fn copy(self: &Rc<Self>, node: &Rc<Node>, chance: &mut Chance) {
        let mut data = node.data.borrow().clone();
        data.fingerprint = self.fresh();
        data.marks.clear();
        let mut settings = node.settings.borrow().clone();
        let family = STATIC + self.nodes.borrow().len() as u32 * POOL;
        if settings.worker_id.is_some() {
            settings.worker_id = Some(family);
        }
        let copy = self.add(data, settings, Role::Primary);
        copy.note(&format!("is a copy of node {}", node.letter));
        self.later(chance.below(5 * SECOND as u64), move |_| copy.start());
    }

    /// pg_upgrade: another system identifier, another directory, the same table. It may be done twice, by
    /// different clocks; and the node may be drained before.
    fn upgrade(self: &Rc<Self>, node: &Rc<Node>, chance: &mut Chance) {
        let times = if chance.one_in(3) { 2 } else { 1 };
        let (cluster, node) = (Rc::clone(self), Rc::clone(node));
        let mut chance = Chance::new(chance.next());
        spawn_local(async move {
            for _ in 0..times {
                if !is_known(&node) {
                    return;
                }
                if chance.one_in(3) {
                    give(Rc::clone(&node), Order::Drain).await;
                }
                node.note("is stopped to be upgraded");
                shut_down(&node, 500).await;
                let has_standby = !cluster.followers(node.index).is_empty();
                if node.is_up() || node.role.get() != Role::Primary || has_standby {
                    return;
                }
                cluster.become_upgraded(&node);
                if times > 1 && !node.is_beginning() {
                    let by = chance.between(-20 * SECOND, 0);
                    let mut machine = node.machine.borrow_mut();
                    machine.offset = (machine.offset + by).max(-28 * SECOND);
                    drop(machine);
                    node.note(&format!("the clock is set by {by} us"));
                }
                tokio::time::sleep(Duration::from_micros(chance.below(5 * SECOND as u64))).await;
                node.note("is started after an upgrade");
                node.start();
                tokio::time::sleep(Duration::from_micros(chance.below(10 * SECOND as u64))).await;
            }
        });
    }

    fn become_upgraded(&self, node: &Node) {
        let mut data = node.data.borrow_mut();
        data.cluster = self.fresh();
        data.fingerprint = self.fresh();
        data.timeline = 1;
        let mut table = (*data.table).clone();
        // As the server's side inherits it with the first start: src/keeper/high_water.rs.
        if let Some(inherited) = window::before_an_upgrade(&data.table, &node.letter) {
            let old = &inherited.record.node;
            table.retain(|record| !inherited.is_over(record) && record.node != *old);
            table.push(inherited.renamed(data.name()));
        }
        let table = Rc::new(table);
        data.table = Rc::clone(&table);
        let commits = data.commits;
        data.history.clear();
        data.history.push_back((commits, time(), 1, table));
    }

    /// One setting becomes another.
    fn reload(&self, node: &Rc<Node>, chance: &mut Chance) {
        let family = family_of(node);
        let mut settings = node.settings.borrow_mut();
        let what = match chance.below(8) {
            6 | 7 if settings.registry.is_some() => {
                // Its own family's, as no other node has.
                let id = family.unwrap_or(STATIC + node.index as u32 * POOL);
                (settings.registry, settings.worker_id) = (None, Some(id));
                format!("worker_id = {id}, registry = ''")
            }
            6 | 7 if self.world.leased > 0 => {
                (settings.registry, settings.worker_id) = (Some("simulated".to_owned()), None);
                "worker_id = -1, registry = 'simulated'".to_owned()
            }
            0 | 1 => {
                let Some(family) = family else { return };
                settings.worker_id = Some(family + chance.below(u64::from(POOL)) as u32);
                format!("worker_id = {}", settings.worker_id.unwrap_or(0))
            }
            2 => {
                settings.reservation = chance.pick(&[100_000, 300_000, 1_000_000, 5_000_000]);
                format!("reservation = {} us", settings.reservation)
            }
            3 => {
                settings.max_ahead = chance.pick(&[0, 1_000_000, 10_000_000, 20_000_000]);
                format!("max_ahead = {} us", settings.max_ahead)
            }
            4 => {
                let lease = self.world.lease;
                let duration = Duration::from_secs(chance.pick(&[lease, 2 * lease]));
                settings.terms.duration = duration;
                format!("lease_duration = {} s", duration.as_secs())
            }
            _ => {
                let last = self.world.range - 1;
                let first = chance.pick(&[0, 0, 1]);
                settings.range = first..=u64::from(last);
                format!("worker_id_range = {first}-{last}")
            }
        };
        drop(settings);
        if let Some(server) = &*node.server.borrow() {
            server.woken.notify_one();
        }
        node.note(&what);
    }

    /// An administrator wants something, and waits for the answer.
    fn order(self: &Rc<Self>, choice: u64, order: Order) -> Option<()> {
        let node = self.node(choice, |node| node.is_up())?;
        spawn_local(give(node, order));
        Some(())
    }

    /// A node is to issue no id at or below one: of the cluster's last one, of a time to come, or of about
    /// now.
    fn set_floor(self: &Rc<Self>, choice: u64, chance: &mut Chance) -> Option<()> {
        let node = self.node(choice, |node| node.is_up())?;
        let layout = &self.layout;
        let from = match chance.below(3) {
            0 => None,
            1 => Some(chance.between(0, 15 * SECOND)),
            _ => Some(chance.between(-300_000, 300_000)),
        };
        let id = match from {
            None => self.judge.borrow().last,
            Some(from) => {
                let slot = layout.first_slot(layout.tick_at(node.wall() + from).ok()?);
                layout.id(chance.below(64), slot + chance.below(8))
            }
        };
        // As `snowflake_set_floor` does.
        let max = node.settings.borrow().max_clock_jump.unwrap_or(0);
        window::floor(layout, id, node.wall(), max).ok()?;
        spawn_local(give(node, Order::SetFloor(id)));
        Some(())
    }

    /// A jump is accepted while the keeper stands still; and later there is another one.
    fn accept_later_jump(self: &Rc<Self>, choice: u64, chance: &mut Chance) -> Option<()> {
        let node = self.node(choice, |node| node.is_up())?;
        if chance.one_in(2) {
            spawn_local(give(node, Order::AcceptClock));
            return Some(());
        }
        if !knows_its_clock(&node) {
            return None;
        }
        let (by, back) = (864_000 * SECOND, chance.below(10 * SECOND as u64));
        self.freeze(&node, 7 * SECOND as u64);
        spawn_local(give(Rc::clone(&node), Order::AcceptClock));
        self.later(9 * SECOND as u64, move |cluster| {
            if !knows_its_clock(&node) {
                return;
            }
            node.machine.borrow_mut().jump = by;
            node.note("the clock jumps by ten days");
            cluster.later(back + SECOND as u64, move |_| {
                node.machine.borrow_mut().jump = 0;
                node.note("and is put right");
            });
        });
        Some(())
    }

    /// All faults end.
    pub fn heal(self: &Rc<Self>) {
        self.note("all faults end");
        self.network.set_down(false);
        self.network.fail_over();
        for node in self.nodes.borrow().iter() {
            {
                let mut link = node.way.link();
                (link.cut, link.frozen, link.loses, link.latency) = (false, false, 0, FAST);
            }
            node.frozen.set(false);
            node.disk.set(Disk { locked: false, latency: 5_000, fails: 0 });
            node.connected.set(true);
            self.catch_up(node);
            let mut machine = node.machine.borrow_mut();
            // Unless that moves the clock of one that has to keep clear of what others issued by it.
            if !node.is_beginning() {
                (machine.offset, machine.jump, machine.drift) = (0, 0, 0);
            }
            drop(machine);
            node.start();
        }
    }

    /// Whoever was drained shall issue ids again, and whose clock was left as it is, see `heal`.
    pub fn resume_all(&self) {
        for node in self.nodes.borrow().iter().filter(|node| node.is_up()) {
            if node.is_beginning() {
                spawn_local(give(Rc::clone(node), Order::AcceptClock));
            }
            spawn_local(give(Rc::clone(node), Order::Resume));
        }
    }

    /// Whether a jump was accepted, here or in the family, and ids must wait for the time.
    fn is_in_the_future(&self, node: &Node) -> bool {
        let far = node.wall() + 100 * SECOND;
        let data = node.data.borrow();
        let marks = data.table.iter().filter_map(|record| record.slot(&self.layout));
        marks.map(|slot| window::time_of_slot(&self.layout, slot)).any(|time| time > far)
    }

    /// A node's server can issue ids, for the first time since its start.
    pub(crate) fn has_joined(&self, node: &Node, started: i64) {
        self.joined.borrow_mut().push((node.index, started, time() - started));
    }

    /// At the end, some time after all faults: ids flow wherever they can.
    pub fn judge_end(&self, since: i64) {
        for node in self.nodes.borrow().iter() {
            let waits = self.lost_synchronous(node.index)
                || node.accepted.get() > 120 * SECOND
                || self.is_in_the_future(node);
            if node.role.get() != Role::Primary || waits || node.issued_at.get() >= since {
                continue;
            }
            let state = node.server.borrow().as_ref().map(|server| server.verdict.borrow().clone());
            self.found(&format!(
                "node {} has issued nothing since all faults ended: {state:?}, its last id is of {} s after the clock",
                node.letter,
                (window::time_of_slot(&self.layout, self.layout.slot_of(node.last_id.get()).unwrap_or(0)) - node.wall()) / SECOND,
            ));
        }
    }
}

/// Whether the node has recorded, in this run of its machine, which clock it trusts. Where it has not, a
/// start cannot know that the clock is wrong.
fn knows_its_clock(node: &Node) -> bool {
    let (data, boot) = (node.data.borrow(), format!("{:x}", node.machine.borrow().boot));
    let name = data.name();
    node.is_up() && data.table.iter().any(|record| record.node == name && record.boot_id == boot)
}

/// Whether an upgraded node would know who it was. Where it was recovered to before the first record, it is
/// a new node, as docs/GUARANTEES.md says. Not asked of the core: a fault there must not end the upgrades.
fn is_known(node: &Node) -> bool {
    let data = node.data.borrow();
    let cluster = data.name().cluster;
    let is_one = data.table.iter().all(|record| record.node.cluster == cluster);
    let is_own = |record: &Record| record.node.cluster == cluster && record.has_mark();
    data.table.iter().any(|record| is_own(record) && (is_one || record.host == node.letter))
}

/// The first number that a node's family may be given by hand, if that is how it is done.
fn family_of(node: &Node) -> Option<u32> {
    let id = node.settings.borrow().worker_id?;
    Some(id - (id - STATIC) % POOL)
}

fn letter(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index @ 0..26) => char::from(b'A' + index).to_string(),
        _ => format!("N{index}"),
    }
}

/// An order, as `src/functions/admin.rs` gives it.
async fn give(node: Rc<Node>, order: Order) {
    let Some(server) = node.server.borrow().clone() else { return };
    let begun = time();
    let in_time = || time() - begun < 5 * SECOND && !server.dead.get();
    let given = loop {
        server.ask();
        match server.orders.give(order) {
            Some(given) => break given,
            None if in_time() => tokio::time::sleep(Duration::from_millis(20)).await,
            None => return,
        }
    };
    server.ask();
    if order == Order::Resume {
        // From now on it may be done at any time; also where the answer, or the disk's, gets lost, and
        // before that to an earlier order to drain is heard.
        node.drained.set(false);
        node.resumed.set(node.resumed.get() + 1);
    }
    let resumed = node.resumed.get();
    if let Order::SetFloor(id) = order {
        node.floor_wanted.set(node.floor_wanted.get().max(id));
    }
    let jump = node.wall() - BEGIN - time();
    let accepted = node.accepted.get();
    if order == Order::AcceptClock {
        // It may be done before the answer is seen.
        node.accepted.set(accepted.max(jump + 60 * SECOND));
    }
    let forget = || {
        if order == Order::AcceptClock {
            node.accepted.set(accepted);
        }
    };
    let outcome = loop {
        if let Some(outcome) = server.orders.outcome(given) {
            break Some(outcome);
        }
        if !in_time() {
            if crate::put_back("F12") {
                forget();
                return;
            }
            if server.orders.take_back(given) {
                break None;
            }
            // It has been begun with, and may yet be done.
            break server.orders.outcome(given);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    node.note(&format!("{order:?}: {outcome:?}"));
    forget();
    if outcome == Some(Outcome::Done) && !server.dead.get() {
        match order {
            Order::Drain => node.drained.set(node.resumed.get() == resumed),
            Order::AcceptClock => {
                // The clock may have jumped since the order was given, and before it was heard.
                let jump = jump.max(node.wall() - BEGIN - time()) + 60 * SECOND;
                node.accepted.set(accepted.max(jump));
            }
            Order::SetFloor(id) => node.floor.set(node.floor.get().max(id)),
            Order::Resume | Order::Exchange => (),
        }
    }
}

/// `pg_ctl stop -m fast`: the postmaster sends SIGTERM to its keeper, and again to its group.
async fn shut_down(node: &Rc<Node>, second: u64) {
    let Some(server) = node.server.borrow().clone() else { return };
    let signals: Rc<Signals> = Rc::clone(&server.keeper.borrow());
    // Sessions end first.
    for task in server.tasks.borrow().iter().skip(1).take(node.cluster().world.sessions as usize) {
        task.abort();
    }
    signals.terminate();
    tokio::time::sleep(Duration::from_micros(second)).await;
    signals.terminate();
    let over = tokio::time::timeout(Duration::from_secs(20), async {
        while !signals.ended.get() && !server.dead.get() {
            signals.over.notified().await;
        }
    });
    let _ = over.await;
    if !server.dead.get() {
        node.kill();
    }
}

/// A stop in order; amidst a heartbeat to a registry that is not fast, where that is wanted, so long after
/// it has set out.
pub(crate) async fn stop(
    cluster: Rc<Cluster>,
    node: Rc<Node>,
    second: u64,
    down: u64,
    amidst: Option<u64>,
) {
    if let Some(after) = amidst {
        node.way.link().latency = NOT_FAST;
        let heartbeat = node.way.writes.notified();
        let _ = tokio::time::timeout(Duration::from_secs(12), heartbeat).await;
        tokio::time::sleep(Duration::from_micros(after)).await;
        cluster.later(10 * SECOND as u64, {
            let node = Rc::clone(&node);
            move |_| node.way.link().latency = FAST
        });
        if !node.is_up() {
            return;
        }
    }
    node.note("is stopped");
    let healthy = |node: &Node| {
        let disk = node.disk.get();
        let link = node.way.link();
        !disk.locked
            && disk.fails == 0
            && disk.latency <= 5_000
            && !link.cut
            && link.loses == 0
            && link.latency <= NOT_FAST
            && !node.frozen.get()
            && cluster.network.is_well()
    };
    // By a clock that it does not believe, the node gives nothing back sooner.
    let well = healthy(&node) && node.machine.borrow().jump == 0;
    let server = node.server.borrow().clone();
    let open =
        server.as_ref().is_some_and(|server| server.allocator.position(&cluster.layout).limit > 0);
    let timeline = node.data.borrow().timeline;
    shut_down(&node, second).await;
    // It may have been put back to an earlier time meanwhile.
    if let Some(server) = server
        && node.data.borrow().timeline == timeline
        && well
        && healthy(&node)
        && open
        && server.keeper.borrow().ended.get()
    {
        cluster.judge_stop(&node, &server);
    }
    tokio::time::sleep(Duration::from_micros(down)).await;
    if node.role.get() == Role::Primary && !node.is_up() {
        node.note("is started");
        node.start();
    }
}

impl Cluster {
    /// After a stop in order, the record says exactly what was issued.
    fn judge_stop(&self, node: &Node, server: &Server) {
        if self.world.admitted.is_some() {
            return;
        }
        let data = node.data.borrow();
        let name = data.name();
        let Some(record) = data.table.iter().find(|record| record.node == name) else { return };
        let mark = record.slot(&self.layout).unwrap_or(0);
        // Closing drops one slot, so that claims under way fail.
        let end = server.allocator.position(&self.layout).cursor.saturating_sub(1);
        // A floor may have been set at the last moment.
        let floor = window::above_id(&self.layout, node.floor_wanted.get());
        let time = |slot| window::time_of_slot(&self.layout, slot);
        if mark != end && mark != floor {
            self.found(&format!(
                "node {} was stopped in order at {}, and its record is {} us ahead of its last id",
                node.letter,
                seconds(crate::time()),
                time(mark) - time(end),
            ));
        }
        // By the clock as it was then: it may have been set while the server was ending.
        let at = record.updated_at;
        if let Some(lease) = &record.lease
            && lease.until > at + 51 * SECOND
            && node.settings.borrow().registry.is_some()
            && time(end) + SECOND < at + 50 * SECOND
        {
            self.found(&format!(
                "node {} was stopped in order at {}, and keeps its lease for {} s",
                node.letter,
                seconds(crate::time()),
                (lease.until - at) / SECOND,
            ));
        }
        let number = self.layout.node(record.number.datacenter_id, record.number.worker_id);
        let (Ok(number), Some(lease)) = (number, &record.lease) else { return };
        let registry = self.network.registry();
        if let Some(value) = registry.value(number)
            && value.contains(&lease.nonce)
            && value.contains("\"held\"")
        {
            self.found(&format!(
                "node {} was stopped in order at {}, and its lease was not given back: the registry says {value}",
                node.letter,
                seconds(crate::time()),
            ));
        }
    }
}
