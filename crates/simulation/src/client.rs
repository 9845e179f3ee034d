//! Sessions that have ids generated: one at a time, in blocks, in batches.

use crate::chance::Chance;
use crate::machine::At;
use crate::node::{Node, Server};
use crate::time;
use snowflake_core::keeper::State;
use snowflake_core::{Claim, ClaimedTick, Seen, Slots};
use std::rc::Rc;
use tokio::task::spawn_local;

/// How long the keeper may take to answer, and how far a clock may be behind and be waited for;
/// microseconds.
const KEEPER_TIMEOUT: i64 = 5_000_000;
pub(crate) const MAX_WAIT: u64 = 5_000;
/// How often a session looks whether the keeper has answered.
const LOOK: u64 = 5_000;

/// Opens the sessions of a server that has just been started.
pub(crate) fn start(node: &Rc<Node>, server: &Rc<Server>) {
    let sessions = node.cluster().world.sessions;
    for _ in 0..sessions {
        let chance = Chance::new(node.throw(Chance::next));
        let session = Session {
            node: Rc::clone(node),
            server: Rc::clone(server),
            chance,
            tick: ClaimedTick::default(),
            block: Slots::default(),
        };
        let task = spawn_local(session.run());
        server.tasks.borrow_mut().push(task.abort_handle());
    }
}

struct Session {
    node: Rc<Node>,
    server: Rc<Server>,
    chance: Chance,
    tick: ClaimedTick,
    block: Slots,
}

/// Why a call got no id.
enum Refused {
    /// The clock is behind the ids.
    Clock,
    /// It is behind an id that was seen.
    Seen,
    /// The keeper says why.
    Verdict(State),
    /// It says nothing.
    Silent,
    /// The layout is used up.
    Time,
}

impl Session {
    async fn run(mut self) {
        loop {
            // A habit, for a while: how often, and how many at once.
            let pause = self.chance.pick(self.node.cluster().world.pauses);
            let kind = self.chance.below(6);
            let calls = self.chance.between(3, 60);
            for call in 0..calls {
                let rest = pause / 2 + self.chance.below(pause);
                self.node.rest(rest).await;
                let result = match kind {
                    0 => self.single().await,
                    1 => self.block().await,
                    2 => self.after_seen().await,
                    5 if call == 0 => self.storm().await,
                    5 => self.single().await,
                    // All that is left of the tick.
                    _ => self.batch(u64::MAX >> 1).await,
                };
                let failed = result.is_err();
                self.after(result);
                if failed {
                    self.node.rest(200_000).await;
                }
            }
        }
    }

    /// One id, as most calls have it.
    async fn single(&mut self) -> Result<(), Refused> {
        let (layout, max_ahead) = (self.node.cluster().layout, self.max_ahead());
        let wall = self.node.wall();
        let allocator = &self.server.allocator;
        if let Some(id) = allocator.claim_next(&layout, wall, &self.tick, max_ahead) {
            self.issued(id, id);
            return Ok(());
        }
        let slots = self.claim(1, None).await?;
        self.tick = ClaimedTick::of(&layout, &slots);
        self.all_issued(slots);
        Ok(())
    }

    /// One id of a block that was claimed at once.
    async fn block(&mut self) -> Result<(), Refused> {
        let (layout, max_ahead) = (self.node.cluster().layout, self.max_ahead());
        let wall = self.node.wall();
        let allocator = &self.server.allocator;
        let block = &mut self.block;
        if let Some(id) = allocator.next_claimed(&layout, wall, &self.tick, block, max_ahead) {
            // Order between sessions is given up, within a tick.
            self.node.cluster().issued(&self.node, &self.server, id, id, false);
            return Ok(());
        }
        let size = self.chance.between(2, 9).unsigned_abs();
        let mut slots = self.claim(size, None).await?;
        self.tick = ClaimedTick::of(&layout, &slots);
        let mut first = slots;
        if let Some(id) = first.next_id(&layout) {
            self.issued(id, id);
            slots = first;
        }
        self.block = slots;
        Ok(())
    }

    async fn batch(&mut self, n: u64) -> Result<(), Refused> {
        let slots = self.claim(n, None).await?;
        self.all_issued(slots);
        Ok(())
    }

    /// As many ids as may run ahead of the clock, or a lot of them: one statement that stores many rows.
    async fn storm(&mut self) -> Result<(), Refused> {
        for _ in 0..self.chance.between(10, 400) {
            match self.batch(u64::MAX >> 1).await {
                Err(Refused::Clock) => break,
                result => result?,
            }
        }
        Ok(())
    }

    /// One id that is greater than the last one of the whole cluster: a row that belongs to another
    /// one, which another node has stored.
    async fn after_seen(&mut self) -> Result<(), Refused> {
        let cluster = self.node.cluster();
        let (layout, seen) = (cluster.layout, cluster.judge.borrow().last);
        let Ok(seen_id) = Seen::new(&layout, seen) else { return Ok(()) };
        let slots = match self.claim(1, Some(seen_id)).await {
            Ok(slots) => slots,
            // Another node's clock is ahead, as it well may be here: then without.
            Err(Refused::Seen) => return self.single().await,
            Err(refused) => return Err(refused),
        };
        self.tick = ClaimedTick::of(&layout, &slots);
        let id = slots.last_id(&layout);
        self.all_issued(slots);
        if id <= seen {
            let letter = &self.node.letter;
            cluster.found(&format!("node {letter} issued id {id} after it had seen id {seen}"));
        }
        Ok(())
    }

    fn all_issued(&self, mut slots: Slots) {
        let layout = self.node.cluster().layout;
        let last = slots.last_id(&layout);
        if let Some(first) = slots.next_id(&layout) {
            self.issued(first, last);
        }
    }

    fn issued(&self, first: i64, last: i64) {
        self.node.cluster().issued(&self.node, &self.server, first, last, true);
    }

    fn max_ahead(&self) -> u64 {
        self.node.settings.borrow().max_ahead
    }

    /// As `Generator::claim` does, in `src/generator.rs`.
    async fn claim(&mut self, n: u64, seen: Option<Seen>) -> Result<Slots, Refused> {
        let layout = self.node.cluster().layout;
        let begun = time();
        let (mut asked, mut behind_since) = (None, None);
        loop {
            let wall = At(self.node.wall());
            let max_ahead = self.max_ahead();
            let allocator = &self.server.allocator;
            let claim = match seen {
                None => allocator.claim(&layout, &wall, n, max_ahead),
                Some(seen) => allocator.claim_after(&layout, &wall, n, seen, max_ahead),
            };
            match claim {
                Claim::Ready(slots) => return Ok(slots),
                Claim::TickExhausted { wait } => self.node.rest(wait.min(100_000)).await,
                Claim::ClockBehind { by } | Claim::SeenAhead { by, .. } => {
                    let since = *behind_since.get_or_insert(time());
                    if (time() - since).unsigned_abs() + by > MAX_WAIT {
                        let seen = matches!(claim, Claim::SeenAhead { .. });
                        return Err(if seen { Refused::Seen } else { Refused::Clock });
                    }
                    self.node.rest(by.min(100_000)).await;
                }
                Claim::NeedWindow => {
                    let ticket = *asked.get_or_insert_with(|| self.server.ask());
                    let answered = self.server.answered.get() >= ticket;
                    let state = self.server.verdict.borrow().state;
                    if answered
                        && !matches!(state, State::Starting | State::Ready | State::ClockFellBehind)
                    {
                        return Err(Refused::Verdict(state));
                    }
                    if time() - begun > KEEPER_TIMEOUT {
                        return Err(Refused::Silent);
                    }
                    if answered {
                        asked = Some(self.server.ask());
                    }
                    self.node.rest(LOOK).await;
                }
                Claim::TimeExhausted => return Err(Refused::Time),
            }
        }
    }

    /// What became of a call.
    fn after(&self, result: Result<(), Refused>) {
        let cluster = self.node.cluster();
        match result {
            Ok(()) => {
                self.server.refused_while_locked.set(false);
                self.node.refused.set("");
            }
            Err(refused) => {
                self.node.failures.set(self.node.failures.get() + 1);
                let locked = self.node.disk.get().locked;
                if let Refused::Verdict(State::CannotReserve) = refused
                    && locked
                {
                    self.server.refused_while_locked.set(true);
                }
                if cluster.is_verbose() {
                    let why = match refused {
                        Refused::Clock => "clock",
                        Refused::Seen => "seen",
                        Refused::Verdict(state) => state.word(),
                        Refused::Silent => "no answer",
                        Refused::Time => "time",
                    };
                    // Once for as long as it is the same.
                    if self.node.refused.replace(why) != why {
                        self.node.note(&format!("calls fail: {why}"));
                    }
                }
            }
        }
    }
}
