//! What the keeper tells the backends, in shared memory: whether ids can be had, why not,
//! and what it knows of node and clock. And the one thing that they tell it: to look afresh.
//!
//! Written by the keeper alone, but for `requests` and what administrators want. Each item is read by
//! itself; only the state and its facts belong together, and are published as one.

use snowflake_core::orders::Orders;
use snowflake_core::published::Published;
use snowflake_core::sync::{AtomicI64, AtomicU64, Ordering};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32};

pub(crate) use snowflake_core::keeper::{Estimate, State, Verdict};

/// The keeper's part of the shared state. Zeroed memory is a keeper that has not started.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Report {
    /// State, microseconds, and the text's length and bytes.
    verdict: Published<VERDICT_WORDS>,
    /// The last one that was a failure, and when that was.
    last_failure: Published<{ VERDICT_WORDS + 1 }>,
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
    /// What administrators want.
    pub(crate) orders: Orders,
    /// Attempts to connect that failed one after the other.
    pub(crate) failed_connections: AtomicU32,
    pub(crate) timeline: AtomicU32,
    /// When it looked last: microseconds since 1970, 0 for never; and by a clock that nobody
    /// sets, see [`crate::time::uptime`].
    pub(crate) looked_at: AtomicI64,
    pub(crate) heartbeat: AtomicI64,
    /// Since when a write of the record has been under way; 0 for none.
    pub(crate) writing_since: AtomicI64,
    /// The number that ids are generated with, or will be when they are asked for; -1 for none.
    pub(crate) assigned: AtomicI64,
    /// Ids generated per second, of late; 0 before the keeper has started.
    pub(crate) rate: AtomicI64,
    /// The end of the lease, microseconds since 1970; 0 where there is none.
    pub(crate) lease_until: AtomicI64,
    /// How far the clock stands ahead of where it is trusted to stand, in microseconds.
    pub(crate) clock_jump: AtomicI64,
    /// Whether there is an [`Estimate`], and its parts.
    estimate: Published<4>,
}

impl Report {
    pub(crate) fn verdict(&self) -> Verdict {
        verdict_of(&self.verdict.read())
    }

    pub(crate) fn set_verdict(&self, verdict: &Verdict) {
        self.verdict.write(words_of_verdict(verdict));
    }

    /// The last verdict that was a failure, and when the keeper came to it last; microseconds since
    /// 1970.
    pub(crate) fn last_failure(&self) -> Option<(i64, Verdict)> {
        let [at, verdict @ ..] = self.last_failure.read();
        (at != 0).then(|| (at.cast_signed(), verdict_of(&verdict)))
    }

    pub(crate) fn set_last_failure(&self, at: i64, verdict: &Verdict) {
        let mut words = [0; VERDICT_WORDS + 1];
        words[0] = at.cast_unsigned();
        words[1..].copy_from_slice(&words_of_verdict(verdict));
        self.last_failure.write(words);
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
}

/// A place in the line of those who wait for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// Texts are cut to this many words of eight bytes.
const TEXT_WORDS: usize = 64;
/// State, microseconds, and the text's length and bytes.
const VERDICT_WORDS: usize = 3 + TEXT_WORDS;

fn words_of_verdict(verdict: &Verdict) -> [u64; VERDICT_WORDS] {
    let mut words = [0; VERDICT_WORDS];
    words[0] = verdict.state as u64;
    words[1] = verdict.micros;
    words[2..].copy_from_slice(&words_of(&verdict.text));
    words
}

fn verdict_of([state, micros, text @ ..]: &[u64; VERDICT_WORDS]) -> Verdict {
    Verdict { state: State::from_number(*state), micros: *micros, text: text_of(text) }
}

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
