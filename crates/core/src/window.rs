//! The policy of the windows: from where a node may issue ids after a start, and how much it
//! reserves. Pure functions; the keeper reads the records and the clock, and writes.
//!
//! # Why windows of one node number never overlap
//!
//! A node's record, its *high-water mark*, is written and flushed before the limit that it
//! names is published, so no id at or above the mark was ever issued. A start begins
//! at or above every mark that could be of the same number ([`start`]), and the next record is
//! above where it begins ([`end`]).

use crate::allocator::wait_for;
use crate::error::TimeError;
use crate::keeper::longest;
use crate::layout::{Field, Layout, MAX_TICK};
use crate::tenancy::KeptLease;

/// One node's record, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which node's.
    pub node: NodeName,
    /// As an id of `layout`: neither it nor a greater one was issued by the node.
    pub reserved_until: i64,
    /// The number that the window was reserved for.
    pub number: Number,
    /// The layout of `reserved_until`, spelled out.
    pub layout: String,
    /// Its epoch, in microseconds since the Unix epoch.
    pub epoch: i64,
    /// The cluster's timeline when it was written.
    pub timeline: u32,
    /// How far ids were allowed to run ahead of the clock then, in microseconds.
    pub max_ahead: u64,
    /// When it was written, in microseconds since the Unix epoch.
    pub updated_at: i64,
    /// The run of the machine in which it was written.
    pub boot_id: String,
    /// When that run began, by the clock that was trusted, in microseconds since the Unix epoch.
    pub booted_at: i64,
    /// Where the node is, for people.
    pub host: String,
    /// Its data directory, for people.
    pub data_directory: String,
    /// The lease of the number, where it is one from a registry.
    pub lease: Option<KeptLease>,
    /// Whether the node is to generate no ids until it is told otherwise.
    pub drained: bool,
}

/// A node's number, as it is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number {
    /// The upper part, where the layout has it.
    pub datacenter_id: Option<u32>,
    /// The lower part.
    pub worker_id: Option<u32>,
}

/// What tells a node from all others: the cluster's system identifier, which all copies share,
/// and the fingerprint of the data directory, which they do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// The system identifier.
    pub cluster: String,
    /// Of the data directory on its machine.
    pub fingerprint: String,
}

/// Who a node is.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// Its number.
    pub number: Number,
    /// The layout in force.
    pub layout: &'a Layout,
    /// The cluster's timeline.
    pub timeline: u32,
}

/// A node that is about to begin, or to change its number.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// The wall clock when it began to begin, in microseconds since the Unix epoch.
    pub since: i64,
    /// Microseconds that ids may run ahead of the clock.
    pub max_ahead: u64,
    /// Microseconds to stay clear of what another node may have issued last.
    pub guard: u64,
    /// It has issued ids already, all below the cursor of its own allocator, and now only changes
    /// its number: the greatest mark that it has written, or tried to. `None` at a start.
    pub running: Option<u64>,
    /// The number is leased: nobody else has issued ids with it from this time on, in microseconds
    /// since the Unix epoch, and other nodes' records of it are only history.
    pub leased_from: Option<i64>,
}

/// From where a node may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// The first slot.
    pub floor: u64,
    /// The record of another node that has the same number, as far as one can know.
    pub conflict: Option<Conflict<'a>>,
    /// How far ids that decide about it were allowed to run ahead of a clock: microseconds.
    pub max_ahead: u64,
}

/// Two nodes with one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict<'a> {
    /// The other one's record.
    pub record: &'a Record,
    /// Whether one of the two is a copy of the other's data directory.
    pub copy: bool,
}

/// The last record of the node, or of the one that it descends from, is of another layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutChanged<'a>(pub &'a Record);

impl Number {
    /// The two parts of a number, see [`Layout::node`].
    pub fn of(layout: &Layout, node: u64) -> Self {
        let part = |field| layout.number_in(field, node).and_then(|part| u32::try_from(part).ok());
        Self { datacenter_id: part(Field::Datacenter), worker_id: part(Field::Worker) }
    }

    /// Both as one.
    pub(crate) fn node(self, layout: &Layout) -> Option<u64> {
        layout.node(self.datacenter_id, self.worker_id).ok()
    }
}

impl Identity<'_> {
    /// Whether a record is the node's own.
    pub fn is_own(&self, record: &Record) -> bool {
        record.node == *self.node
    }

    /// Whether a record is of a data directory that once was one with this one.
    fn is_family(&self, record: &Record) -> bool {
        record.node.cluster == self.node.cluster
    }

    /// From which slot on ids of this number are not below a mark, nor below ids of another number in
    /// its tick: order is promised per node, whatever its number was.
    fn above(&self, record: &Record) -> Option<u64> {
        let slot = record.slot(self.layout)?;
        let follows = record.number == self.number
            || !record.is_of(self.layout)
            || self
                .number
                .node(self.layout)
                .is_none_or(|node| self.layout.id(node, slot) >= record.reserved_until);
        let next = self.layout.first_slot(self.layout.tick_of_slot(slot) + 1);
        Some(if follows { slot } else { next.min(self.layout.last_slot()) })
    }
}

impl NodeName {
    /// The name that [`Self::to_string`] wrote; any other text is a node that is no relation.
    pub fn parse(text: &str) -> Self {
        let (cluster, fingerprint) = text.split_once('-').unwrap_or(("", text));
        Self { cluster: cluster.to_owned(), fingerprint: fingerprint.to_owned() }
    }
}

impl std::fmt::Display for NodeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As it was read, whatever it is: it may be needed to delete the row.
        if self.cluster.is_empty() {
            return f.write_str(&self.fingerprint);
        }
        write!(f, "{}-{}", self.cluster, self.fingerprint)
    }
}

impl Record {
    /// Whether it says what was issued. A node that was drained before its first id has a record
    /// that does not.
    pub const fn has_mark(&self) -> bool {
        self.reserved_until != 0
    }

    pub(crate) fn is_of(&self, layout: &Layout) -> bool {
        self.layout == layout.to_string() && self.epoch == layout.epoch()
    }

    /// The first slot of another layout that is not below the mark; `None` where the
    /// record cannot be read, so that it says nothing.
    pub fn slot(&self, layout: &Layout) -> Option<u64> {
        if self.is_of(layout) {
            return layout.slot_of(self.reserved_until).ok();
        }
        let theirs = Layout::parse(&self.layout, Some(self.epoch)).ok()?;
        let tick = theirs.unpack(self.reserved_until).ok()?.tick;
        Some(next_tick(layout, theirs.time_of(tick.checked_add(1)?)?))
    }
}

/// From where a node may begin, by all the records that it finds.
pub fn start<'a>(
    records: &'a [Record],
    identity: &Identity<'_>,
    beginning: &Beginning,
) -> Result<Start<'a>, LayoutChanged<'a>> {
    let Identity { number, layout, .. } = *identity;
    let marked = || records.iter().filter(|record| record.has_mark());
    // All data directories that were one once: this one, what it was copied from, and
    // the primaries before a promotion.
    let family = || marked().filter(|record| identity.is_family(record));
    let own = || family().filter(|record| identity.is_own(record));
    let newest = |record: &&Record| (record.timeline, record.updated_at);

    let last = own().max_by_key(newest).or_else(|| family().max_by_key(newest));
    if let Some(record) = last.filter(|record| !record.is_of(layout)) {
        return Err(LayoutChanged(record));
    }
    let conflict = conflict(records, identity).filter(|_| beginning.leased_from.is_none());
    let at_start = beginning.running.is_none();
    let is_leased = beginning.leased_from.is_some();
    let descends = at_start && descends(records, identity, is_leased);
    let guarded = at_start && (descends || conflict.is_some());

    // What this node has issued itself is below the cursor if it is running, else below
    // its own mark. What the family has, below theirs, whatever its numbers were then: a record
    // names only the last one.
    let counts = |record: &&Record| {
        let own = match beginning.running {
            Some(written) => {
                identity.is_own(record) && record.slot(layout).is_some_and(|slot| slot > written)
            }
            None => identity.is_own(record),
        };
        own || record.number == number && !identity.is_own(record)
            || descends && identity.is_family(record)
    };
    let floor = marked().filter(counts).filter_map(|record| identity.above(record)).max();
    let has_own_mark = at_start && own().any(|record| record.slot(layout).is_some());
    // What the others were allowed when they were heard of last, they may have used, whatever the
    // setting is now.
    let related =
        records.iter().filter(|record| identity.is_family(record) || record.number == number);
    let max_ahead = related.map(|record| record.max_ahead).max().unwrap_or(0);
    let max_ahead = max_ahead.max(beginning.max_ahead);
    let behind_others = if guarded {
        let clear = max_ahead.saturating_add(beginning.guard);
        next_tick(layout, beginning.since.saturating_add_unsigned(clear))
    } else if has_own_mark {
        0
    } else {
        // Nothing says what was issued of the present tick, before the record was lost or
        // by the node that had the number.
        next_tick(layout, beginning.since)
    };
    let leased = beginning.leased_from.map_or(0, |from| tick_from(layout, from));
    let floor = floor.unwrap_or(0).max(behind_others).max(leased);
    Ok(Start { floor, conflict, max_ahead })
}

/// Whether others of the family may have issued ids of which this node has no record, on the
/// history that it descends from: a promoted standby, a recovery to a point in time, a copy.
///
/// Its own last record ends that, if it is of the present timeline; one that it has inherited by an
/// upgrade is of none. Not that of a sibling, which may have come by logical replication from a
/// timeline of its own. And where it has none, it is not enough that there is no trace of others: the
/// first record may be what is missing.
fn descends(records: &[Record], identity: &Identity<'_>, is_leased: bool) -> bool {
    let marked = || records.iter().filter(|record| record.has_mark());
    let last = marked().filter(|record| identity.is_own(record));
    if let Some(last) = last.map(|record| record.timeline).max() {
        return last < identity.timeline;
    }
    let is_first = identity.timeline <= 1;
    let others = || marked().filter(|record| identity.is_family(record));
    // A copy leases a number of its own, as the registry knows.
    !is_first || !is_leased && others().any(|record| !identity.is_own(record))
}

/// A node that generates ids.
#[derive(Clone, Debug)]
pub struct Running<'a> {
    /// When its lease began, in microseconds since the Unix epoch.
    pub since: i64,
    /// The nodes whose records it has seen.
    pub known: &'a [NodeName],
    /// The greatest end of a window that it has written, or tried to.
    pub written: u64,
}

/// The greatest mark that a running node learns of only now; 0 where there is none.
///
/// It must begin anew above a record that has come with restored data: one of a node that it
/// did not know, one that is older than its lease, or one of its own that it did not write.
/// A node with the same number that goes on generating ids is a conflict, and puts it off once.
pub fn late_mark(records: &[Record], identity: &Identity<'_>, running: &Running<'_>) -> u64 {
    let Identity { number, layout, .. } = *identity;
    let Running { since, known, written } = *running;
    let late = |record: &&Record| {
        if identity.is_own(record) {
            record.slot(layout).is_some_and(|slot| slot > written)
        } else {
            let new = record.updated_at < since || !known.contains(&record.node);
            record.number == number && new
        }
    };
    records.iter().filter(late).filter_map(|record| identity.above(record)).max().unwrap_or(0)
}

/// The record of another node that has a node's number; of several the most telling.
pub fn conflict<'a>(records: &'a [Record], identity: &Identity<'_>) -> Option<Conflict<'a>> {
    let Identity { node, number, timeline, .. } = *identity;
    records
        .iter()
        .filter(|record| record.number == number && !identity.is_own(record))
        .map(|record| Conflict { record, copy: record.node.cluster == node.cluster })
        // A member of the family with an older timeline is the primary before a promotion.
        .filter(|conflict| !conflict.copy || conflict.record.timeline >= timeline)
        // Not by time: of two that generate ids, now one is the latest and now the other.
        .max_by_key(|conflict| (conflict.copy, conflict.record.node.to_string()))
}

/// What an upgraded node goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited<'a> {
    /// The record that becomes its own.
    pub record: &'a Record,
    /// What it had recorded last. That says whether it is drained, and which clock it trusted.
    pub last: &'a Record,
}

impl Inherited<'_> {
    /// The record under the node's new name. Without a lease: nothing tells an upgraded copy, whose original
    /// goes on with that, from an upgraded node, which has given it back with its last stop. And before the
    /// first timeline: the cluster may have been promoted or recovered before the upgrade, without a window
    /// since, and the first start is to keep clear of that.
    pub fn renamed(&self, node: NodeName) -> Record {
        let Record { drained, boot_id, booted_at, .. } = self.last.clone();
        let record = self.record.clone();
        Record { node, timeline: 0, lease: None, drained, boot_id, booted_at, ..record }
    }

    /// Whether a record of the same family is over: of the primaries before a promotion, which timelines
    /// that begin anew would not tell any more, and its own one that it goes on without.
    pub fn is_over(&self, record: &Record) -> bool {
        record.node.cluster == self.last.node.cluster
            && record.node != self.record.node
            && (record.timeline < self.last.timeline || record.node == self.last.node)
    }
}

/// What a node had recorded of itself before its data was taken over by an upgrade, out of all records
/// that came along: its own last one is the newest of its family, or of this host where copies have
/// records of the same timeline. Where that has no mark, as of a standby that was promoted and has not
/// generated ids since, it is the newest that has one. Those of others are of another cluster; where
/// that leaves a choice, its host tells, and where that does not, nothing does.
pub fn before_an_upgrade<'a>(records: &'a [Record], host: &str) -> Option<Inherited<'a>> {
    let age = |record: &&&Record| (record.timeline, record.host == host, record.updated_at);
    let of_one_cluster = |records: &[&'a Record]| {
        let newest = *records.iter().max_by_key(age)?;
        let is_one = records.iter().all(|record| record.node.cluster == newest.node.cluster);
        let marked = records.iter().filter(|record| record.has_mark()).max_by_key(age);
        let record = marked.copied().unwrap_or(newest);
        is_one.then_some(Inherited { record, last: newest })
    };
    let all: Vec<&Record> = records.iter().collect();
    of_one_cluster(&all).or_else(|| {
        let here: Vec<&Record> = all.into_iter().filter(|record| record.host == host).collect();
        of_one_cluster(&here)
    })
}

/// The exclusive end of the window to reserve for a node whose next slot is `cursor`:
/// `ahead` microseconds beyond where its ids are now, but no further than a window
/// (`reservation` microseconds) beyond where they may be.
pub fn end(
    layout: &Layout,
    now: i64,
    cursor: u64,
    reservation: u64,
    ahead: u64,
    max_ahead: u64,
) -> u64 {
    let farthest = now.saturating_add_unsigned(max_ahead).saturating_add_unsigned(reservation);
    let wanted = position(layout, now, cursor).saturating_add_unsigned(ahead.max(reservation));
    // Before the epoch it is tick 0, so that there is a window, and what is missing is the clock.
    next_tick(layout, wanted.min(farthest)).max(layout.first_slot(1))
}

/// The first slot whose ids, of whatever node, are all above an id: where its tick has ended. It need
/// not be an id of the layout; then only its time field is looked at. 0 where all ids are above it.
pub fn above_id(layout: &Layout, id: i64) -> u64 {
    let Ok(id) = u64::try_from(id) else { return 0 };
    let shift = layout.bits_below_time();
    let tick = (id >> shift).saturating_add(1);
    if tick > layout.max(Field::Timestamp) { layout.last_slot() } else { layout.first_slot(tick) }
}

/// The first moment, in microseconds since the Unix epoch, of ids that are all above an id; an error
/// where that is further ahead of the clock than `most`: by so many microseconds, if it is a moment at all.
pub fn floor(layout: &Layout, id: i64, now: i64, most: u64) -> Result<i64, Option<u64>> {
    let slot = above_id(layout, id);
    if slot == layout.last_slot() {
        return Err(None);
    }
    let from = time_of_slot(layout, slot);
    match u64::try_from(from.saturating_sub(now)) {
        Ok(ahead) if ahead > most => Err(Some(ahead)),
        _ => Ok(from),
    }
}

/// The exclusive end of what may be issued by a lease that ends at a time.
pub fn lease_end(layout: &Layout, until: i64) -> u64 {
    match layout.tick_at(until) {
        Ok(tick) => layout.first_slot(tick),
        Err(TimeError::BeforeEpoch) => 0,
        Err(TimeError::AfterEnd) => layout.last_slot(),
    }
}

/// How many microseconds of the window are left, from where the ids are now.
pub fn remaining(layout: &Layout, now: i64, cursor: u64, limit: u64) -> u64 {
    let end = time_of_slot(layout, limit);
    u64::try_from(end.saturating_sub(position(layout, now, cursor))).unwrap_or(0)
}

/// Microseconds until a slot's tick begins, or until it is no more than `max_ahead` ahead.
pub fn until(layout: &Layout, now: i64, slot: u64, max_ahead: u64) -> u64 {
    wait_for(layout, slot, now.saturating_sub(layout.epoch()), max_ahead)
}

/// How long a record that lies ahead of the clock is waited for; one that lies further ahead
/// is no trace of a crash but of a clock that was set back. Microseconds.
///
/// A mark is at most a window ahead of the clock, rounded up to whole ticks.
pub fn patience(layout: &Layout, reservation: u64, guard: u64) -> u64 {
    longest(reservation)
        .saturating_add(guard)
        .saturating_add(2 * layout.tick_length().min(MAX_TICK))
}

/// When a slot's tick begins, in microseconds since the Unix epoch.
pub fn time_of_slot(layout: &Layout, slot: u64) -> i64 {
    layout.time_of(layout.tick_of_slot(slot)).unwrap_or(i64::MAX)
}

/// When the tick after a slot's begins, in microseconds since the Unix epoch: at or after all times
/// of ids below the slot, or of it.
pub fn time_of_next_tick(layout: &Layout, slot: u64) -> i64 {
    layout.time_of(layout.tick_of_slot(slot) + 1).unwrap_or(i64::MAX)
}

/// Where a node's ids are: at the clock or, where they run ahead of it, there.
fn position(layout: &Layout, now: i64, cursor: u64) -> i64 {
    now.max(time_of_slot(layout, cursor))
}

/// The first slot of the first tick that begins at a time or after it.
fn tick_from(layout: &Layout, time: i64) -> u64 {
    next_tick(layout, time.saturating_sub(1))
}

/// The first slot of the tick after the one in which a moment lies; the first of all for a
/// moment before the epoch, and the end for one behind the layout's last tick.
fn next_tick(layout: &Layout, time: i64) -> u64 {
    match layout.tick_at(time) {
        Ok(tick) => layout.first_slot(tick + 1).min(layout.last_slot()),
        Err(TimeError::BeforeEpoch) => 0,
        Err(TimeError::AfterEnd) => layout.last_slot(),
    }
}
