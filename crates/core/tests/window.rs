//! From where a node may begin, how much it reserves, and which clock it believes.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(not(loom))]

use snowflake_core::tenancy::KeptLease;
use snowflake_core::window::{
    Beginning, Conflict, Identity, LayoutChanged, NodeName, Number, Record, Running, Start,
    above_id, before_an_upgrade, end, floor, late_mark, lease_end, patience, remaining, start,
    time_of_next_tick, time_of_slot, until,
};
use snowflake_core::{ClockWatch, Layout};

const MS: u64 = 1000;
const SECOND: u64 = 1000 * MS;
/// A moment in the layout's time, in microseconds since its epoch, which is 0 here.
const NOW: i64 = 5_000_000_000;
const GUARD: u64 = SECOND;

fn layout() -> Layout {
    Layout::parse("timestamp:41,worker:10,sequence:12", Some(0)).unwrap()
}

fn number(worker_id: u32) -> Number {
    Number { datacenter_id: None, worker_id: Some(worker_id) }
}

/// A record of node `name` for a worker id, at a slot of the tick `tick` with sequence 7.
fn record(name: &str, worker_id: u32, tick: u64, timeline: u32) -> Record {
    let layout = layout();
    Record {
        node: NodeName::parse(name),
        reserved_until: layout.id(worker_id.into(), layout.first_slot(tick) + 7),
        number: number(worker_id),
        layout: layout.to_string(),
        epoch: 0,
        timeline,
        max_ahead: 0,
        updated_at: tick as i64,
        boot_id: String::new(),
        booted_at: 0,
        host: String::new(),
        data_directory: String::new(),
        lease: None,
        drained: false,
    }
}

/// Node `1-a`, worker id 1.
fn identity<'a>(node: &'a NodeName, layout: &'a Layout, timeline: u32) -> Identity<'a> {
    Identity { node, number: number(1), layout, timeline }
}

/// That node on the first timeline, at `NOW`.
fn begin<'a>(records: &'a [Record], running: bool) -> Result<Start<'a>, LayoutChanged<'a>> {
    begin_leased(records, running, None)
}

/// On the third one.
fn promoted(records: &[Record]) -> Result<Start<'_>, LayoutChanged<'_>> {
    begin_on(3, records, false, None)
}

/// The same with a lease.
fn begin_leased(
    records: &[Record],
    running: bool,
    leased_from: Option<i64>,
) -> Result<Start<'_>, LayoutChanged<'_>> {
    begin_on(1, records, running, leased_from)
}

fn begin_on(
    timeline: u32,
    records: &[Record],
    running: bool,
    leased_from: Option<i64>,
) -> Result<Start<'_>, LayoutChanged<'_>> {
    let (layout, node) = (layout(), NodeName::parse("1-a"));
    // A running node has written its own record, and no more.
    let running = running.then_some(u64::MAX);
    let beginning = Beginning { since: NOW, max_ahead: 0, guard: GUARD, running, leased_from };
    start(records, &identity(&node, &layout, timeline), &beginning)
}

const NEXT_TICK: u64 = NOW as u64 / MS + 1;
const GUARDED_TICK: u64 = NEXT_TICK + GUARD / MS;

fn first(tick: u64) -> u64 {
    layout().first_slot(tick)
}

/// A start without a conflict.
fn plain(floor: u64) -> Start<'static> {
    Start { floor, conflict: None, max_ahead: 0 }
}

#[test]
fn names_are_written_and_read() {
    let name = NodeName { cluster: "7710".to_owned(), fingerprint: "5d-9a".to_owned() };
    assert_eq!(name.to_string(), "7710-5d-9a");
    assert_eq!(NodeName::parse("7710-5d-9a"), name);
    // Nobody's relation: no cluster has the empty identifier.
    assert_eq!(NodeName::parse("junk").cluster, "");
    assert_eq!(NodeName::parse("junk").to_string(), "junk");
}

#[test]
fn a_record_without_a_mark_says_nothing() {
    let drained = |name| {
        let layout = "timestamp:41,worker:4,sequence:6".to_owned();
        Record { reserved_until: 0, layout, number: Number::default(), ..record(name, 1, 0, 3) }
    };
    assert_eq!(begin(&[drained("1-a")], false), begin(&[], false));
    assert_eq!(begin(&[drained("2-b")], false), begin(&[], false));
    // Above all, it does not end a promotion.
    let primary = record("1-primary", 1, 1, 2);
    let records = [primary, drained("1-a")];
    assert_eq!(promoted(&records).unwrap().floor, first(GUARDED_TICK));
}

#[test]
fn without_a_record_it_begins_with_the_next_tick() {
    assert_eq!(begin(&[], false), Ok(plain(first(NEXT_TICK))));
}

#[test]
fn its_own_mark_is_exact_before_and_behind_the_clock() {
    for tick in [NEXT_TICK + 500, NEXT_TICK - 500] {
        let records = [record("1-a", 1, tick, 3)];
        assert_eq!(begin(&records, false), Ok(plain(first(tick) + 7)));
    }
}

#[test]
fn its_own_mark_counts_whatever_the_number_was_then() {
    // Below it there are greater ids in its tick, of worker id 2: this one's begin in the next.
    let records = [record("1-a", 2, NEXT_TICK + 500, 3), record("1-a", 2, NEXT_TICK + 9, 3)];
    assert_eq!(begin(&records, false), Ok(plain(first(NEXT_TICK + 501))));
    let records = [record("1-a", 0, NEXT_TICK + 500, 3)];
    assert_eq!(begin(&records, false), Ok(plain(first(NEXT_TICK + 500) + 7)));
}

#[test]
fn a_running_node_knows_better_than_its_record() {
    let records = [record("1-a", 2, NEXT_TICK + 500, 3)];
    assert_eq!(begin(&records, true), Ok(plain(first(NEXT_TICK))));
}

#[test]
fn a_strangers_mark_counts_if_it_has_the_number() {
    let other = [record("2-b", 9, NEXT_TICK + 500, 3)];
    assert_eq!(begin(&other, false), Ok(plain(first(NEXT_TICK))));
    for (running, tick) in [(false, NEXT_TICK + 5000), (true, NEXT_TICK + 5000)] {
        let same = [record("2-b", 1, tick, 7)];
        let conflict = Some(Conflict { record: &same[0], copy: false });
        let start = Start { floor: first(tick) + 7, conflict, max_ahead: 0 };
        assert_eq!(begin(&same, running), Ok(start));
    }
    let old = [record("2-b", 1, NEXT_TICK - 5000, 7)];
    let conflict = Some(Conflict { record: &old[0], copy: false });
    let start = Start { floor: first(GUARDED_TICK), conflict, max_ahead: 0 };
    assert_eq!(begin(&old, false), Ok(start));
}

#[test]
fn a_promoted_standby_keeps_clear_of_its_primary() {
    // The primary's record came with the data, and is as old as the replication.
    let records = [record("1-p", 1, NEXT_TICK - 9000, 2)];
    let start = Start { floor: first(GUARDED_TICK), conflict: None, max_ahead: 0 };
    assert_eq!(promoted(&records), Ok(start.clone()));
    // Whatever number the primary had, though this node was a primary before, and whatever
    // timelines there are elsewhere in the family.
    let records = [record("1-p", 1, NEXT_TICK - 9000, 2), record("1-s", 6, NEXT_TICK, 3)];
    assert_eq!(promoted(&records), Ok(start.clone()));
    let records = [record("1-p", 5, NEXT_TICK - 9000, 2), record("1-a", 1, 5, 1)];
    assert_eq!(promoted(&records), Ok(start.clone()));
    // The primary's first record may be what did not arrive: no trace is no proof.
    assert_eq!(promoted(&[]), Ok(start.clone()));
    assert_eq!(promoted(&[record("2-b", 9, NEXT_TICK + 500, 3)]), Ok(start));
    // Recovery to a point in time, in place.
    let records = [record("1-a", 1, NEXT_TICK + 3000, 2)];
    let start = Start { floor: first(NEXT_TICK + 3000) + 7, conflict: None, max_ahead: 0 };
    assert_eq!(promoted(&records), Ok(start));
    // The next start is like any other.
    let records = [record("1-p", 1, NEXT_TICK, 2), record("1-a", 1, NEXT_TICK + 9, 3)];
    assert_eq!(promoted(&records), Ok(plain(first(NEXT_TICK + 9) + 7)));
}

/// A record names the last number only, and its mark is above all ids of the node.
#[test]
fn what_it_descends_from_counts_whatever_the_number_was_then() {
    let records = [record("1-p", 0, NEXT_TICK + 5000, 2)];
    assert_eq!(promoted(&records), Ok(plain(first(NEXT_TICK + 5000) + 7)));
    let records = [record("1-p", 6, NEXT_TICK + 5000, 2)];
    assert_eq!(promoted(&records), Ok(plain(first(NEXT_TICK + 5001))));
    // Without a new timeline: somebody has taken the sign of a standby away.
    let records = [record("1-s", 0, NEXT_TICK + 5000, 1)];
    assert_eq!(begin(&records, false), Ok(plain(first(NEXT_TICK + 5000) + 7)));
    let records = [record("1-s", 6, NEXT_TICK - 5000, 1)];
    assert_eq!(begin(&records, false), Ok(plain(first(GUARDED_TICK))));
    // Its own record of the timeline says that this has been done.
    let records = [record("1-s", 6, NEXT_TICK + 5000, 3), record("1-a", 1, 9, 3)];
    assert_eq!(promoted(&records), Ok(plain(first(9) + 7)));
    // And strangers are no relations.
    let records = [record("2-s", 6, NEXT_TICK + 5000, 1)];
    assert_eq!(begin(&records, false), Ok(plain(first(NEXT_TICK))));
}

/// What it has inherited by an upgrade is its own, and of no timeline: whether the cluster had been promoted or
/// recovered since, nothing tells, so the guard is kept.
#[test]
fn a_node_inherits_from_its_past() {
    let records = [record("1-a", 1, NEXT_TICK + 5000, 0)];
    assert_eq!(begin(&records, false), Ok(plain(first(NEXT_TICK + 5000) + 7)));
    let records = [record("1-a", 1, NEXT_TICK + 500, 0)];
    assert_eq!(begin(&records, false), Ok(plain(first(GUARDED_TICK))));
    // Its next record ends that.
    let records = [record("1-a", 1, NEXT_TICK + 500, 1)];
    assert_eq!(begin(&records, false), Ok(plain(first(NEXT_TICK + 500) + 7)));
}

#[test]
fn a_record_of_its_own_that_it_did_not_write_counts_while_it_runs() {
    let (layout, node) = (layout(), NodeName::parse("1-a"));
    let records = [record("1-a", 1, NEXT_TICK + 500, 1)];
    let mark = first(NEXT_TICK + 500) + 7;
    for (written, floor) in [(mark, first(NEXT_TICK)), (mark - 1, mark)] {
        let beginning = Beginning {
            since: NOW,
            max_ahead: 0,
            guard: GUARD,
            running: Some(written),
            leased_from: None,
        };
        let start = start(&records, &identity(&node, &layout, 1), &beginning);
        assert_eq!(start, Ok(plain(floor)));
    }
}

#[test]
fn an_old_record_that_arrives_late() {
    let (layout, node) = (layout(), NodeName::parse("1-a"));
    let records = [
        record("2-b", 1, 700, 1),
        record("1-o", 1, 600, 1),
        record("2-b", 1, 900, 1),
        record("2-b", 8, 800, 1),
        record("1-a", 1, 800, 1),
    ];
    // `updated_at` is the tick, here.
    let mark = |since, known: &[&str], written| {
        let known: Vec<_> = known.iter().map(|name| NodeName::parse(name)).collect();
        let running = Running { since, known: &known, written };
        late_mark(&records, &identity(&node, &layout, 1), &running)
    };
    let all = &["2-b", "1-o"][..];
    // Those that are older than the lease.
    assert_eq!(mark(900, all, u64::MAX), first(700) + 7);
    assert_eq!(mark(901, all, u64::MAX), first(900) + 7);
    assert_eq!(mark(600, all, u64::MAX), 0);
    // Those of nodes that were not known.
    assert_eq!(mark(600, &["2-b"], u64::MAX), first(600) + 7);
    assert_eq!(mark(600, &["1-o"], u64::MAX), first(900) + 7);
    // Its own, if it did not write it.
    assert_eq!(mark(600, all, first(800) + 7), 0);
    assert_eq!(mark(600, all, first(800) + 6), first(800) + 7);
}

#[test]
fn a_copy_is_noticed_if_it_has_the_number() {
    let records = [record("1-o", 1, NEXT_TICK - 9000, 3), record("2-b", 1, NEXT_TICK, 3)];
    let conflict = Some(Conflict { record: &records[0], copy: true });
    let start = Start { floor: first(GUARDED_TICK), conflict, max_ahead: 0 };
    assert_eq!(begin(&records, false), Ok(start));
    // An old primary hears of the new one.
    let records = [record("1-o", 1, NEXT_TICK - 9000, 4)];
    let conflict = Some(Conflict { record: &records[0], copy: true });
    let start = Start { floor: first(GUARDED_TICK), conflict, max_ahead: 0 };
    assert_eq!(begin(&records, false), Ok(start));
    let records = [record("1-o", 8, NEXT_TICK - 9000, 3)];
    assert_eq!(begin(&records, false), Ok(plain(first(GUARDED_TICK))));
}

#[test]
fn another_layout_is_refused_in_the_family_and_read_as_time_elsewhere() {
    for (name, epoch) in [("1-a", 0), ("1-o", 0), ("1-a", 1)] {
        let mut records = [record(name, 1, 9, 3)];
        records[0].epoch = epoch;
        if epoch == 0 {
            records[0].layout = "timestamp:42,worker:9,sequence:12".to_owned();
        }
        assert_eq!(begin(&records, false), Err(LayoutChanged(&records[0])));
    }
    // A stranger's time counts, rounded up to this layout's ticks.
    let theirs = Layout::parse("timestamp:31@10s,worker:10,sequence:12", Some(-3)).unwrap();
    let tick = NOW as u64 / (10 * SECOND) + 5;
    let mut records = [record("2-b", 1, 9, 3)];
    records[0].reserved_until = theirs.id(1, theirs.first_slot(tick) + 1);
    records[0].layout = theirs.to_string();
    records[0].epoch = -3;
    let floor = begin(&records, false).unwrap().floor;
    assert_eq!(floor, first((tick + 1) * 10_000 - 1 + 1));
    // What cannot be read says nothing.
    records[0].layout = "junk".to_owned();
    assert_eq!(begin(&records, false).unwrap().floor, first(GUARDED_TICK));
    records[0].layout = layout().to_string();
    records[0].epoch = 0;
    records[0].reserved_until = -1;
    assert_eq!(begin(&records, false).unwrap().floor, first(GUARDED_TICK));
    // Not even its own, which then is as good as lost.
    records[0].node = NodeName::parse("1-a");
    assert_eq!(begin(&records, false), Ok(plain(first(NEXT_TICK))));
}

#[test]
fn the_guard_covers_how_far_ids_run_ahead() {
    let (layout, node) = (layout(), NodeName::parse("1-a"));
    let beginning = Beginning {
        since: NOW,
        max_ahead: 3 * SECOND,
        guard: GUARD,
        running: None,
        leased_from: None,
    };
    let records = [record("1-p", 1, 9, 3)];
    let identity = identity(&node, &layout, 4);
    assert_eq!(start(&records, &identity, &beginning).unwrap().floor, first(GUARDED_TICK + 3000));
    // And as far as the primary was allowed to run, whatever the setting has become.
    let records = [Record { max_ahead: 5 * SECOND, ..record("1-p", 1, 9, 3) }];
    let begun = start(&records, &identity, &beginning).unwrap();
    assert_eq!((begun.floor, begun.max_ahead), (first(GUARDED_TICK + 5000), 5 * SECOND));
}

#[test]
fn a_window_ends_a_reservation_ahead() {
    let layout = layout();
    let now = NOW + 400;
    // Rounded up to whole ticks.
    assert_eq!(end(&layout, now, 0, SECOND, 0, 0), first(NEXT_TICK + 1000));
    // From the cursor on, where ids run ahead; but not beyond a window behind what may be issued.
    let cursor = first(NEXT_TICK + 3000);
    let ahead = |used, max_ahead| end(&layout, now, cursor, SECOND, used, max_ahead);
    assert_eq!(ahead(0, 60 * SECOND), first(NEXT_TICK + 3000 + 1000 + 1));
    assert_eq!(ahead(8 * SECOND, 60 * SECOND), first(NEXT_TICK + 3000 + 8000 + 1));
    assert_eq!(ahead(8 * SECOND, 4 * SECOND), first(NEXT_TICK + 4000 + 1000));
    assert_eq!(ahead(0, 0), first(NEXT_TICK + 1000));
}

#[test]
fn windows_at_the_ends_of_the_layout() {
    let layout = layout();
    let last = first(1 << 41) - 1;
    assert_eq!(end(&layout, -10 * SECOND as i64, 0, SECOND, 0, 0), first(1));
    assert_eq!(end(&layout, i64::MAX, 0, SECOND, u64::MAX, u64::MAX), last);
    assert_eq!(
        begin(&[record("1-a", 1, (1 << 41) - 1, 3)], false),
        Ok(plain(first((1 << 41) - 1) + 7))
    );
    assert_eq!(time_of_slot(&layout, last), ((1 << 41) - 1) * 1000);
}

#[test]
fn what_is_left_and_what_is_waited_for() {
    let layout = layout();
    let limit = first(NEXT_TICK + 999);
    assert_eq!(remaining(&layout, NOW, 0, limit), SECOND);
    assert_eq!(remaining(&layout, NOW, first(NEXT_TICK + 499), limit), SECOND / 2);
    assert_eq!(remaining(&layout, NOW + 2 * SECOND as i64, 0, limit), 0);
    assert_eq!(until(&layout, NOW, limit, 0), SECOND);
    assert_eq!(until(&layout, NOW, limit, 300 * MS), 700 * MS);
    assert_eq!(until(&layout, NOW, limit, 5 * SECOND), 0);
    assert_eq!(patience(&layout, SECOND, GUARD), 2 * SECOND + SECOND / 4 + 2 * MS);
    let hourly = Layout::parse("timestamp:31@3600s,sequence:31", Some(0)).unwrap();
    assert_eq!(patience(&hourly, SECOND, 0), 7201 * SECOND + SECOND / 4);
}

#[test]
fn a_mark_written_by_a_crashed_node_is_never_beyond_patience() {
    for text in ["timestamp:41,worker:10,sequence:12", "timestamp:31@7s,sequence:31"] {
        let layout = Layout::parse(text, Some(0)).unwrap();
        for now in (NOW..NOW + 20 * SECOND as i64).step_by(333_333) {
            for max_ahead in [0, 5 * SECOND] {
                let cursor = layout.first_slot(layout.tick_at(now + max_ahead as i64).unwrap());
                let mark = end(&layout, now, cursor, SECOND, 60 * SECOND, max_ahead);
                let wait = until(&layout, now, mark, max_ahead);
                assert!(wait <= patience(&layout, SECOND, 0), "{text}: {wait}");
            }
        }
    }
}

#[test]
fn a_leased_number_begins_where_its_lease_does() {
    let later = NOW + 9 * SECOND as i64;
    let at = |time: i64| first((time as u64).div_ceil(MS));
    for running in [false, true] {
        assert_eq!(begin_leased(&[], running, Some(later)), Ok(plain(at(later))));
        assert_eq!(begin_leased(&[], running, Some(later + 1)), Ok(plain(at(later) + 4096)));
    }
    // Where another node's record has the number, the registry knows better: no conflict, no guard.
    let records = [record("2-b", 1, 5, 3), record("1-c", 1, 6, 3)];
    assert_eq!(begin_leased(&records, false, Some(0)), Ok(plain(first(NEXT_TICK))));
    // Its own mark and a promotion count as ever.
    let own = [record("1-a", 9, 2 * NEXT_TICK, 3)];
    assert_eq!(begin_leased(&own, false, Some(0)), Ok(plain(first(2 * NEXT_TICK + 1))));
    let promoted = [record("1-p", 9, 5, 2)];
    assert_eq!(begin_on(3, &promoted, false, Some(0)), Ok(plain(first(GUARDED_TICK))));
}

#[test]
fn what_two_leases_allow_does_not_overlap() {
    let record = Record { node: NodeName::parse("1-a"), ..record("1-a", 1, 0, 3) };
    for text in ["timestamp:41,worker:10,sequence:12", "timestamp:31@7s,sequence:31"] {
        let layout = Layout::parse(text, Some(3)).unwrap();
        let times = (NOW..NOW + 20 * SECOND as i64).step_by(333_333);
        // Within a tick, and where one begins.
        let tick = |time| time_of_slot(&layout, layout.first_slot(layout.tick_at(time).unwrap()));
        for until in times.flat_map(|time| [time, tick(time)]) {
            let node = record.node.clone();
            let identity = Identity { number: Number::default(), ..identity(&node, &layout, 3) };
            let beginning = Beginning {
                since: 0,
                max_ahead: 0,
                guard: 0,
                running: Some(0),
                leased_from: Some(until),
            };
            let next = start(&[], &identity, &beginning).unwrap().floor;
            let end = lease_end(&layout, until);
            assert!(end <= next, "{text}: {until}");
            // Nothing of the one is at or after the bound, and nothing of the other before it.
            assert!(time_of_slot(&layout, end - 1) < until, "{text}: {until}");
            assert!(time_of_slot(&layout, next) >= until, "{text}: {until}");
            // What is given back at a slot ends behind it.
            assert!(lease_end(&layout, time_of_next_tick(&layout, end)) > end);
        }
    }
    let layout = Layout::parse("timestamp:41,worker:10,sequence:12", Some(NOW)).unwrap();
    assert_eq!(lease_end(&layout, NOW - 1), 0);
    assert_eq!(lease_end(&layout, i64::MAX), (1 << 53) - 1);
}

#[test]
fn a_jump_is_believed_or_not() {
    let day = 24 * 3600 * SECOND;
    let mut watch = ClockWatch::new(0);
    let days = |days: i64| days * day as i64;
    // Small steps are trusted, one by one.
    assert_eq!(watch.look(days(1), Some(day)), Ok(()));
    assert_eq!(watch.look(days(2), Some(day)), Ok(()));
    assert_eq!(watch.booted_at(), days(2));
    // A large one is not, however often it is looked at.
    assert_eq!(watch.look(days(12), Some(day)), Err(10 * day));
    assert_eq!(watch.look(days(12) + 1, Some(day)), Err(10 * day + 1));
    assert_eq!(watch.booted_at(), days(2));
    // Set back and put right again is no jump.
    assert_eq!(watch.look(days(-20), Some(day)), Ok(()));
    assert_eq!(watch.look(days(2), Some(day)), Ok(()));
    // The administrator knows better; or nobody watches.
    watch.accept(days(12));
    assert_eq!(watch.look(days(12), Some(day)), Ok(()));
    assert_eq!(watch.look(days(90), None), Ok(()));
    assert_eq!(watch.booted_at(), days(90));
}

#[test]
fn a_floor_is_above_ids_of_all_nodes() {
    let layout = layout();
    let id = layout.id(7, layout.first_slot(100) + 4000);
    let slot = above_id(&layout, id);
    assert_eq!(slot, layout.first_slot(101));
    for node in [0, 7, 1023] {
        assert!(layout.id(node, slot) > layout.max_id(100).unwrap());
    }
    assert_eq!((above_id(&layout, -1), above_id(&layout, i64::MIN)), (0, 0));
    assert_eq!(above_id(&layout, 0), layout.first_slot(1));
    // A key of another system, which need not be an id: a bit that this layout leaves zero.
    let gaps = Layout::parse("timestamp:39,unused:4,worker:8,sequence:12", Some(0)).unwrap();
    assert_eq!(above_id(&gaps, (100 << 24) + (1 << 21)), gaps.first_slot(101));
}

#[test]
fn a_floor_too_far_ahead_is_refused() {
    let layout = layout();
    let at = |time| layout.lower_bound(time) - 1;
    assert_eq!(floor(&layout, at(NOW), NOW, SECOND), Ok(NOW));
    assert_eq!(floor(&layout, at(NOW + SECOND as i64), NOW, SECOND), Ok(NOW + SECOND as i64));
    let beyond = layout.lower_bound(NOW + SECOND as i64);
    assert_eq!(floor(&layout, beyond, NOW, SECOND), Err(Some(SECOND + MS)));
    assert_eq!(floor(&layout, i64::MAX, NOW, u64::MAX), Err(None));
    assert_eq!(floor(&layout, -5, NOW, SECOND), Ok(0));
}

#[test]
fn before_an_upgrade_a_node_was_the_newest_of_its_family() {
    let inherited = |records: &[Record], host: &str| {
        before_an_upgrade(records, host)
            .map(|inherited| (inherited.record.node.to_string(), inherited.last.drained))
    };
    let of = |name: &str| Some((name.to_owned(), false));
    let primary = record("1-a", 1, 9000, 1);
    let own = record("1-b", 1, 8000, 2);
    let all = [primary.clone(), own.clone()];
    assert_eq!(inherited(&all, "here"), of("1-b"));
    // Of two of one timeline, a node and its copy, that of this host.
    let copy = Record { host: "here".to_owned(), ..record("1-c", 1, 7000, 2) };
    assert_eq!(inherited(&[own.clone(), copy.clone()], "here"), of("1-c"));
    assert_eq!(inherited(&[own.clone(), copy], "elsewhere"), of("1-b"));
    // Promoted, drained before its first id: the mark is its primary's, the draining its own.
    let drained = Record { reserved_until: 0, drained: true, ..record("1-d", 1, 0, 3) };
    assert_eq!(inherited(&[primary.clone(), drained], "here"), Some(("1-a".to_owned(), true)));
    // And so is the clock that it trusted, by which a jump is known.
    let unmarked = Record {
        reserved_until: 0,
        boot_id: "run".to_owned(),
        booted_at: 5,
        lease: Some(KeptLease { nonce: "n".to_owned(), until: NOW }),
        ..record("1-d", 1, 0, 3)
    };
    let name = NodeName::parse("2-e");
    let marked =
        Record { boot_id: "before".to_owned(), lease: unmarked.lease.clone(), ..primary.clone() };
    let expected = Record {
        node: name.clone(),
        timeline: 0,
        lease: None,
        boot_id: "run".to_owned(),
        booted_at: 5,
        ..marked.clone()
    };
    let records = [marked, unmarked];
    assert_eq!(before_an_upgrade(&records, "here").map(|it| it.renamed(name)), Some(expected));
    // Beside what was replicated from another cluster, its host tells.
    let here = |record: Record| Record { host: "here".to_owned(), ..record };
    let all = [here(primary.clone()), record("2-c", 2, 9000, 9), here(own)];
    assert_eq!(inherited(&all, "here"), of("1-b"));
    assert_eq!(inherited(&all, "elsewhere"), None);
    assert_eq!(inherited(&[here(primary), here(record("2-c", 2, 1, 1))], "here"), None);
    assert_eq!(inherited(&[], "here"), None);
}
