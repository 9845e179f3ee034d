//! What is wrong with the ids of a column: the judgement on one after the other, in their order.
//!
//! It takes no more memory for more ids: up to ten examples of each finding, and a tally for each
//! node's number, up to [`MAX_NUMBERS`].

use crate::{Fields, Layout};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Numbers beyond so many are counted together. A layout has 1,024 of them as a rule; random
/// numbers in a column that never held ids would have as many as there are rows.
pub const MAX_NUMBERS: usize = 65_536;
/// Examples that are kept of each finding.
pub const MAX_EXAMPLES: usize = 10;

/// What can be wrong with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Another row has the same id.
    Duplicate,
    /// Its time has not come.
    AheadOfClock,
    /// It is negative, as are ids of a time before the epoch where they are made carelessly.
    BeforeEpoch,
    /// It has a bit set that the layout leaves zero.
    NotOfLayout,
    /// Its worker is none of those that the table should have ids of.
    ForeignWorker,
    /// The registry has never heard of its worker.
    UnknownWorker,
    /// Its row was created before that of a lesser id.
    Inversion,
}

impl Finding {
    /// All, in the order in which they are reported.
    pub const ALL: [Self; 7] = [
        Self::Duplicate,
        Self::AheadOfClock,
        Self::BeforeEpoch,
        Self::NotOfLayout,
        Self::ForeignWorker,
        Self::UnknownWorker,
        Self::Inversion,
    ];
}

/// What ids are held against.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Their layout.
    pub layout: Layout,
    /// No id should be of this time or later: microseconds since the Unix epoch.
    pub before: i64,
    /// The worker ids that they should have; `None`: any.
    pub workers: Option<Vec<RangeInclusive<u64>>>,
    /// The nodes' numbers that are known; `None`: nobody knows.
    pub known: Option<BTreeSet<u64>>,
    /// By how many microseconds a row may have been created before that of a lesser id; `None`:
    /// nobody knows when rows were created.
    pub tolerance: Option<u64>,
}

impl Expected {
    /// Whether ids are held against what this finding is about.
    pub const fn checks(&self, finding: Finding) -> bool {
        match finding {
            Finding::ForeignWorker => self.workers.is_some(),
            Finding::UnknownWorker => self.known.is_some(),
            Finding::Inversion => self.tolerance.is_some(),
            _ => true,
        }
    }
}

/// A share of all ids. Whether an id belongs to it depends on the id alone, so that all rows of a
/// duplicate do or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(u64);

impl Sample {
    /// A share above 0, up to 1, which is all.
    pub fn of(share: f64) -> Option<Self> {
        let is_share = share > 0.0 && share <= 1.0;
        // Beyond the ends the conversion takes the nearest.
        is_share.then(|| Self(((share * 2f64.powi(64)) as u64).max(1)))
    }

    /// As one word; never 0.
    pub const fn into_word(self) -> u64 {
        self.0
    }

    /// What `into_word` made; `None` of 0.
    #[inline]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word == 0 { None } else { Some(Self(word)) }
    }

    /// Whether the id belongs to it.
    #[inline]
    pub const fn takes(self, id: i64) -> bool {
        // Multiplied by 2^64 divided by the golden ratio, numbers that follow each other spread
        // evenly (Knuth, The Art of Computer Programming, 6.4); the upper bits, where the time
        // is, are first mixed into the lower.
        let id = id.cast_unsigned();
        (id ^ id >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) <= self.0
    }
}

/// How many rows, and the ids of the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many rows.
    pub count: u64,
    /// Their ids, the first ten.
    pub examples: Vec<i64>,
}

impl Tally {
    fn add(&mut self, id: i64) {
        self.count += 1;
        // Of a duplicate one example is enough.
        if self.examples.len() < MAX_EXAMPLES && self.examples.last() != Some(&id) {
            self.examples.push(id);
        }
    }
}

/// The ids of one node: how many, the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// How many.
    pub count: u64,
    /// The least.
    pub first: i64,
    /// The greatest.
    pub last: i64,
}

/// An audit under way.
#[derive(Clone, Debug)]
pub struct Audit {
    expected: Expected,
    /// Ids from this one on are of a time that has not come; none above the greatest.
    ahead: i64,
    rows: u64,
    tallies: [Tally; Finding::ALL.len()],
    numbers: BTreeMap<u64, Span>,
    others: u64,
    last_id: Option<i64>,
    last_created: Option<i64>,
}

impl Audit {
    /// Nothing has been looked at.
    pub fn new(expected: Expected) -> Self {
        Self {
            ahead: expected.layout.lower_bound(expected.before),
            expected,
            rows: 0,
            tallies: Default::default(),
            numbers: BTreeMap::new(),
            others: 0,
            last_id: None,
            last_created: None,
        }
    }

    /// No id should be of this time or later: microseconds since the Unix epoch.
    pub fn set_clock(&mut self, before: i64) {
        self.ahead = self.expected.layout.lower_bound(before);
    }

    /// Judges the next row: no id before it was greater. `created` is when it was created,
    /// in microseconds by whatever clock, where that is known.
    pub fn row(&mut self, id: i64, created: Option<i64>) {
        self.rows += 1;
        if self.last_id.replace(id) == Some(id) {
            self.found(Finding::Duplicate, id);
        }
        if let Some((created, tolerance)) = created.zip(self.expected.tolerance) {
            let last = self.last_created.replace(created);
            if last.is_some_and(|last| last > created && last.abs_diff(created) > tolerance) {
                self.found(Finding::Inversion, id);
            }
        }
        match self.expected.layout.unpack(id) {
            Ok(fields) => self.fields(id, &fields),
            Err(_) if id < 0 => self.found(Finding::BeforeEpoch, id),
            Err(_) => self.found(Finding::NotOfLayout, id),
        }
    }

    fn fields(&mut self, id: i64, fields: &Fields) {
        if id >= self.ahead {
            self.found(Finding::AheadOfClock, id);
        }
        // Fields of an id fit, and only those are given that there are.
        let number = self.expected.layout.node(fields.datacenter, fields.worker).unwrap_or(0);
        let worker = u64::from(fields.worker.unwrap_or(0));
        let is_foreign = |workers: &Vec<RangeInclusive<u64>>| {
            !workers.iter().any(|range| range.contains(&worker))
        };
        if self.expected.workers.as_ref().is_some_and(is_foreign) {
            self.found(Finding::ForeignWorker, id);
        }
        if self.expected.known.as_ref().is_some_and(|known| !known.contains(&number)) {
            self.found(Finding::UnknownWorker, id);
        }
        let is_full = self.numbers.len() >= MAX_NUMBERS;
        match self.numbers.get_mut(&number) {
            Some(span) => *span = Span { count: span.count + 1, last: id, ..*span },
            None if is_full => self.others += 1,
            None => {
                self.numbers.insert(number, Span { count: 1, first: id, last: id });
            }
        }
    }

    fn found(&mut self, finding: Finding, id: i64) {
        self.tallies[finding as usize].add(id);
    }

    /// How many rows there were.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// What was found of each kind that was looked for, in their order.
    pub fn findings(&self) -> impl Iterator<Item = (Finding, &Tally)> {
        let checked = Finding::ALL.into_iter().filter(|&finding| self.expected.checks(finding));
        checked.map(|finding| (finding, &self.tallies[finding as usize]))
    }

    /// The ids of each node, by its number.
    pub fn numbers(&self) -> impl Iterator<Item = (u64, Span)> {
        self.numbers.iter().map(|(&number, &span)| (number, span))
    }

    /// Ids of the nodes for which there was no more room.
    pub const fn others(&self) -> u64 {
        self.others
    }
}
