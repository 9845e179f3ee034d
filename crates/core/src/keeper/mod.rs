//! The decisions of the keeper, the one process of a node that opens windows: whether ids are to be
//! had now, with which worker id, from where and up to where; and why not.
//!
//! It *looks*, again and again. A look reads the clocks, the settings and, where it has to, the
//! records; it ends with a window, or with a [`Verdict`]. What it sees and does, it does through a
//! [`World`]: a PostgreSQL server in earnest, a simulated one in `crates/simulation`.
//!
//! Windows are opened and extended with what [`Reserved::write`] returns, and there is no other way to
//! come by that: no window without a record of its worker id and its limit.
//!
//! * [`world`]: what it sees and can do; * [`verdict`]: what a look ends with;
//! * `source`: where the worker id comes from; * `own_record`: what is on disk of this node;
//! * `pace`: how often it looks, and when it renews; * `said`: what has been said already.

mod own_record;
mod pace;
mod said;
mod source;
pub mod verdict;
pub mod world;

pub use pace::Pause;
pub(crate) use pace::longest;
pub use verdict::{State, Verdict};
pub use world::{
    Counted, Estimate, Failure, Home, Notice, Order, Outcome, Reading, Settings, Shown, World,
};

use crate::clock_watch::ClockWatch;
use crate::error::TimeError;
use crate::layout::{Field, Layout};
use crate::reserved::{Journal, Reserved};
use crate::tenancy::{Held, KeptLease, LeaseStatus, Now};
use crate::window::{self, Beginning, Identity, LayoutChanged, NodeName, Number, Record, Running};
use own_record::OwnRecord;
use pace::{IDLE, Pace, REFUSING};
use said::Said;
use source::{Assigned, Source};
use std::time::Duration;

/// How long the end of the server may wait for the registry.
const FAREWELL: Duration = Duration::from_secs(1);
/// A node that ends in peace is back by then, or others may have its leased number: heartbeats.
const ABSENCE: u32 = 5;

/// The keeper of one node.
#[derive(Debug)]
pub struct Keeper<W> {
    world: W,
    layout: Layout,
    /// The present run of the machine.
    boot_id: String,
    /// Who the node is; known from the first look on that could find out.
    home: Option<Home>,
    watch: Option<ClockWatch>,
    own: OwnRecord,
    /// Where the number comes from, by the last settings that said so.
    source: Option<Source>,
    /// The lease of the number that is in use, or was last to be.
    leased: Option<Held>,
    /// The window that this process has opened.
    open: Option<Open>,
    /// What is to be opened.
    opening: Option<Opening>,
    /// The nodes whose records have been seen.
    known: Vec<NodeName>,
    pace: Pace,
    said: Said,
    /// What the registry had answered, and not, at the last look.
    answers: (u64, u64),
}

/// A window.
#[derive(Clone, Debug)]
struct Open {
    assigned: Assigned,
    /// When it was opened: the wall clock.
    since: i64,
    /// Where the cursor was at the last look.
    cursor: u64,
}

/// A window that is to be.
#[derive(Clone, Debug)]
struct Opening {
    number: Number,
    /// When it was first tried: the wall clock.
    since: i64,
    /// The records that decide where it begins, while it waits for the clock to come there: a node
    /// with the same number that goes on issuing ids cannot put it off again and again.
    records: Option<Vec<Record>>,
}

/// One look: when, by which settings, and what an administrator wants of it.
struct Look {
    reading: Reading,
    settings: Settings,
    order: Option<Order>,
}

impl Look {
    /// Takes the order, if it is this one.
    fn is_ordered(&mut self, order: Order) -> bool {
        self.order.take_if(|wanted| *wanted == order).is_some()
    }

    /// Below which slot no ids are to be issued any more, if that is the order.
    fn floor(&self, layout: &Layout) -> Option<u64> {
        match self.order {
            Some(Order::SetFloor(id)) => Some(window::above_id(layout, id)),
            _ => None,
        }
    }
}

/// Writes the record of a window, for the number that it is for.
struct Write<'a, W> {
    keeper: &'a mut Keeper<W>,
    look: &'a Look,
    held: Option<&'a Held>,
}

impl<W: World> Journal for Write<'_, W> {
    type Error = Failure;

    async fn write(&mut self, node: u64, mark: u64) -> Result<(), Failure> {
        self.keeper.write(node, self.held, mark, self.look).await
    }
}

impl<W: World> Keeper<W> {
    /// A keeper that has not looked yet. `boot_id` tells one run of the machine from the next.
    pub fn new(world: W, layout: Layout, boot_id: String) -> Self {
        Self {
            world,
            layout,
            boot_id,
            home: None,
            watch: None,
            own: OwnRecord::default(),
            source: None,
            leased: None,
            open: None,
            opening: None,
            known: Vec::new(),
            pace: Pace::default(),
            said: Said::default(),
            answers: (0, 0),
        }
    }

    /// The server around it.
    pub const fn world(&mut self) -> &mut W {
        &mut self.world
    }

    /// One look: opens or extends the window, or says why there are no ids; and when to look again.
    pub async fn look(&mut self, reading: &Reading) -> Pause {
        let (settings, order) = (self.world.settings(), self.world.take_order());
        let mut look = Look { reading: *reading, settings, order };
        let pause = match self.attempt(&mut look).await {
            Ok(pause) => pause,
            Err(verdict) => {
                self.say(&verdict);
                Pause::unless_asked(IDLE)
            }
        };
        // What cannot be done now is refused, not done later.
        if look.order.is_some() {
            self.world.answer_order(Outcome::Refused);
        }
        pause
    }

    async fn attempt(&mut self, look: &mut Look) -> Result<Pause, Verdict> {
        let source = self.source(look)?;
        self.recall(look).await?;
        let clock = self.check_clock(look);
        let now = clock.is_ok().then(|| self.now(look));
        self.world.trust(now);
        clock?;
        if self.layout.tick_at(look.reading.now) == Err(TimeError::AfterEnd) {
            return Err(State::TimeExhausted.into());
        }
        if look.is_ordered(Order::Drain) {
            self.drain(true, look).await?;
        } else if look.is_ordered(Order::Resume) {
            self.drain(false, look).await?;
        }
        if self.own.drained {
            if self.own.failed || self.own.is_stale {
                // The opposite may have been written, by an attempt that seemed to fail.
                self.write_drained(None, look).await?;
                self.own.failed = false;
            }
            // A lease that it holds goes on.
            let lease = self.world.lease();
            self.world.show(Shown::Lease(&lease));
            return Err(State::Drained.into());
        }
        let assigned = match (self.assigned(source, look).await, self.open.clone()) {
            (Ok(Some(assigned)), _) => assigned,
            // By other settings there was a number: it is used until there is a new one.
            (waiting, Some(mut open)) => {
                if let Err(verdict) = waiting {
                    self.put_off(&verdict);
                }
                // By other terms, its lease may go on.
                let held = self.world.lease().held;
                let held = held.filter(|held| held.number == open.assigned.node);
                if open.assigned.held.is_some() && held.is_some() {
                    open.assigned.held = held;
                }
                return self.extend(open, look).await;
            }
            (Ok(None), None) => {
                self.world.show(Shown::Verdict(&State::Starting.into()));
                return Ok(Pause::unless_asked(REFUSING));
            }
            (Err(verdict), None) => return Err(verdict),
        };
        self.world.show(Shown::Assigned(assigned.node));
        if let Some(slot) = look.floor(&self.layout)
            && let Some(open) = self.open.clone()
        {
            self.raise(slot, open, look).await?;
            look.order = None;
        }
        let Some(open) = self.open.clone() else { return self.begin(assigned, look).await };
        if open.assigned.node == assigned.node {
            self.said.forget_put_off();
            if assigned.held.is_none() && self.leased.take().is_some() {
                // Its lease ends by itself: nobody else shall have the number before.
                self.world.let_go();
            }
            if assigned.floor() > open.assigned.floor() {
                // Others may have had the number meanwhile.
                self.close_window();
                return self.begin(assigned, look).await;
            }
            self.opening = None;
            return self.extend(Open { assigned, ..open }, look).await;
        }
        // The old number is used until the new one can be.
        let node = assigned.node;
        let begun = self.begin(assigned, look).await;
        if let Some(open) = self.open.clone()
            && open.assigned.node != node
        {
            if let Err(verdict) = &begun {
                self.put_off(verdict);
            }
            self.extend(open, look).await?;
        }
        begun.or(Ok(Pause::unless_asked(IDLE)))
    }

    /// Where the number comes from. Settings that contradict each other, or lack a part, stop no
    /// node that runs: what they are to be, somebody will have to say first. It goes on by those that
    /// it had.
    fn source(&mut self, look: &Look) -> Result<Source, Verdict> {
        let state = match source::source(&self.layout, &look.settings) {
            Ok(source) => {
                self.said.forget_unusable();
                return Ok(self.source.insert(source).clone());
            }
            Err(state) => state,
        };
        let is_slip = matches!(state, State::TwoSources | State::NoDatacenterId);
        if let Some(source) = self.source.clone().filter(|_| is_slip && self.open.is_some()) {
            self.said.unusable(&mut self.world, &state.into());
            return Ok(source);
        }
        self.source = None;
        self.close_window();
        self.let_go();
        Err(state.into())
    }

    /// The time that a lease is for: ids may run ahead of the clock.
    fn now(&self, look: &Look) -> Now {
        let cursor = self.world.allocator().position(&self.layout).cursor;
        let ahead = look.reading.now.saturating_add_unsigned(look.settings.max_ahead);
        let ids = window::time_of_slot(&self.layout, cursor).max(ahead);
        Now { wall: look.reading.now, ids }
    }

    /// At the first look: who this node is, and what it has recorded of itself.
    async fn recall(&mut self, look: &Look) -> Result<(), Failure> {
        if self.watch.is_some() {
            return Ok(());
        }
        let home = match self.home.take() {
            Some(home) => home,
            None => self.world.home().await?,
        };
        self.world.show(Shown::Home(&home));
        self.home = Some(home.clone());
        let records = self.world.records().await?;
        let layout = self.layout;
        let identity = identity(&layout, &home, Number::default());
        self.own = OwnRecord::recall(&records, &identity);
        // The clock is compared with what this node trusted since the machine was started.
        let this_run =
            |record: &&Record| record.boot_id == self.boot_id && !self.boot_id.is_empty();
        let own = records.iter().filter(|record| identity.is_own(record));
        let trusted = own.filter(this_run).map(|record| record.booted_at).max();
        self.watch = Some(ClockWatch::new(trusted.unwrap_or(look.reading.booted_at)));
        Ok(())
    }

    /// Whether the clock can be believed.
    fn check_clock(&mut self, look: &mut Look) -> Result<(), Verdict> {
        let reading = look.reading;
        let mut watch = self.watch.unwrap_or(ClockWatch::new(reading.booted_at));
        let max_jump = look.settings.max_clock_jump;
        let mut jump = watch.look(reading.booted_at, max_jump);
        if look.is_ordered(Order::AcceptClock) {
            self.world.answer_order(if jump.is_err() { Outcome::Done } else { Outcome::Nothing });
            if jump.is_err() {
                watch.accept(reading.booted_at);
                jump = Ok(());
            }
        }
        self.watch = Some(watch);
        let jumped = jump.err().unwrap_or(0);
        self.world.show(Shown::ClockJump(jumped));
        if self.said.is_new_jump(jumped) {
            self.world.count(Counted::ClockJumps, 1);
        }
        jump.map_err(|by| Verdict::of(State::ClockJumped, by, ""))?;
        let Some(max) = look.settings.max_clock_error else { return Ok(()) };
        let error = reading.estimate.ok_or(State::ClockUnknown)?.error.max(0).unsigned_abs();
        if error > max { Err(Verdict::of(State::ClockError, error, "")) } else { Ok(()) }
    }

    /// The number to issue ids with; none while one is being leased.
    async fn assigned(
        &mut self,
        source: Source,
        look: &mut Look,
    ) -> Result<Option<Assigned>, Verdict> {
        let asked = match source {
            Source::Setting(assigned) => {
                if self.leased.is_none() {
                    self.world.let_go();
                }
                self.world.show(Shown::Lease(&LeaseStatus::default()));
                return Ok(Some(assigned));
            }
            Source::Registry(asked) => asked,
        };
        let home = self.home().await?;
        if look.is_ordered(Order::Exchange) {
            let exchanged = self.exchange().await;
            let outcome = if exchanged.is_ok() { Outcome::Done } else { Outcome::Refused };
            self.world.answer_order(outcome);
            exchanged?;
        }
        let (kept, has_mark) = (self.own.kept.clone(), self.own.has_mark);
        let status = self.world.follow(&asked, &home, kept.as_ref(), has_mark);
        let status = status.map_err(|why| Verdict::of(State::NoLease, 0, why))?;
        self.count_answers(&status);
        let in_doubt = status.held.is_none() && status.trouble.is_some();
        let on_disk = in_doubt.then(|| self.lease_on_disk(status.answered, &asked, look)).flatten();
        // Until when ids flow is to be seen whichever of the two they flow by.
        let held = status.held.clone().or_else(|| on_disk.clone());
        self.world.show(Shown::Lease(&LeaseStatus { held, ..status.clone() }));
        let claimed = self.claimed(&status);
        let open = self.open.as_ref().and_then(|open| open.assigned.nonce());
        if let Some(contested) = &status.contested
            && Some(&*contested.nonce) == open
            && self.close_window().is_some()
        {
            let same = contested.node == home.name.to_string();
            let to = format!("{} ({})", contested.node, contested.host);
            self.world.log(Notice::WorkerIdLost { to, same });
            // It shall not come back as the holder, nor give back what is another's.
            (self.own.kept, self.leased) = (None, None);
            self.amend(None).await?;
        }
        let when = (look.reading.now, asked.terms);
        if let Some(held) = status.held {
            self.said.lease(&mut self.world, status.trouble.as_ref(), held.until, when);
            self.own.kept = Some(held.kept());
            if let Some(leased) = self.leased.as_mut().filter(|leased| leased.number == held.number)
            {
                leased.clone_from(&held);
            }
            return Ok(Some(Assigned::leased(&self.layout, held)));
        }
        match (claimed, status.trouble) {
            (_, Some(trouble)) => match on_disk {
                Some(held) => {
                    self.said.lease(&mut self.world, Some(&trouble), held.until, when);
                    Ok(Some(Assigned::leased(&self.layout, held)))
                }
                None => Err(Verdict::of(State::NoLease, 0, trouble.why)),
            },
            (Some(claimed), None) => Err(claimed),
            (None, None) => Ok(None),
        }
    }

    /// While the registry has not been heard of: the lease that this node has on its own disk, which is
    /// as good as that of a node that runs on. It is this node's own, of the present timeline, and has
    /// not ended; what ids were issued with it, its mark says.
    fn lease_on_disk(
        &self,
        answered: bool,
        asked: &crate::tenancy::Asked,
        look: &Look,
    ) -> Option<Held> {
        let (number, kept) = self.own.lease().filter(|_| !answered)?;
        let id = number.checked_sub(asked.base)?;
        if !asked.range.contains(&id) || kept.until <= look.reading.now {
            return None;
        }
        // Of what it may issue from, the mark knows better than the lease's own beginning; where the
        // lease's window is open, it goes on.
        let open = self.open.as_ref().map(|open| &open.assigned);
        let open = open.filter(|assigned| assigned.nonce() == Some(&*kept.nonce));
        let floor = open.and_then(Assigned::floor);
        let floor = floor.unwrap_or_else(|| window::time_of_slot(&self.layout, self.own.written));
        let KeptLease { nonce, until } = kept.clone();
        Some(Held { number, floor, until, nonce, followed: false })
    }

    /// Counts what the registry has answered since the last look.
    fn count_answers(&mut self, status: &LeaseStatus) {
        let (renewals, failures) = self.answers;
        // A holder that is new begins at 0.
        let since = |now: u64, then| now.checked_sub(then).unwrap_or(now);
        self.world.count(Counted::LeaseRenewals, since(status.renewals, renewals));
        self.world.count(Counted::LeaseFailures, since(status.failures, failures));
        self.answers = (status.renewals, status.failures);
    }

    /// That a number has been claimed, to which others may object.
    fn claimed(&self, status: &LeaseStatus) -> Option<Verdict> {
        let (number, until) = status.claimed.filter(|_| status.trouble.is_none())?;
        let id = self.layout.number_in(Field::Worker, number).unwrap_or(number);
        Some(Verdict::of(State::LeaseClaimed, until.cast_unsigned(), id.to_string()))
    }

    /// Gives the leased number back and has another one leased.
    async fn exchange(&mut self) -> Result<(), Failure> {
        let leased = self.open.as_ref().is_some_and(|open| open.assigned.held.is_some());
        let ended = if leased { self.close_window() } else { None };
        let last = ended.map_or(self.own.written, |(_, end)| end);
        let last = window::time_of_next_tick(&self.layout, last);
        self.own.kept = None;
        // Written before: a node that believed itself the holder could come back as such.
        self.amend(None).await?;
        if let Some(before) = self.leased.take() {
            self.world.give_back(&before, last);
        }
        self.world.another(last);
        Ok(())
    }

    /// Ends the issuing of ids until further notice, or begins it again.
    async fn drain(&mut self, drain: bool, look: &Look) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.own.drained, drain);
        let ended = if drain { self.close_window() } else { None };
        let written = self.write_drained(ended, look).await;
        self.answer(&written);
        // What is not written down is not so.
        written.inspect_err(|_| self.own.drained = before)
    }

    async fn write_drained(
        &mut self,
        ended: Option<(Open, u64)>,
        look: &Look,
    ) -> Result<(), Failure> {
        if let Some((open, end)) = ended {
            return self.write(open.assigned.node, open.assigned.held.as_ref(), end, look).await;
        }
        if self.own.is_stale {
            // After an upgrade the newest record is the last word. So it becomes one of the present timeline,
            // and with that above all that a start would have to stay clear of.
            let home = self.home().await?;
            let records = self.records().await?;
            let own = records.iter().find(|record| record.node == home.name);
            match own.filter(|own| own.has_mark()) {
                Some(own) => {
                    if let Some((node, mark)) = self.above_all(own.number, &records, &home, look) {
                        return self.write(node, None, mark, look).await;
                    }
                }
                None => return self.write_without_mark(look).await,
            }
        }
        let lease = self.own.recorded();
        if self.amend(lease).await? {
            // Of another layout it stays what it is.
            self.own.is_stale = false;
            return Ok(());
        }
        self.write_without_mark(look).await
    }

    /// Where a start with a number would have to begin, and the number as one; none by records of
    /// another layout.
    fn above_all(
        &self,
        number: Number,
        records: &[Record],
        home: &Home,
        look: &Look,
    ) -> Option<(u64, u64)> {
        let beginning = Beginning {
            since: look.reading.now,
            max_ahead: look.settings.max_ahead,
            guard: look.settings.promotion_guard,
            running: None,
            leased_from: None,
        };
        let start = window::start(records, &identity(&self.layout, home, number), &beginning);
        Some((number.node(&self.layout)?, start.ok()?.floor))
    }

    /// A record of a node that says nothing of ids.
    async fn write_without_mark(&mut self, look: &Look) -> Result<(), Failure> {
        let home = self.home().await?;
        let record = self.record(&home, look);
        let written = self.world.write(&record).await;
        // Nobody knows what it says of the draining now.
        self.own.failed |= written.is_err();
        self.own.is_stale &= written.is_err();
        written
    }

    /// Ends a window that issues ids below a floor; the next one begins above. A node without a window
    /// has to know first where it may begin, and does it in [`Self::begin`].
    async fn raise(&mut self, slot: u64, open: Open, look: &Look) -> Result<(), Failure> {
        // What is claimed next is above it, and recorded.
        let mut written = Ok(());
        if self.world.allocator().position(&self.layout).cursor >= slot {
            // Sessions may have claimed before.
            self.world.allocator().drop_claimed();
        } else {
            let end = self.close_window().map_or(0, |(_, end)| end);
            let (node, held) = (open.assigned.node, open.assigned.held.as_ref());
            written = self.write(node, held, end.max(slot), look).await;
        }
        self.answer(&written);
        written
    }

    /// What became of an order that has to be written down.
    fn answer(&mut self, written: &Result<(), Failure>) {
        let outcome = if written.is_ok() { Outcome::Done } else { Outcome::Refused };
        self.world.answer_order(outcome);
    }

    /// Opens a window for a number: at the start, and when it was changed. A number that is
    /// open already stays so until the new one is reserved.
    async fn begin(&mut self, assigned: Assigned, look: &Look) -> Result<Pause, Verdict> {
        let (reading, settings) = (&look.reading, &look.settings);
        self.check_lease(&assigned, reading.now)?;
        let home = self.home().await?;
        let number = assigned.number;
        let opening = self.opening.take().filter(|opening| opening.number == number);
        let mut opening = opening.unwrap_or(Opening { number, since: reading.now, records: None });
        // A clock that was put right since is the better one.
        opening.since = opening.since.min(reading.now);
        let since = opening.since;
        let settled = opening.records.take();
        self.opening = Some(opening);
        let records = match settled {
            Some(records) => records,
            None => self.records().await?,
        };
        let running = self.open.as_ref().map(|_| self.own.written);
        let beginning = Beginning {
            since,
            max_ahead: settings.max_ahead,
            guard: settings.promotion_guard,
            running,
            leased_from: assigned.floor(),
        };
        let layout = self.layout;
        let identity = identity(&layout, &home, number);
        let start = window::start(&records, &identity, &beginning);
        let start = start.map_err(|LayoutChanged(record)| {
            Verdict::of(State::LayoutChanged, record.epoch.cast_unsigned(), &*record.layout)
        })?;
        let copy = start.conflict.filter(|conflict| conflict.copy);
        if let Some(copy) = copy.filter(|_| settings.refuse_copy) {
            let name = copy.record.node.to_string();
            self.world.show(Shown::Conflict(&name));
            return Err(Verdict::of(State::Copy, 0, name));
        }
        self.said.conflict(&mut self.world, start.conflict);
        let lead = start.max_ahead.saturating_sub(settings.max_ahead);
        let mut floor = start.floor;
        let ordered = look.floor(&self.layout);
        if let Some(slot) = ordered {
            // Above all that the start has to stay clear of, too: by its own record the node goes on.
            floor = floor.max(slot).max(self.world.allocator().position(&self.layout).cursor);
            let written = self.write(assigned.node, assigned.held.as_ref(), floor, look).await;
            self.answer(&written);
            written?;
        }
        // Before anybody asks, nothing is reserved: there may be records still to come, from a
        // dump that is being restored.
        let wanted = running.is_some() || self.world.is_asked() || self.own.failed;
        // Slot 0: nothing has been issued, and before the epoch calls wait for the clock themselves.
        let wait = match floor {
            0 => 0,
            floor => window::until(&self.layout, reading.now, floor, settings.max_ahead),
        };
        let patience =
            window::patience(&self.layout, settings.reservation, settings.promotion_guard);
        if wait > patience.saturating_add(lead) {
            return Err(Verdict::of(State::ClockBehind, wait, ""));
        }
        if wait > 0 {
            if running.is_none() {
                let until = reading.now.saturating_add_unsigned(wait);
                let verdict = Verdict::of(State::Starting, until.cast_unsigned(), "");
                self.world.show(Shown::Verdict(&verdict));
            }
            // They do not say yet what has just been ordered.
            if let Some(opening) = self.opening.as_mut().filter(|_| wanted && ordered.is_none()) {
                opening.records = Some(records);
            }
            return Ok(Pause::unless_asked(Duration::from_micros(wait).min(IDLE)));
        }
        if !wanted {
            if !self.own.says(assigned.node, assigned.nonce()) {
                // By its lease on record, the node has the same number at once after its next start.
                let mark = floor.max(self.world.allocator().position(&self.layout).cursor);
                self.write(assigned.node, assigned.held.as_ref(), mark, look).await?;
                self.leave(&assigned, self.own.written);
            }
            self.say_ready(number);
            return Ok(Pause::up_to(IDLE));
        }
        let cursor = self.world.allocator().position(&self.layout).cursor.max(floor);
        let length = settings.reservation;
        let Some(reserved) = self.reserve(&assigned, cursor, 0, length, look).await? else {
            return Ok(Pause::unless_asked(REFUSING));
        };
        let end = self.world.allocator().open(&self.layout, floor, reserved);
        self.leave(&assigned, end);
        if self.open.as_ref().is_some_and(|open| open.assigned.number != number) {
            self.world.count(Counted::WorkerIdChanges, 1);
        }
        let cursor = self.world.allocator().position(&self.layout).cursor;
        self.open = Some(Open { assigned, since: reading.now, cursor });
        self.opening = None;
        self.known = names(&records);
        self.pace.open(reading.uptime());
        self.say_ready(number);
        Ok(Pause::while_called(settings.reservation))
    }

    /// A number is in use from now on: that of an earlier lease, with which there are no ids
    /// from `end` on, is not needed any more.
    fn leave(&mut self, assigned: &Assigned, end: u64) {
        let Some(before) = std::mem::replace(&mut self.leased, assigned.held.clone()) else {
            return;
        };
        if assigned.node != before.number {
            // If another node has it by now, that changes nothing.
            self.world.give_back(&before, window::time_of_next_tick(&self.layout, end));
        }
        if assigned.held.is_none() {
            self.world.let_go();
            self.own.kept = None;
        }
    }

    /// Reserves more while calls keep coming, or one waits.
    async fn extend(&mut self, open: Open, look: &Look) -> Result<Pause, Verdict> {
        let (reading, settings) = (&look.reading, &look.settings);
        let position = self.world.allocator().position(&self.layout);
        let remaining =
            window::remaining(&self.layout, reading.now, position.cursor, position.limit);
        let asked = self.world.is_asked();
        self.pace.note(reading.uptime(), asked || position.cursor != open.cursor);
        self.open = Some(open.clone());
        self.check_lease(&open.assigned, reading.now)?;
        let (node, held) = (open.assigned.node, open.assigned.held.as_ref());
        let kept = self.own.kept.as_ref().map(|kept| kept.nonce.as_str());
        if let Some(nonce) = open.assigned.nonce()
            && kept == Some(nonce)
            && !self.own.says(node, Some(nonce))
        {
            // By that the node has the same number at once after a crash.
            self.write(node, held, position.limit.max(position.cursor), look).await?;
        }
        let renewal = self.pace.renewal(reading.uptime(), asked, settings.reservation);
        let length = renewal.map_or(settings.reservation, |renewal| renewal.length);
        if self.own.failed || renewal.is_some_and(|renewal| remaining < renewal.below) {
            let mark = self.look_at_others(&open).await?;
            if mark > position.cursor {
                // It begins anew, above a record that has been restored.
                self.close_window();
                return self.begin(open.assigned, look).await;
            }
            let used = window::time_of_slot(&self.layout, position.cursor)
                - window::time_of_slot(&self.layout, open.cursor);
            let used = u64::try_from(used).unwrap_or(0);
            let cursor = position.cursor;
            if let Some(reserved) = self.reserve(&open.assigned, cursor, used, length, look).await?
            {
                self.world.allocator().extend(&self.layout, reserved);
            }
        }
        let number = open.assigned.number;
        // By where the ids were at the last look: those that were issued since the clock was read, while a
        // record was written slowly, are not ahead of it.
        let behind = window::until(&self.layout, reading.now, open.cursor, settings.max_ahead);
        self.open = Some(Open { cursor: position.cursor, ..open });
        if behind > settings.max_wait.max(self.layout.tick_length()) {
            self.say(&Verdict::of(State::ClockFellBehind, behind, ""));
        } else {
            self.say_ready(number);
        }
        Ok(if self.pace.is_warm(reading.uptime()) {
            Pause::while_called(settings.reservation)
        } else {
            Pause::up_to(IDLE)
        })
    }

    /// Writes the record of a window that begins at `cursor`. With it, the window may be opened or
    /// extended; `None` where it reaches as far as it can for now.
    async fn reserve(
        &mut self,
        assigned: &Assigned,
        cursor: u64,
        used: u64,
        length: u64,
        look: &Look,
    ) -> Result<Option<Reserved>, Verdict> {
        // Ids that run ahead of the clock use up windows faster than it does: then as much is
        // reserved as they will use until the next looks.
        let end = window::end(
            &self.layout,
            look.reading.now,
            cursor,
            length,
            used.saturating_mul(4),
            look.settings.max_ahead,
        );
        let position = self.world.allocator().position(&self.layout);
        let same = position.limit > 0 && position.node == assigned.node;
        let leased = assigned.held.as_ref().map(|held| window::lease_end(&self.layout, held.until));
        let limit = end.min(leased.unwrap_or(u64::MAX));
        // What is open already is not taken away.
        let limit = if same { limit.max(position.limit) } else { limit };
        if window::remaining(&self.layout, look.reading.now, cursor, limit) == 0 {
            self.check_lease(assigned, i64::MAX)?;
        }
        if same && limit == position.limit && !self.own.failed {
            // The lease allows no more for now.
            return Ok(None);
        }
        // Until the number has changed, ids of the old one are issued up to its limit. And ids of a
        // clock that has been set back since may be beyond what is reserved now.
        let above = position.limit.max(position.cursor);
        let held = assigned.held.as_ref();
        let mut journal = Write { keeper: self, look, held };
        let reserved = Reserved::write(&mut journal, assigned.node, limit, above).await?;
        self.own.failed = false;
        self.world.count(Counted::Windows, 1);
        Ok(Some(reserved))
    }

    /// Whether a leased number may be used for ids of a time.
    fn check_lease(&self, assigned: &Assigned, time: i64) -> Result<(), Verdict> {
        let Some(held) = assigned.held.as_ref().filter(|held| held.until <= time) else {
            return Ok(());
        };
        let status = self.world.lease();
        if let Some(claimed) = self.claimed(&status) {
            return Err(claimed);
        }
        let why = match (held.followed, status.trouble) {
            (true, _) => "another node has the worker id now".to_owned(),
            (false, Some(trouble)) => trouble.why,
            (false, None) => String::new(),
        };
        Err(Verdict::of(State::LeaseEnded, held.until.cast_unsigned(), why))
    }

    /// Other nodes' records can come while this one runs: by logical replication that of
    /// a node with the same number, with restored data an old one. The mark of the latter.
    async fn look_at_others(&mut self, open: &Open) -> Result<u64, Failure> {
        let home = self.home().await?;
        let records = self.records().await?;
        let layout = self.layout;
        let identity = identity(&layout, &home, open.assigned.number);
        // While another number is to be opened, it is that one's conflicts that matter.
        if self.opening.is_none() {
            let conflict = window::conflict(&records, &identity);
            // Whose a leased number is, the registry knows.
            let conflict = conflict.filter(|_| open.assigned.held.is_none());
            self.said.conflict(&mut self.world, conflict);
        }
        let (since, known, written) = (open.since, &self.known[..], self.own.written);
        let mark = window::late_mark(&records, &identity, &Running { since, known, written });
        self.known = names(&records);
        Ok(mark)
    }

    /// The record as it is to be, but for number, mark and lease.
    fn record(&self, home: &Home, look: &Look) -> Record {
        let trusted = self.watch.map_or(look.reading.booted_at, |watch| watch.booted_at());
        Record {
            node: home.name.clone(),
            reserved_until: 0,
            number: Number::default(),
            layout: self.layout.to_string(),
            epoch: self.layout.epoch(),
            timeline: home.timeline,
            max_ahead: look.settings.max_ahead,
            updated_at: look.reading.now,
            boot_id: self.boot_id.clone(),
            booted_at: trusted,
            host: home.host.clone(),
            data_directory: home.data_directory.clone(),
            lease: None,
            drained: self.own.drained,
        }
    }

    /// Writes this node's record: ids of `node` are below `mark`.
    async fn write(
        &mut self,
        node: u64,
        held: Option<&Held>,
        mark: u64,
        look: &Look,
    ) -> Result<(), Failure> {
        let home = self.home().await?;
        self.own.written = self.own.written.max(mark);
        // While another number is being leased, what is kept may be of that one already.
        let lease = held.map(|held| match &self.own.kept {
            Some(kept) if kept.nonce == held.nonce => kept.clone(),
            _ => held.kept(),
        });
        let record = Record {
            reserved_until: self.layout.id(node, mark),
            number: Number::of(&self.layout, node),
            lease: lease.clone(),
            ..self.record(&home, look)
        };
        match self.world.write(&record).await {
            Ok(()) => {
                self.own.wrote(node, mark, lease);
                Ok(())
            }
            Err(failure) => {
                self.own.unknown();
                self.own.failed = true;
                Err(failure)
            }
        }
    }

    /// Changes only what the record says of the lease and of the draining, and says whether there
    /// is one.
    async fn amend(&mut self, lease: Option<KeptLease>) -> Result<bool, Failure> {
        let home = self.home().await?;
        match self.world.amend(&home.name, lease.as_ref(), self.own.drained).await {
            Ok(found) => {
                self.own.amended(lease);
                Ok(found)
            }
            Err(failure) => {
                self.own.failed = true;
                Err(failure)
            }
        }
    }

    /// All records.
    async fn records(&mut self) -> Result<Vec<Record>, Failure> {
        let records = self.world.records().await;
        self.own.failed |= records.is_err();
        records
    }

    /// Who and where this node is.
    async fn home(&mut self) -> Result<Home, Failure> {
        if let Some(home) = &self.home {
            return Ok(home.clone());
        }
        let home = self.world.home().await?;
        self.home = Some(home.clone());
        Ok(home)
    }

    /// There is nothing to lease.
    fn let_go(&mut self) {
        self.world.let_go();
        self.world.show(Shown::Lease(&LeaseStatus::default()));
    }

    /// Publishes a verdict, and logs it if it is a new one.
    fn say(&mut self, verdict: &Verdict) {
        let number = self.open.as_ref().map(|open| open.assigned.number);
        let number = number.or(self.opening.as_ref().map(|opening| opening.number));
        self.said.verdict(&mut self.world, verdict, number);
    }

    fn say_ready(&mut self, number: Number) {
        self.said.verdict(&mut self.world, &State::Ready.into(), Some(number));
    }

    /// Says, once, why a changed number is not used yet.
    fn put_off(&mut self, verdict: &Verdict) {
        self.said.put_off(&mut self.world, verdict);
    }

    /// Closes the window, for good or until there is a number again: what was open, and the end of
    /// what was issued. Whatever is opened next, it is by records that are read after that.
    fn close_window(&mut self) -> Option<(Open, u64)> {
        self.opening = None;
        let allocator = self.world.allocator();
        // It may have been opened by a keeper that did not end in peace.
        if allocator.position(&self.layout).limit == 0 {
            self.open = None;
            return None;
        }
        let end = allocator.close(&self.layout);
        self.open.take().map(|open| (open, end))
    }

    /// The lease that is to be given back at the end: that of the window that was open, or of the
    /// number that ids were issued with last; as the registry last confirmed it, or as the node knows
    /// it where nothing has been heard of the registry since the start, or since its terms changed.
    fn leaving(&self, open: Option<&Open>) -> Option<Held> {
        let node = open.map(|open| open.assigned.node).or(self.leased.as_ref().map(|l| l.number));
        let is_it = |held: &Held| node.is_none_or(|node| node == held.number);
        let known = self.leased.clone().or_else(|| open?.assigned.held.clone());
        self.world.lease().held.filter(is_it).or(known)
    }

    /// The end in peace: records exactly what was issued, so that the next start waits for
    /// nothing, and lets go of the lease.
    pub async fn close(mut self, reading: &Reading) {
        self.world.show(Shown::Verdict(&State::Starting.into()));
        self.world.hurry();
        let look = Look { reading: *reading, settings: self.world.settings(), order: None };
        let ended = self.close_window();
        let held = self.leaving(ended.as_ref().map(|(open, _)| open));
        let last = ended.as_ref().map_or(self.own.written, |(_, end)| *end);
        let last = window::time_of_next_tick(&self.layout, last);
        let heartbeat = look.settings.terms.heartbeat.as_micros() as u64;
        let back = reading.now.saturating_add_unsigned(heartbeat * u64::from(ABSENCE));
        let until = held.as_ref().map(|held| last.max(back).min(held.until));
        // What the disk says of the lease as long as nothing else is written.
        let on_disk = held.as_ref().and_then(|held| self.own.lease_end(held.number));
        // A window has been opened by this very lease: so the mark is not below the lease's beginning, and
        // by it alone the node may come back. By one that it has only got, it could begin too early.
        let is_used =
            held.as_ref().is_some_and(|held| self.own.says(held.number, Some(&held.nonce)));
        if let Some((held, until)) = held.as_ref().zip(until) {
            self.own.kept = Some(KeptLease { nonce: held.nonce.clone(), until });
        }
        let written = match &ended {
            Some((open, end)) => {
                let held = held.as_ref().filter(|_| open.assigned.held.is_some());
                self.write(open.assigned.node, held, *end, &look).await
            }
            None if is_used => self.amend(self.own.kept.clone()).await.map(drop),
            // It says what is over, or nobody knows what.
            None if on_disk.is_some() || held.is_some() && self.own.failed => {
                self.amend(None).await.map(drop)
            }
            None => Ok(()),
        };
        let until = match written {
            Ok(()) => until,
            Err(failure) => {
                // The old record stands: the next start is as after a crash. And by it the node may
                // go on with its lease: nobody else may have the number before.
                self.world.log(Notice::LastIdNotRecorded(&failure.into()));
                let end = on_disk.or(held.as_ref().map(|held| held.until));
                until.max(end)
            }
        };
        // Not before: the node must know itself that its lease ends sooner now.
        if let Some((held, until)) = held.zip(until)
            && let Err(why) = self.world.release(&held, until, FAREWELL).await
        {
            self.world.log(Notice::LeaseNotGivenBack(&why));
        }
    }
}

fn identity<'a>(layout: &'a Layout, home: &'a Home, number: Number) -> Identity<'a> {
    Identity { node: &home.name, number, layout, timeline: home.timeline }
}

fn names(records: &[Record]) -> Vec<NodeName> {
    records.iter().map(|record| record.node.clone()).collect()
}
