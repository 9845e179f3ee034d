//! A node: a PostgreSQL server with its data directory, on a machine of its own; and its keeper, the real
//! one.

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::data::Data;
use crate::judge::seconds;
use crate::machine::Machine;
use crate::network::Way;
use crate::{put_back, time};
use snowflake_core::Allocator;
use snowflake_core::keeper::{
    Counted, Failure, Home, Keeper, Notice, Order, Outcome, Pause, Settings, Shown, State, Verdict,
    World,
};
use snowflake_core::orders::Orders;
use snowflake_core::tenancy::{Asked, Held, KeptLease, LeaseStatus, Now};
use snowflake_core::window::{NodeName, Record};
use snowflake_registry::lease::Taker;
use snowflake_registry::{Error, Holder, Lessee, Start, Surroundings, TrustedTime};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};

/// Whether a node issues ids, or follows another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It may.
    Primary,
    /// It follows the node of that index, whose commits wait for it if it is synchronous.
    Standby {
        /// Whom.
        of: usize,
        /// Whether that one waits.
        synchronous: bool,
    },
    /// It never runs again.
    Gone,
}

/// What can be the matter with a disk, or with the table on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    /// Somebody holds a lock on the table.
    pub locked: bool,
    /// A commit takes up to so long, in microseconds.
    pub latency: u64,
    /// One in so many commits fails, before or after it was written; 0 for none.
    pub fails: u64,
}

/// A node.
pub struct Node {
    /// Its place in the cluster.
    pub index: usize,
    /// What it is called in histories.
    pub letter: String,
    pub(crate) cluster: Weak<Cluster>,
    /// Its clocks.
    pub machine: RefCell<Machine>,
    /// What is on its disk.
    pub data: RefCell<Data>,
    /// What is in its files.
    pub settings: RefCell<Settings>,
    /// What it is.
    pub role: Cell<Role>,
    /// Its server, where it runs.
    pub server: RefCell<Option<Rc<Server>>>,
    /// How its disk is.
    pub disk: Cell<Disk>,
    /// Its way to the registry.
    pub way: Way,
    /// It stands still, as by SIGSTOP or a paused machine.
    pub frozen: Cell<bool>,
    /// As a standby: whether it hears of its primary.
    pub connected: Cell<bool>,
    /// As a standby: which commit has arrived.
    pub replayed: Cell<u64>,
    pub(crate) chance: RefCell<Chance>,
    /// The greatest id that was issued by this data directory.
    pub last_id: Cell<i64>,
    /// The greatest reading of the clock by which it issued, and how far ahead it might, each with the
    /// commit after which that was.
    pub issued: RefCell<Vec<Lead>>,
    /// It has said that it is drained.
    pub drained: Cell<bool>,
    /// How often it was told to resume.
    pub resumed: Cell<u64>,
    /// The greatest floor that it was told and has set; and that it was told.
    pub floor: Cell<i64>,
    /// See there.
    pub floor_wanted: Cell<i64>,
    /// When it issued last: virtual microseconds.
    pub issued_at: Cell<i64>,
    /// Windows that were opened or extended, and calls that failed.
    pub windows: Cell<u64>,
    /// Why calls fail, as the history says.
    pub refused: Cell<&'static str>,
    /// Calls that failed.
    pub failures: Cell<u64>,
    /// When its timeline began.
    pub begun_at: Cell<i64>,
    /// The greatest mark that it has written, or tried to: below it, ids may be issued before the table
    /// is read again.
    pub attempted: Cell<u64>,
    /// A jump of the clock was accepted up to here: virtual microseconds ahead of the right time.
    pub accepted: Cell<i64>,
}

/// What a node may have issued since a commit.
#[derive(Clone, Copy, Debug)]
pub struct Lead {
    /// The commit.
    pub commit: u64,
    /// The greatest reading of its clock when it issued.
    pub clock: i64,
    /// The greatest lead that ids were allowed then.
    pub max_ahead: u64,
}

/// What a server has in shared memory, which a crash of any process ends.
pub struct Server {
    /// The real one.
    pub allocator: Allocator,
    /// The real one.
    pub orders: Orders,
    /// What the keeper says.
    pub verdict: RefCell<Verdict>,
    /// Questions, and which of them has been answered.
    pub asked: Cell<u64>,
    /// Which has been answered.
    pub answered: Cell<u64>,
    pub(crate) woken: Notify,
    /// All of its processes have ended.
    pub dead: Cell<bool>,
    pub(crate) tasks: RefCell<Vec<AbortHandle>>,
    /// Its keeper.
    pub keeper: RefCell<Rc<Signals>>,
    /// When it was started; virtual microseconds.
    pub started: i64,
    /// Ids have been to be had since.
    pub joined: Cell<bool>,
    /// A failing call since the table was locked, or the disk fails for good.
    pub refused_while_locked: Cell<bool>,
}

/// The keeper's signals.
#[derive(Default)]
pub struct Signals {
    stop: Cell<bool>,
    closing: Cell<bool>,
    interruptions: Cell<u32>,
    interrupted: Notify,
    /// The process has ended.
    pub ended: Cell<bool>,
    pub(crate) over: Notify,
}

impl Signals {
    /// SIGTERM, as `src/keeper/signals.rs` takes it.
    pub fn terminate(&self) {
        self.stop.set(true);
        if !self.closing.get() || put_back("F4") {
            self.interruptions.set(self.interruptions.get() + 1);
            self.interrupted.notify_waiters();
        }
    }

    fn may_begin(&self) -> bool {
        !self.stop.get() || self.closing.get() || put_back("F6")
    }
}

impl Server {
    fn new() -> Self {
        Self {
            allocator: Allocator::default(),
            orders: Orders::default(),
            verdict: RefCell::new(State::Starting.into()),
            asked: Cell::new(0),
            answered: Cell::new(0),
            woken: Notify::new(),
            dead: Cell::new(false),
            tasks: RefCell::default(),
            keeper: RefCell::default(),
            started: time(),
            joined: Cell::new(false),
            refused_while_locked: Cell::new(false),
        }
    }

    /// A question to the keeper; its number.
    pub fn ask(&self) -> u64 {
        self.asked.set(self.asked.get() + 1);
        self.woken.notify_one();
        self.asked.get()
    }
}

impl Node {
    pub(crate) fn cluster(&self) -> Rc<Cluster> {
        self.cluster.upgrade().expect("the cluster outlives its nodes")
    }

    /// The wall clock.
    pub fn wall(&self) -> i64 {
        self.machine.borrow().wall(time())
    }

    /// Something that happens at the node, for the history.
    pub fn note(&self, what: &str) {
        self.cluster().note(&format!("node {}: {what}", self.letter));
    }

    /// A setting becomes another, as by a reload.
    pub(crate) fn set(&self, what: &str, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.borrow_mut());
        if let Some(server) = &*self.server.borrow() {
            server.woken.notify_one();
        }
        self.note(what);
    }

    /// A part of the node's own chance.
    pub fn throw<T>(&self, with: impl FnOnce(&mut Chance) -> T) -> T {
        with(&mut self.chance.borrow_mut())
    }

    /// Whether it has not issued anything on its timeline yet: what it keeps clear of, it decides by the
    /// clock and the settings that it has until then.
    pub fn is_beginning(&self) -> bool {
        self.issued_at.get() < self.begun_at.get()
    }

    /// Whether its server runs.
    pub fn is_up(&self) -> bool {
        self.server.borrow().is_some()
    }

    /// Sleeps, and then for as long as the node stands still.
    pub async fn rest(&self, micros: u64) {
        tokio::time::sleep(Duration::from_micros(micros)).await;
        self.thaw().await;
    }

    pub(crate) async fn thaw(&self) {
        while self.frozen.get() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts the server; shared memory is new.
    pub fn start(self: &Rc<Self>) {
        if self.role.get() != Role::Primary || self.is_up() {
            return;
        }
        let server = Rc::new(Server::new());
        *self.server.borrow_mut() = Some(Rc::clone(&server));
        let task = spawn_local(keepers(Rc::clone(self), Rc::clone(&server)));
        server.tasks.borrow_mut().push(task.abort_handle());
        crate::client::start(self, &server);
    }

    /// All processes end at once.
    pub fn kill(&self) {
        if let Some(server) = self.server.borrow_mut().take() {
            server.dead.set(true);
            for task in server.tasks.borrow().iter() {
                task.abort();
            }
        }
    }

    /// A state of the table that its followers shall have.
    pub(crate) fn ship(self: &Rc<Self>) {
        let cluster = self.cluster();
        for standby in cluster.followers(self.index) {
            if standby.connected.get() {
                standby.follow(self, cluster.lag(&standby));
            }
        }
    }

    /// As a standby: has the primary's last state in a while, if it still hears of it then.
    pub fn follow(self: &Rc<Self>, primary: &Rc<Self>, lag: u64) {
        let (commit, table) = {
            let data = primary.data.borrow();
            (data.commits, Rc::clone(&data.table))
        };
        let (standby, primary, timeline) =
            (Rc::clone(self), primary.index, primary.data.borrow().timeline);
        spawn_local(async move {
            tokio::time::sleep(Duration::from_micros(lag)).await;
            let follows = matches!(standby.role.get(), Role::Standby { of, .. } if of == primary);
            if follows && standby.connected.get() && standby.replayed.get() < commit {
                standby.replayed.set(commit);
                let mut data = standby.data.borrow_mut();
                data.table = table;
                data.commits = commit;
                data.timeline = timeline;
                drop(data);
                standby.cluster().moved.notify_waiters();
            }
        });
    }

    /// Whether all synchronous standbys have a commit.
    fn is_replicated(&self, commit: u64) -> bool {
        let synchronous =
            |node: &Rc<Self>| matches!(node.role.get(), Role::Standby { synchronous: true, .. });
        let cluster = self.cluster();
        let lost = cluster.lost_synchronous(self.index);
        let mut followers = cluster.followers(self.index).into_iter().filter(synchronous);
        !lost && followers.all(|node| node.replayed.get() >= commit)
    }

    /// Writes down what a clock and a setting allowed when ids were issued.
    pub fn lead(&self, clock: i64, max_ahead: u64) {
        let commit = self.data.borrow().commits;
        let mut leads = self.issued.borrow_mut();
        match leads.last_mut() {
            Some(last) if last.commit == commit => {
                last.clock = last.clock.max(clock);
                last.max_ahead = last.max_ahead.max(max_ahead);
            }
            _ => leads.push(Lead { commit, clock, max_ahead }),
        }
    }
}

/// The postmaster's part: a keeper that ended is started again.
async fn keepers(node: Rc<Node>, server: Rc<Server>) {
    loop {
        node.rest(5_000).await;
        let signals = Rc::new(Signals::default());
        *server.keeper.borrow_mut() = Rc::clone(&signals);
        keeper(Rc::clone(&node), Rc::clone(&server), Rc::clone(&signals)).await;
        signals.ended.set(true);
        signals.over.notify_waiters();
        node.rest(1_000_000).await;
    }
}

/// As `run` in `src/keeper/mod.rs`.
async fn keeper(node: Rc<Node>, server: Rc<Server>, signals: Rc<Signals>) {
    let (boot, layout) = (node.machine.borrow().boot, node.cluster().layout);
    let way = node.way.clone();
    let starter = Starter { node: Rc::clone(&node), way };
    let world = Sight {
        node: Rc::clone(&node),
        server: Rc::clone(&server),
        signals: Rc::clone(&signals),
        lessee: Lessee::new(starter),
        hurried: false,
    };
    let mut keeper = Keeper::new(world, layout, format!("{boot:x}"));
    while !signals.stop.get() {
        let asked = server.asked.get();
        let reading = node.machine.borrow().reading(time());
        let pause = keeper.look(&reading).await;
        server.answered.set(server.answered.get().max(asked));
        rest(&node, &server, &signals, pause).await;
    }
    let reading = node.machine.borrow().reading(time());
    keeper.close(&reading).await;
}

/// As `rest` in `src/keeper/signals.rs`.
async fn rest(node: &Node, server: &Server, signals: &Signals, pause: Pause) {
    let begun = time();
    let micros = |duration: Duration| duration.as_micros() as i64;
    let (least, most) = (micros(pause.at_least), micros(pause.at_most.max(pause.at_least)));
    let mut woken = false;
    while !signals.stop.get() {
        let left = begun + if woken { least } else { most } - time();
        if left <= 0 {
            break;
        }
        let left = Duration::from_micros(left.unsigned_abs());
        tokio::select! {
            biased;
            () = signals.interrupted.notified() => (),
            () = server.woken.notified(), if !woken => woken = true,
            () = tokio::time::sleep(left) => (),
        }
        node.thaw().await;
    }
}

/// How this node starts holders of leases.
pub struct Starter {
    node: Rc<Node>,
    way: Way,
}

impl std::fmt::Debug for Starter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.node.letter)
    }
}

struct Around {
    node: Rc<Node>,
    time: Arc<TrustedTime>,
    chance: Mutex<Chance>,
}

impl Surroundings for Around {
    fn now(&self) -> Option<Now> {
        if self.node.frozen.get() {
            return None;
        }
        self.time.now(self.node.machine.borrow().uptime(time()))
    }

    fn nonce(&self) -> Result<String, Error> {
        let mut chance = self.chance.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(format!("{:016x}", chance.next()))
    }

    fn shuffle(&self, numbers: &mut [u64]) {
        let mut chance = self.chance.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for i in (1..numbers.len()).rev() {
            numbers.swap(i, chance.below(i as u64 + 1) as usize);
        }
    }
}

impl Start for Starter {
    fn start(&self, asked: &Asked, taker: Taker, time: Arc<TrustedTime>) -> Result<Holder, String> {
        let chance = Mutex::new(Chance::new(self.node.throw(Chance::next)));
        let around = Around { node: Rc::clone(&self.node), time, chance };
        let (holder, task) = Holder::task(self.way.clone(), taker, asked.terms, around);
        let task = spawn_local(task).abort_handle();
        if let Some(server) = &*self.node.server.borrow() {
            server.tasks.borrow_mut().push(task);
        }
        Ok(holder)
    }

    fn uptime(&self) -> i64 {
        self.node.machine.borrow().uptime(time())
    }
}

/// What the keeper sees.
struct Sight {
    node: Rc<Node>,
    server: Rc<Server>,
    signals: Rc<Signals>,
    lessee: Lessee<Starter>,
    hurried: bool,
}

/// How long a lock is waited for, and how long at the end; microseconds.
const LOCK_TIMEOUT: u64 = 1_000_000;
const LOCK_TIMEOUT_AT_END: u64 = 100_000;

fn failed(why: &str) -> Failure {
    Failure::Failed(why.to_owned())
}

impl Sight {
    /// Waits, but not longer than until a signal comes.
    async fn wait(&self, micros: u64) -> Result<(), Failure> {
        let before = self.signals.interruptions.get();
        tokio::select! {
            biased;
            () = self.signals.interrupted.notified() => (),
            () = tokio::time::sleep(Duration::from_micros(micros)) => (),
        }
        self.node.thaw().await;
        if self.signals.interruptions.get() != before {
            return Err(failed("interrupted"));
        }
        Ok(())
    }

    /// The beginning of a transaction.
    async fn begin(&self) -> Result<(), Failure> {
        if !self.signals.may_begin() {
            return Err(failed("the server is being stopped"));
        }
        if self.node.disk.get().locked {
            self.wait(if self.hurried { LOCK_TIMEOUT_AT_END } else { LOCK_TIMEOUT }).await?;
            if self.node.disk.get().locked {
                return Err(failed("lock timeout"));
            }
        }
        Ok(())
    }

    /// A transaction that changes the table.
    async fn transact<T>(&self, change: impl FnOnce(&mut Vec<Record>) -> T) -> Result<T, Failure> {
        self.begin().await?;
        let disk = self.node.disk.get();
        let (before, after, fate) = self.node.throw(|chance| {
            let latency = disk.latency.max(2);
            let fails = disk.fails > 0 && chance.one_in(disk.fails);
            (chance.below(latency), chance.below(latency), fails.then(|| chance.below(2)))
        });
        self.wait(before).await?;
        if fate == Some(0) {
            return Err(failed("the disk is full"));
        }
        let commit = {
            let mut data = self.node.data.borrow_mut();
            let mut table = (*data.table).clone();
            let result = change(&mut table);
            data.commit(time(), table);
            (data.commits, result)
        };
        self.node.ship();
        let (commit, result) = commit;
        self.wait(after).await?;
        if fate == Some(1) {
            return Err(failed("the connection was lost"));
        }
        while !self.hurried && !self.node.is_replicated(commit) {
            let before = self.signals.interruptions.get();
            let cluster = self.node.cluster();
            tokio::select! {
                biased;
                () = self.signals.interrupted.notified() => (),
                () = cluster.moved.notified() => (),
                () = tokio::time::sleep(Duration::from_millis(500)) => (),
            }
            self.node.thaw().await;
            if self.signals.interruptions.get() != before {
                return Err(failed("interrupted"));
            }
        }
        Ok(result)
    }
}

impl World for Sight {
    fn allocator(&self) -> &Allocator {
        &self.server.allocator
    }

    fn settings(&self) -> Settings {
        self.node.settings.borrow().clone()
    }

    async fn home(&mut self) -> Result<Home, Failure> {
        let data = self.node.data.borrow();
        Ok(Home {
            name: data.name(),
            host: self.node.letter.clone(),
            data_directory: String::new(),
            timeline: data.timeline,
        })
    }

    async fn records(&mut self) -> Result<Vec<Record>, Failure> {
        self.begin().await?;
        Ok((*self.node.data.borrow().table).clone())
    }

    async fn write(&mut self, record: &Record) -> Result<(), Failure> {
        let (record, layout) = (record.clone(), self.node.cluster().layout);
        let number = layout.node(record.number.datacenter_id, record.number.worker_id).ok();
        let mark = layout.slot_of(record.reserved_until).unwrap_or(0);
        if let Some(number) = number {
            self.node.cluster().records(&self.node, number);
        }
        self.node.attempted.set(self.node.attempted.get().max(mark));
        self.transact(|table| match table.iter_mut().find(|other| other.node == record.node) {
            Some(found) => *found = record,
            None => table.push(record),
        })
        .await?;
        // Only now it may be relied upon.
        if let Some(number) = number {
            let mut data = self.node.data.borrow_mut();
            let known = data.marks.entry(number).or_default();
            *known = (*known).max(mark);
        }
        self.node.windows.set(self.node.windows.get() + 1);
        Ok(())
    }

    async fn amend(
        &mut self,
        node: &NodeName,
        lease: Option<&KeptLease>,
        drained: bool,
    ) -> Result<bool, Failure> {
        self.transact(|table| {
            let found = table.iter_mut().find(|record| record.node == *node);
            let is_there = found.is_some();
            if let Some(record) = found {
                record.lease = lease.cloned();
                record.drained = drained;
            }
            is_there
        })
        .await
    }

    fn hurry(&mut self) {
        self.hurried = true;
        self.signals.closing.set(true);
    }

    fn is_asked(&self) -> bool {
        self.server.asked.get() > self.server.answered.get()
    }

    fn take_order(&mut self) -> Option<Order> {
        self.server.orders.take()
    }

    fn answer_order(&mut self, outcome: Outcome) {
        self.server.orders.answer(outcome);
    }

    fn trust(&mut self, now: Option<Now>) {
        self.lessee.trust(now);
    }

    fn follow(
        &mut self,
        asked: &Asked,
        home: &Home,
        kept: Option<&KeptLease>,
        remembers: bool,
    ) -> Result<LeaseStatus, String> {
        let layout = self.node.cluster().layout;
        self.lessee.follow(asked, home, &layout, kept, remembers)
    }

    fn lease(&self) -> LeaseStatus {
        self.lessee.status()
    }

    fn another(&mut self, last: i64) {
        self.lessee.another(last);
    }

    fn give_back(&mut self, held: &Held, last: i64) {
        self.lessee.give_back(held, last);
    }

    fn let_go(&mut self) {
        self.lessee.let_go();
    }

    async fn release(&mut self, held: &Held, until: i64, at_most: Duration) -> Result<(), String> {
        self.lessee.released(held, until, at_most).await
    }

    fn show(&mut self, what: Shown<'_>) {
        if let Shown::Verdict(verdict) = what {
            if verdict.state == State::Ready && !self.server.joined.replace(true) {
                self.node.cluster().has_joined(&self.node, self.server.started);
            }
            if verdict.state == State::Ready
                && self.server.refused_while_locked.get()
                && self.node.disk.get().locked
            {
                self.node.cluster().found(&format!(
                    "node {} says that it is ready at {}, and no call has succeeded since one failed",
                    self.node.letter,
                    at(),
                ));
            }
            *self.server.verdict.borrow_mut() = verdict.clone();
        }
    }

    fn log(&mut self, notice: Notice<'_>) {
        let cluster = self.node.cluster();
        if cluster.is_verbose() {
            let what = match notice {
                Notice::Ready(number) => format!("ids flow with {:?}", number.worker_id),
                Notice::Stopped(verdict) => {
                    format!("no ids: {} {} {}", verdict.state.word(), verdict.micros, verdict.text)
                }
                Notice::SettingsNotUsed(verdict) => {
                    format!("the settings are not used: {}", verdict.state.word())
                }
                Notice::NewWorkerIdWaits(verdict) => {
                    format!("the new worker id waits: {}", verdict.state.word())
                }
                Notice::WorkerIdInUse(conflict) => {
                    format!("worker id in use by {}", conflict.record.node)
                }
                Notice::WorkerIdLost { to, .. } => format!("worker id lost to {to}"),
                Notice::LeaseNotRenewed { trouble, .. } => {
                    format!("the lease is not renewed: {}", trouble.why)
                }
                Notice::LeaseRenewed => "the lease is renewed again".to_owned(),
                Notice::LastIdNotRecorded(verdict) => {
                    format!("could not record the last id: {}", verdict.text)
                }
                Notice::LeaseNotGivenBack(why) => format!("the lease was not given back: {why}"),
            };
            self.node.note(&what);
        }
    }

    fn count(&mut self, _what: Counted, _by: u64) {}
}

/// A moment for the history.
pub(crate) fn at() -> String {
    seconds(time())
}
