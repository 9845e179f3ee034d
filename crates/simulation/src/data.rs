//! A data directory: the table of records, its history, and who follows it.

use snowflake_core::window::{NodeName, Record};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// The table at some moment.
pub type Table = Rc<Vec<Record>>;

/// How many states of the table are kept, to be restored.
const KEPT: usize = 256;

/// What is on a node's disk.
#[derive(Clone, Debug)]
pub struct Data {
    /// The system identifier.
    pub cluster: u64,
    /// What tells this directory from all others.
    pub fingerprint: u64,
    /// The timeline that is written.
    pub timeline: u32,
    /// The records.
    pub table: Table,
    /// How many commits there have been on this history.
    pub commits: u64,
    /// The last states of the table: after which commit, when (virtual microseconds), on which
    /// timeline, what.
    pub history: VecDeque<(u64, i64, u32, Table)>,
    /// The greatest mark that was ever durable here, by number.
    pub marks: BTreeMap<u64, u64>,
}

impl Data {
    /// A new cluster.
    pub fn new(cluster: u64, fingerprint: u64) -> Self {
        let table = Table::default();
        Self {
            cluster,
            fingerprint,
            timeline: 1,
            table: Rc::clone(&table),
            commits: 0,
            history: VecDeque::from([(0, 0, 1, table)]),
            marks: BTreeMap::new(),
        }
    }

    /// The node's name.
    pub fn name(&self) -> NodeName {
        let (cluster, fingerprint) = (self.cluster.to_string(), format!("{:x}", self.fingerprint));
        NodeName { cluster, fingerprint }
    }

    /// The table is another one from now on.
    pub fn commit(&mut self, time: i64, table: Vec<Record>) {
        self.table = Rc::new(table);
        self.commits += 1;
        if self.history.len() == KEPT {
            self.history.pop_front();
        }
        let state = (self.commits, time, self.timeline, Rc::clone(&self.table));
        self.history.push_back(state);
    }
}
