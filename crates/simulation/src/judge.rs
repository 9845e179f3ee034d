//! What must never be, looked at after every step.

use snowflake_core::Layout;
use std::collections::BTreeMap;

/// Slots of one number that one node issued at once.
#[derive(Clone, Debug)]
struct Issued {
    end: u64,
    node: String,
    time: i64,
}

/// All that has been issued, by all nodes.
#[derive(Debug)]
pub struct Judge {
    layout: Layout,
    /// By number and first slot.
    issued: BTreeMap<(u64, u64), Issued>,
    /// Ids that were issued.
    pub ids: u64,
    /// The last of them.
    pub last: i64,
    /// What was found to be wrong first.
    pub violation: Option<String>,
}

impl Judge {
    /// One that has seen nothing yet.
    pub const fn new(layout: Layout) -> Self {
        Self { layout, issued: BTreeMap::new(), ids: 0, last: 0, violation: None }
    }

    /// The least and the greatest number that ids were issued with.
    pub fn numbers(&self) -> Option<(u64, u64)> {
        let ((first, _), _) = self.issued.first_key_value()?;
        let ((last, _), _) = self.issued.last_key_value()?;
        Some((*first, *last))
    }

    /// Something is wrong.
    pub fn found(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    /// A node issued the slots from `first` up to `end` with a number.
    pub fn issued(&mut self, node: &str, number: u64, first: u64, end: u64, time: i64) {
        self.ids += end - first;
        self.last = self.layout.id(number, end - 1);
        // What began before, and what begins within.
        let before = self.issued.range(..=(number, first)).next_back();
        let before = before.filter(|((of, _), other)| *of == number && other.end > first);
        let within = self.issued.range((number, first)..(number, end)).next();
        if let Some(((_, begin), other)) = before.or(within) {
            let slot = first.max(*begin);
            let id = self.layout.id(number, slot);
            self.violation.get_or_insert(format!(
                "id {id} (worker id {number}) was issued by node {} at {}, and by node {node} at {}",
                other.node,
                seconds(other.time),
                seconds(time),
            ));
        }
        // Claims mostly follow each other.
        if let Some((_, last)) = self
            .issued
            .range_mut(..(number, first))
            .next_back()
            .filter(|((of, _), last)| *of == number && last.end == first && last.node == node)
        {
            last.end = end;
            last.time = time;
            return;
        }
        self.issued.insert((number, first), Issued { end, node: node.to_owned(), time });
    }
}

/// Virtual microseconds for people.
pub fn seconds(time: i64) -> String {
    format!("{}.{:06} s", time / 1_000_000, time % 1_000_000)
}
