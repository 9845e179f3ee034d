//! Takes a lease and keeps it, in a thread or a task of its own: a registry that does not answer then
//! holds up nothing but its lease.

use crate::error::Error;
use crate::lease::{self, Fate, Taker, Tenure};
use crate::record::{Record, State};
use crate::store::Store;
use snowflake_core::tenancy::{Held, KeptLease, Now, Terms};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long others may take to object to a claim: one heartbeat and, if it is 10 s at
/// least, one that gets no answer, and the next try.
fn objection(terms: Terms) -> Duration {
    terms.heartbeat + terms.heartbeat / 2
}

/// How long to wait after an error.
fn retry(terms: Terms) -> Duration {
    terms.heartbeat / 10
}

/// How long to wait after so many refusals in a row, the last of which is this one. Who is refused
/// for what is configured on either side is refused again, and each time there is a line in
/// the registry's log: so 1 s, then twice as long each time, up to 30 s. Where all numbers are taken,
/// each try reads the records of all.
fn back_off(terms: Terms, refusals: u32, is_awaited: bool) -> Duration {
    let growing = retry(terms).min(Duration::from_secs(1));
    let growing = growing.saturating_mul(1 << refusals.saturating_sub(1).min(16));
    // A lease that is to be kept does not wait for so long: it may be a short one. Nor does a number
    // that comes free.
    let longest = if is_awaited { terms.heartbeat } else { terms.heartbeat * 3 };
    growing.min(longest).min(Duration::from_secs(30))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What the holder cannot know by itself.
pub trait Surroundings {
    /// The time, if it is to be trusted. While it is not, the lease is not renewed.
    fn now(&self) -> Option<Now>;

    /// What no other record has, on any machine.
    fn nonce(&self) -> Result<String, Error> {
        let mut bytes = [0; 16];
        let source = "the system's source of random numbers";
        getrandom::fill(&mut bytes).map_err(|error| Error::unreachable(source, error))?;
        Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
    }

    /// Puts numbers that are as good as each other into an order of this node's own: many nodes at
    /// once do not all want the same.
    fn shuffle(&self, numbers: &mut [u64]) {
        fastrand::shuffle(numbers);
    }
}

/// The time is all that differs from one server to another.
impl<F: Fn() -> Option<Now>> Surroundings for F {
    fn now(&self) -> Option<Now> {
        self()
    }
}

/// What the holder knows. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The lease, until its end and beyond: as long as nobody else is known to have the number.
    pub held: Option<Held>,
    /// A number has been claimed; it is used from this time on, unless somebody objects.
    pub claimed: Option<(u64, i64)>,
    /// Another node was found to use the number that this one held, for the same time.
    pub contested: Option<Contested>,
    /// What is the matter with the registry.
    pub trouble: Option<Trouble>,
    /// Heartbeats that the registry has answered.
    pub renewals: u64,
    /// Calls that it has not, or has refused.
    pub failures: u64,
    /// Whether it has answered any call, be it with a refusal.
    pub answered: bool,
    /// Numbers that were given back for another one, see [`Holder::another`].
    pub exchanges: u64,
}

/// A lease that must not be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// Its nonce.
    pub nonce: String,
    /// Who uses the same number.
    pub by: Record,
}

/// What is the matter with the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when: the wall clock.
    pub since: i64,
    /// The last error.
    pub error: Error,
}

/// Told what became of a release.
type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

enum Command {
    Release { held: Held, until: i64, done: Done },
    Another { last: i64 },
    GiveBack { held: Held, last: i64 },
}

/// The holder of a lease. It is dropped without giving the lease back; see [`Holder::release`].
/// A number that it has only claimed it then gives back.
#[derive(Debug)]
pub struct Holder {
    commands: mpsc::UnboundedSender<Command>,
    status: Arc<Mutex<Status>>,
    /// Exchanges that were ordered.
    exchanges: u64,
}

impl Holder {
    /// Starts a thread that does the work. It inherits which signals are blocked.
    pub fn start(
        store: impl Store + Send + 'static,
        taker: Taker,
        terms: Terms,
        surroundings: impl Surroundings + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (holder, orders) = Self::new();
        let shared = Arc::clone(&holder.status);
        let task = Task::new(taker, terms, surroundings, &shared);
        std::thread::Builder::new().name("snowflake lease".into()).spawn(move || {
            let work = AssertUnwindSafe(|| runtime.block_on(task.run(orders, store)));
            if std::panic::catch_unwind(work).is_err() {
                let why = "the thread that keeps the lease has failed";
                let error = Error::unreachable("the registry", why);
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let since = since.as_micros() as i64;
                lock(&shared).trouble = Some(Trouble { since, error });
            }
            // A look-up of a name may hang in a thread of its own.
            runtime.shutdown_background();
        })?;
        Ok(holder)
    }

    /// The holder, and what does its work, to be run by whoever has a runtime.
    pub fn task(
        store: impl Store,
        taker: Taker,
        terms: Terms,
        surroundings: impl Surroundings,
    ) -> (Self, impl Future<Output = ()>) {
        let (holder, orders) = Self::new();
        let task = Task::new(taker, terms, surroundings, &holder.status);
        (holder, task.run(orders, store))
    }

    fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, orders) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(Status::default()));
        (Self { commands, status, exchanges: 0 }, orders)
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let status = lock(&self.status).clone();
        if status.exchanges == self.exchanges {
            return status;
        }
        // What it says is of the number that is to be given back.
        Status { held: None, claimed: None, ..status }
    }

    /// Whether the thread has failed, so that there must be another one.
    pub fn is_over(&self) -> bool {
        self.commands.is_closed()
    }

    /// Gives a lease back, be it one that this holder has not found again yet, and whatever else it
    /// has; and takes nothing any more. No id from `until` on has been generated or will be; nobody
    /// takes the number before that. Waits for so long at most.
    pub fn release(&self, held: &Held, until: i64, at_most: Duration) -> Result<(), Error> {
        let (done, answer) = std_mpsc::channel();
        // Whoever asked may have waited long enough.
        self.order_release(held, until, move |released| drop(done.send(released)));
        answer.recv_timeout(at_most).unwrap_or_else(|_| Err(unanswered()))
    }

    /// The same for a task that must not block.
    pub async fn released(&self, held: &Held, until: i64, at_most: Duration) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.order_release(held, until, move |released| drop(done.send(released)));
        let answer = tokio::time::timeout(at_most, answer).await;
        answer.ok().and_then(Result::ok).unwrap_or_else(|| Err(unanswered()))
    }

    fn order_release(
        &self,
        held: &Held,
        until: i64,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let (held, done) = (held.clone(), Box::new(done));
        // Where the thread has failed, `done` is dropped, and is not waited for.
        let _ = self.commands.send(Command::Release { held, until, done });
    }

    /// Gives the number back, of which no id from `last` on has been generated or will be, and
    /// takes another one.
    pub fn another(&mut self, last: i64) {
        self.exchanges += 1;
        // The thread ends only when this sender does.
        let _ = self.commands.send(Command::Another { last });
    }

    /// Gives back a number that was held before, of which no id from `last` on has been made
    /// or will be.
    pub fn give_back(&self, held: &Held, last: i64) {
        let _ = self.commands.send(Command::GiveBack { held: held.clone(), last });
    }
}

fn unanswered() -> Error {
    Error::unreachable("the registry", "no answer in time")
}

fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a heartbeat may take, all of its calls together.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(4);

fn slow() -> Error {
    let why = format!("no answer within {} s", HEARTBEAT_PATIENCE.as_secs());
    Error::unreachable("the registry", why)
}

struct Task<S> {
    taker: Taker,
    terms: Terms,
    surroundings: S,
    status: Arc<Mutex<Status>>,
    phase: Phase,
    /// Of the lease that is sought.
    nonce: Option<String>,
    /// When to do something next.
    next: Instant,
    /// How often in a row the registry has refused.
    refusals: u32,
}

enum Phase {
    Seeking,
    /// Until when others may object.
    Claimed(Tenure, Instant),
    Held(Tenure),
    Released,
}

impl<S: Surroundings> Task<S> {
    fn new(taker: Taker, terms: Terms, surroundings: S, status: &Arc<Mutex<Status>>) -> Self {
        let status = Arc::clone(status);
        let (phase, next) = (Phase::Seeking, Instant::now());
        Self { taker, terms, surroundings, status, phase, nonce: None, next, refusals: 0 }
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Command>, mut store: impl Store) {
        loop {
            // An order is carried out at once, whatever the registry does: a call that was under
            // way is dropped, and has then been done or has not.
            let order = tokio::select! {
                biased;
                order = orders.recv() => order,
                () = self.work(&mut store) => continue,
            };
            match order {
                None => {
                    if let Phase::Claimed(tenure, _) = &self.phase {
                        let now = self.wall().unwrap_or(tenure.record.updated_at);
                        // Otherwise it comes free by itself, at its end.
                        let _ = lease::unclaim(&mut store, tenure, now).await;
                    }
                    return;
                }
                Some(Command::Release { held, until, done }) => {
                    let released = self.give_back(&mut store, &held, until).await;
                    // Of another number that it has by now, no id has been generated.
                    if let Phase::Held(tenure) | Phase::Claimed(tenure, _) = &self.phase
                        && tenure.number != held.number
                    {
                        let floor = tenure.record.floor;
                        let _ = self.release(&mut store, floor).await;
                    }
                    self.phase = Phase::Released;
                    done(released);
                }
                Some(Command::Another { last }) => {
                    {
                        let mut status = lock(&self.status);
                        status.held = None;
                        status.exchanges += 1;
                    }
                    if let Phase::Held(tenure) | Phase::Claimed(tenure, _) = &self.phase {
                        self.taker.avoid.insert(tenure.number);
                    }
                    let released = self.release(&mut store, last).await;
                    self.come_free(released);
                    self.seek();
                }
                Some(Command::GiveBack { held, last }) => {
                    let released = self.give_back(&mut store, &held, last).await;
                    self.come_free(released);
                }
            }
        }
    }

    async fn work(&mut self, store: &mut impl Store) {
        tokio::time::sleep_until(self.next).await;
        let begun = Instant::now();
        // A time that is not to be trusted must not come into the registry.
        let Some(now) = self.surroundings.now() else {
            self.next = begun + retry(self.terms);
            return;
        };
        let until = now.ids.max(now.wall).saturating_add(micros(self.terms.duration));
        let now = now.wall;
        if let Phase::Held(tenure) = &self.phase
            && now >= tenure.record.until
        {
            // Others may have had the number since, even if the registry knows nothing of it.
            let Record { nonce, until, .. } = tenure.record.clone();
            self.taker.kept = Some(KeptLease { nonce, until });
            self.seek();
        }
        let outcome = match &mut self.phase {
            Phase::Released => {
                self.next = begun + self.terms.heartbeat;
                return;
            }
            Phase::Claimed(_, until) if begun < *until => {
                self.next = *until;
                return;
            }
            Phase::Seeking => {
                let taken = self.take(store, now, until).await;
                taken.map(|tenure| (tenure, Fate::Kept))
            }
            // In its place, so that it is known what was written when the call is dropped.
            Phase::Claimed(tenure, _) | Phase::Held(tenure) => {
                let kept = lease::keep(store, tenure, now, until);
                let fate = tokio::time::timeout(HEARTBEAT_PATIENCE, kept).await;
                let tenure = tenure.clone();
                if matches!(self.phase, Phase::Held(_)) {
                    self.hold(&tenure);
                }
                fate.unwrap_or_else(|_| Err(slow())).map(|fate| (tenure, fate))
            }
        };
        self.next = begun + self.terms.heartbeat;
        match outcome {
            Err(error) => {
                // What was not to be had a moment ago may be what there is.
                if matches!(error, Error::Exhausted { .. }) {
                    self.taker.avoid.clear();
                }
                self.failed(error);
            }
            Ok((tenure, fate)) => {
                self.refusals = 0;
                let mut status = lock(&self.status);
                status.renewals += 1;
                status.answered = true;
                status.trouble = None;
                drop(status);
                match fate {
                    Fate::Kept => self.kept(tenure, now),
                    Fate::Followed => {
                        // Whoever objected to a claim will do so again.
                        if tenure.record.state == State::Claimed {
                            self.taker.avoid.insert(tenure.number);
                        }
                        if let Some(held) = &mut lock(&self.status).held
                            && held.number == tenure.number
                        {
                            held.followed = true;
                        }
                        self.seek();
                    }
                    Fate::Contested { by } => {
                        let mut status = lock(&self.status);
                        status.held = None;
                        let nonce = tenure.record.nonce.clone();
                        status.contested = Some(Contested { nonce, by });
                        drop(status);
                        self.taker.avoid.insert(tenure.number);
                        self.seek();
                    }
                }
            }
        }
    }

    fn kept(&mut self, tenure: Tenure, now: i64) {
        let mut status = lock(&self.status);
        if tenure.record.state == State::Claimed {
            let wait = objection(self.terms);
            let until = now.saturating_add_unsigned(wait.as_micros() as u64);
            status.claimed = Some((tenure.number, until));
            // From now on it is there to be seen.
            self.next = Instant::now() + wait;
            self.phase = Phase::Claimed(tenure, self.next);
            return;
        }
        status.claimed = None;
        drop(status);
        self.hold(&tenure);
        self.taker.kept = None;
        // The allocator of this very process knows what it has issued from now on.
        self.taker.remembers = true;
        self.taker.avoid.clear();
        self.phase = Phase::Held(tenure);
    }

    /// Makes it known that a number is held, up to where it is.
    fn hold(&self, tenure: &Tenure) {
        let Record { floor, until, nonce, .. } = tenure.record.clone();
        let held = Held { number: tenure.number, floor, until, nonce, followed: false };
        lock(&self.status).held = Some(held);
    }

    async fn take(
        &mut self,
        store: &mut impl Store,
        now: i64,
        until: i64,
    ) -> Result<Tenure, Error> {
        let nonce = match &self.nonce {
            Some(nonce) => nonce,
            None => self.nonce.insert(self.surroundings.nonce()?),
        };
        lease::take(store, &self.taker, nonce, now, until, &self.surroundings).await
    }

    fn wall(&self) -> Option<i64> {
        self.surroundings.now().map(|now| now.wall)
    }

    fn seek(&mut self) {
        lock(&self.status).claimed = None;
        self.phase = Phase::Seeking;
        self.nonce = None;
        self.next = Instant::now();
    }

    fn failed(&mut self, error: Error) {
        let mut status = lock(&self.status);
        status.failures += 1;
        status.answered |= error.is_answer();
        let since = status.trouble.take().map(|trouble| trouble.since);
        let since = since.or_else(|| self.wall()).unwrap_or(0);
        let is_exhausted = matches!(error, Error::Exhausted { .. });
        let is_lasting = is_exhausted || error.is_of_configuration();
        self.refusals = if is_lasting { self.refusals + 1 } else { 0 };
        status.trouble = Some(Trouble { since, error });
        let is_awaited = is_exhausted || matches!(self.phase, Phase::Held(_));
        self.next = Instant::now()
            + match self.refusals {
                0 => retry(self.terms),
                refusals => back_off(self.terms, refusals, is_awaited),
            };
    }

    /// A number that could not be given back comes free by itself, at its end.
    fn come_free(&mut self, released: Result<(), Error>) {
        if let Err(error) = released {
            self.failed(error);
        }
    }

    async fn release(&self, store: &mut impl Store, until: i64) -> Result<(), Error> {
        let (Phase::Held(tenure) | Phase::Claimed(tenure, _)) = &self.phase else {
            return Ok(());
        };
        let now = self.wall().unwrap_or(tenure.record.updated_at);
        lease::release(store, tenure.number, &[&tenure.record.nonce], until, now).await
    }

    /// Gives a number back by the lease that the node knows of; or by the one that this holder was
    /// about to take it up with, which may have been written without an answer.
    async fn give_back(
        &self,
        store: &mut impl Store,
        held: &Held,
        until: i64,
    ) -> Result<(), Error> {
        let now = self.wall().unwrap_or(until);
        let nonces: Vec<&str> =
            [Some(&held.nonce), self.nonce.as_ref()].into_iter().flatten().map(|n| &**n).collect();
        lease::release(store, held.number, &nonces, until, now).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_comes_back_more_and_more_seldom() {
        let waits = |heartbeat, is_awaited| {
            let heartbeat = Duration::from_millis(heartbeat);
            let terms = Terms { duration: heartbeat * 3, heartbeat };
            [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|n| back_off(terms, n, is_awaited).as_millis())
        };
        let seconds = |heartbeat, is_awaited| waits(heartbeat, is_awaited).map(|ms| ms / 1000);
        assert_eq!(seconds(10_000, false), [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(seconds(10_000, true), [1, 2, 4, 8, 10, 10, 10, 10]);
        assert_eq!(seconds(3_600_000, true), [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(waits(200, false), [20, 40, 80, 160, 320, 600, 600, 600]);
    }
}
