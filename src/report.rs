//! What the keeper tells the backends, in shared memory: whether ids can be had, why not,
//! and what it knows of node and clock. And the one thing that they tell it: to look afresh.
//!
//! Written by the keeper alone, but for `requests` and what administrators want. Each item is read by
//! itself; only the state and its facts belong together, and are published as one.

use snowflake_core::published::Published;
use snowflake_core::sync::{AtomicI64, AtomicU64, Ordering};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32};

/// Whether ids can be had, and why not. The numbers are stored in shared memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    /// The keeper is about to open the allocator.
    Starting = 0,
    /// Ids flow.
    Ready,
    /// `snowflake_id.worker_id` is not set.
    NoWorkerId,
    /// The layout has a datacenter field and `snowflake_id.datacenter_id` is not set.
    NoDatacenterId,
    /// The keeper cannot connect to its database.
    NoDatabase,
    /// The extension could not be created in the keeper's database; `text` is the server's error.
    NoExtension,
    /// The keeper could not write its record; `text` is the server's error.
    CannotReserve,
    /// The record lies ahead of the clock, by `micros`.
    ClockBehind,
    /// The clock jumped forward, by `micros`.
    ClockJumped,
    /// The kernel's estimate of the clock's error is too large: `micros`.
    ClockError,
    /// There is no such estimate, and it is to be looked at.
    ClockUnknown,
    /// The record is of another layout: `text`, with an epoch in `micros`.
    LayoutChanged,
    /// The data directory may be the copy of another node's: `text`.
    Copy,
    /// Both a worker id and a registry are set.
    TwoSources,
    /// There is no lease; `text` says why.
    NoLease,
    /// Worker id `text` is claimed until `micros` since 1970.
    LeaseClaimed,
    /// The lease ended at `micros` since 1970; `text` says why it was not renewed.
    LeaseEnded,
    /// The node has been drained.
    Drained,
    /// Somebody else has made the schema of the keeper's extension.
    SchemaTaken,
    /// A table of the keeper's extension was changed: `text`, see [`crate::tables::Unusable`].
    TableChanged,
}

impl State {
    const ALL: [Self; 20] = [
        Self::Starting,
        Self::Ready,
        Self::NoWorkerId,
        Self::NoDatacenterId,
        Self::NoDatabase,
        Self::NoExtension,
        Self::CannotReserve,
        Self::ClockBehind,
        Self::ClockJumped,
        Self::ClockError,
        Self::ClockUnknown,
        Self::LayoutChanged,
        Self::Copy,
        Self::TwoSources,
        Self::NoLease,
        Self::LeaseClaimed,
        Self::LeaseEnded,
        Self::Drained,
        Self::SchemaTaken,
        Self::TableChanged,
    ];

    fn from_number(number: u64) -> Self {
        Self::ALL.into_iter().find(|&state| state as u64 == number).unwrap_or(Self::Starting)
    }
}

/// A state with the facts that its message needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) state: State,
    /// A length of time or a moment, by the state.
    pub(crate) micros: u64,
    /// A text, by the state.
    pub(crate) text: String,
}

impl Verdict {
    pub(crate) fn of(state: State, micros: u64, text: impl Into<String>) -> Self {
        Self { state, micros, text: text.into() }
    }
}

impl From<State> for Verdict {
    fn from(state: State) -> Self {
        Self::of(state, 0, "")
    }
}

/// The keeper's part of the shared state. Zeroed memory is a keeper that has not started.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Report {
    /// State, microseconds, and the text's length and bytes.
    verdict: Published<{ 3 + TEXT_WORDS }>,
    node: Published<{ 1 + TEXT_WORDS }>,
    conflict: Published<{ 1 + TEXT_WORDS }>,
    /// Since when the registry has been in trouble, and the text's length and bytes.
    trouble: Published<{ 2 + TEXT_WORDS }>,
    /// Process id; 0 before the keeper has started.
    pub(crate) pid: AtomicI32,
    /// The keeper's latch. It stays valid memory when the keeper has ended.
    pub(crate) latch: AtomicPtr<pgrx::pg_sys::Latch>,
    /// How often backends have asked for a fresh look, and which of these has been answered.
    requests: AtomicU64,
    answered: AtomicU64,
    /// An administrator trusts the clock as it stands,
    accept_clock: AtomicBool,
    /// wants another worker id,
    another: AtomicBool,
    /// and wants the node drained ([`DRAIN`]) or not ([`RESUME`]).
    drain: AtomicU32,
    /// How often the keeper has exchanged the worker id,
    pub(crate) exchanges: AtomicU64,
    /// and drained or resumed the node, as was wanted.
    pub(crate) drains: AtomicU64,
    /// Attempts to connect that failed one after the other.
    pub(crate) failed_connections: AtomicU32,
    pub(crate) timeline: AtomicU32,
    /// When it looked last: microseconds since 1970, 0 for never; and by a clock that nobody
    /// sets, see [`crate::time::uptime`].
    pub(crate) looked_at: AtomicI64,
    pub(crate) heartbeat: AtomicI64,
    /// Since when a write of the record has been under way; 0 for none.
    pub(crate) writing_since: AtomicI64,
    /// The number that ids are made with, or will be when they are asked for; -1 for none.
    pub(crate) assigned: AtomicI64,
    /// Ids made per second, of late; 0 before the keeper has started.
    pub(crate) rate: AtomicI64,
    /// The end of the lease, microseconds since 1970; 0 where there is none.
    pub(crate) lease_until: AtomicI64,
    /// How far the clock stands ahead of where it is trusted to stand, in microseconds.
    pub(crate) clock_jump: AtomicI64,
    /// Whether there is an [`Estimate`], and its parts.
    estimate: Published<4>,
}

/// What the kernel says of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// How wrong it can be, in microseconds.
    pub(crate) error: i64,
    /// What the kernel is still correcting, little by little; in microseconds.
    pub(crate) offset: i64,
    /// Whether a time daemon keeps it.
    pub(crate) synchronized: bool,
}

impl Report {
    pub(crate) fn verdict(&self) -> Verdict {
        let [state, micros, text @ ..] = self.verdict.read();
        Verdict { state: State::from_number(state), micros, text: text_of(&text) }
    }

    pub(crate) fn set_verdict(&self, verdict: &Verdict) {
        let mut words = [0; 3 + TEXT_WORDS];
        words[0] = verdict.state as u64;
        words[1] = verdict.micros;
        words[2..].copy_from_slice(&words_of(&verdict.text));
        self.verdict.write(words);
    }

    /// The node's name; empty before the keeper knows it.
    pub(crate) fn node(&self) -> String {
        text_of(&self.node.read())
    }

    pub(crate) fn set_node(&self, node: &str) {
        self.node.write(words_of(node));
    }

    /// The node whose record has this node's number; empty where there is none.
    pub(crate) fn conflict(&self) -> String {
        text_of(&self.conflict.read())
    }

    pub(crate) fn set_conflict(&self, node: &str) {
        self.conflict.write(words_of(node));
    }

    /// Since when the registry has been in trouble, and what it is.
    pub(crate) fn trouble(&self) -> Option<(i64, String)> {
        let [since, text @ ..] = self.trouble.read();
        Some((since.cast_signed(), text_of(&text))).filter(|(since, _)| *since != 0)
    }

    pub(crate) fn set_trouble(&self, trouble: Option<(i64, String)>) {
        let (since, text) = trouble.unwrap_or_default();
        let mut words = [0; 2 + TEXT_WORDS];
        words[0] = since.cast_unsigned();
        words[1..].copy_from_slice(&words_of(&text));
        self.trouble.write(words);
    }

    /// What the kernel says of the clock; `None` before the first look, and where it may not be
    /// asked.
    pub(crate) fn estimate(&self) -> Option<Estimate> {
        let [known, error, offset, synchronized] = self.estimate.read();
        (known != 0).then(|| Estimate {
            error: error.cast_signed(),
            offset: offset.cast_signed(),
            synchronized: synchronized != 0,
        })
    }

    pub(crate) fn set_estimate(&self, estimate: Option<Estimate>) {
        self.estimate.write(estimate.map_or([0; 4], |estimate| {
            let Estimate { error, offset, synchronized } = estimate;
            [1, error.cast_unsigned(), offset.cast_unsigned(), synchronized.into()]
        }));
    }

    /// Asks for a look that begins after this call. The ticket says when it has been done.
    pub(crate) fn ask(&self) -> Ticket {
        Ticket(self.requests.fetch_add(1, Ordering::AcqRel) + 1)
    }

    pub(crate) fn is_answered(&self, Ticket(number): Ticket) -> bool {
        self.answered.load(Ordering::Acquire) >= number
    }

    /// All that has been asked for up to now; for the keeper, at the beginning of a look.
    pub(crate) fn asked(&self) -> Ticket {
        Ticket(self.requests.load(Ordering::Acquire))
    }

    pub(crate) fn answer(&self, Ticket(number): Ticket) {
        self.answered.store(number, Ordering::Release);
    }

    pub(crate) fn accept_clock(&self) {
        self.accept_clock.store(true, Ordering::Release);
    }

    pub(crate) fn take_accept_clock(&self) -> bool {
        self.accept_clock.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn take_another(&self) -> bool {
        self.another.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn want_another(&self) {
        self.another.store(true, Ordering::Release);
    }

    /// Whether the node is to be drained, or to make ids again, since the last call.
    pub(crate) fn take_drain(&self) -> Option<bool> {
        match self.drain.swap(0, Ordering::AcqRel) {
            DRAIN => Some(true),
            RESUME => Some(false),
            _ => None,
        }
    }

    pub(crate) fn drain(&self, drain: bool) {
        self.drain.store(if drain { DRAIN } else { RESUME }, Ordering::Release);
    }
}

const DRAIN: u32 = 1;
const RESUME: u32 = 2;

/// A place in the line of those who wait for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// Texts are cut to this many words of eight bytes.
const TEXT_WORDS: usize = 64;

fn words_of(text: &str) -> [u64; 1 + TEXT_WORDS] {
    let mut end = text.len().min(TEXT_WORDS * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut words = [0; 1 + TEXT_WORDS];
    words[0] = end as u64;
    for (word, bytes) in words[1..].iter_mut().zip(text.as_bytes()[..end].chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(padded);
    }
    words
}

fn text_of(words: &[u64]) -> String {
    let bytes: Vec<u8> = words[1..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    String::from_utf8_lossy(&bytes[..bytes.len().min(words[0] as usize)]).into_owned()
}
