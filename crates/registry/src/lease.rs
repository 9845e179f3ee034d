//! Who may have which number: taking, keeping and giving back a lease, over any [`Store`].
//!
//! # A registry that forgets
//!
//! One that was restored from a backup, or lost what it wrote last, may show a number
//! as free that a node is using. Its holder notices with its next heartbeat, and writes what it
//! knows again. So that this is soon enough, whoever takes a number that was not its own a
//! moment ago first only *claims* it, and waits for as long as a heartbeat may take; a holder
//! with an older right overwrites the claim ([`judge`]), and the newcomer takes another
//! number. The waiting newcomer generates no ids.
//!
//! A node that was stopped and comes back need not wait if it can show, by what it kept on its own
//! disk, that its lease has not ended: nobody can have taken the number meanwhile, whatever
//! has become of the registry.

use crate::error::Error;
use crate::holder::Surroundings;
use crate::record::{Record, State};
use crate::store::{Entry, Store};
use crate::words::Words;
use snowflake_core::tenancy::KeptLease;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Who takes a lease, and on which terms. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct Taker {
    /// The node.
    pub node: String,
    /// Where it is, for people.
    pub host: String,
    /// Its worker ids are one of these,
    pub range: RangeInclusive<u64>,
    /// which follow this number in the registry: datacenters have different ones.
    pub base: u64,
    /// The layout of its ids, spelled out.
    pub layout: String,
    /// Its epoch.
    pub epoch: i64,
    /// What it kept of the lease that it had last.
    pub kept: Option<KeptLease>,
    /// Whether it knows by what is on its own disk what it has issued. Then it may take up its
    /// number again, also below the end of its lease.
    pub remembers: bool,
    /// Numbers that it shall not take.
    pub avoid: BTreeSet<u64>,
}

/// A number, with the record that was written last for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The number in the registry.
    pub number: u64,
    /// What it says there.
    pub record: Record,
    /// When it was taken.
    since: i64,
    /// When it was written last, or tried to be.
    written: i64,
    /// Whether the number was the node's own before.
    own: bool,
}

/// What has become of a tenure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Kept,
    /// Another node follows, and begins where this tenure ends: what is left of it may be used.
    Followed,
    /// Another node uses the number for the same time. Not one more id.
    Contested {
        /// Its record.
        by: Record,
    },
}

/// Takes a number: the one it had, or else one that nobody has. After an error, it shall be
/// called with the same nonce again: its claim may have been written, and is then found.
///
/// `until` is the end of the lease; later, if the node has one already that ends later.
pub async fn take(
    store: &mut impl Store,
    taker: &Taker,
    nonce: &str,
    now: i64,
    until: i64,
    surroundings: &impl Surroundings,
) -> Result<Tenure, Error> {
    let record = |state, floor| Record {
        format: Record::FORMAT,
        node: taker.node.clone(),
        host: taker.host.clone(),
        nonce: nonce.to_owned(),
        state,
        floor,
        until: until.max(floor),
        layout: taker.layout.clone(),
        epoch: taker.epoch,
        updated_at: now,
    };
    let tenure = |number, record, own| Tenure { number, record, since: now, written: now, own };
    for _ in 0..ROUNDS {
        let entries = store.list().await?;
        let entries = read(store, entries, taker)?;
        if let Some((entry, found)) = own(&entries, taker, nonce, now) {
            let kept = taker.kept.as_ref().filter(|kept| kept.nonce == found.nonce);
            let kept = kept.map_or(0, |kept| kept.until.min(found.until));
            let state = if found.nonce == nonce {
                found.state
            } else if now < kept {
                State::Held
            } else {
                State::Claimed
            };
            // What this node has issued before the record's end, it knows.
            let next = record(state, if now < found.until { found.floor } else { now });
            // Ids may have been reserved up to the end that it had.
            let next = Record { until: next.until.max(found.until), ..next };
            if store.swap(entry.number, Some(entry.revision), &next.to_json()).await? {
                announce(store, entry.number).await;
                return Ok(tenure(entry.number, next, true));
            }
            continue;
        }
        let free = free(&entries, taker, now, surroundings)?;
        for (number, found) in free.into_iter().take(CLAIMS) {
            let (revision, floor) = match found {
                Some((entry, found)) => (Some(entry.revision), found.until.max(now)),
                None => (None, now),
            };
            let next = record(State::Claimed, floor);
            if store.swap(number, revision, &next.to_json()).await? {
                announce(store, number).await;
                return Ok(tenure(number, next, false));
            }
        }
        return Err(Error::Outrun);
    }
    Err(not_kept())
}

/// So often at most is a record read and written, while others change it in between.
const ROUNDS: u32 = 2;

/// So many of the free numbers are tried before all are read again, at the next try.
const CLAIMS: usize = 3;

fn not_kept() -> Error {
    Error::refused("the registry", "it does not keep what is written")
}

/// Announces a holder for the first time. Where that fails, the number is taken nevertheless; the
/// next heartbeat says what is the matter.
async fn announce(store: &mut impl Store, number: u64) {
    let _ = store.announce(number).await;
}

/// Keeps a lease: a heartbeat. Confirms it if it was only claimed. It ends at `until`, if it
/// does not end later already. It may be renewed also where there is an error.
pub async fn keep(
    store: &mut impl Store,
    tenure: &mut Tenure,
    now: i64,
    until: i64,
) -> Result<Fate, Error> {
    for _ in 0..ROUNDS {
        let found = look(store, tenure.number).await?;
        let fate = judge(found.as_ref().map(|(_, record)| record), tenure);
        if fate != Fate::Kept {
            return Ok(fate);
        }
        let until = tenure.record.until.max(until);
        let next = Record { state: State::Held, until, updated_at: now, ..tenure.record.clone() };
        let revision = found.map(|(entry, _)| entry.revision);
        // Before: it may be written without an answer.
        tenure.written = tenure.written.max(now);
        if store.swap(tenure.number, revision, &next.to_json()).await? {
            tenure.record = next;
            store.announce(tenure.number).await?;
            return Ok(Fate::Kept);
        }
    }
    Err(not_kept())
}

/// Gives back the number of the record with one of these nonces; no id of it is generated any more.
/// Nobody takes it before `until`, which counts only from the record's floor on.
pub async fn release(
    store: &mut impl Store,
    number: u64,
    nonces: &[&str],
    until: i64,
    now: i64,
) -> Result<(), Error> {
    // A heartbeat that was under way when the number was given back may still be written.
    for _ in 0..ROUNDS {
        let found = look(store, number).await?;
        let own = |record: &Record| nonces.contains(&&*record.nonce);
        let Some((entry, record)) = found.filter(|(_, record)| own(record)) else {
            return Ok(());
        };
        // Below the floor there may be ids of the holder before.
        let until = until.max(record.floor).min(record.until);
        let next = Record { state: State::Released, until, updated_at: now, ..record };
        if store.swap(number, Some(entry.revision), &next.to_json()).await? {
            return store.withdraw(number).await;
        }
    }
    Err(not_kept())
}

/// Gives back a number that was only claimed. One that the node had before stays its own.
pub async fn unclaim(store: &mut impl Store, tenure: &Tenure, now: i64) -> Result<(), Error> {
    let Record { nonce, state, floor, .. } = &tenure.record;
    if *state == State::Claimed && !tenure.own {
        release(store, tenure.number, &[nonce], *floor, now).await?;
    }
    Ok(())
}

/// What a heartbeat makes of the record that it finds.
fn judge(found: Option<&Record>, tenure: &Tenure) -> Fate {
    let mine = &tenure.record;
    let Some(found) = found else {
        // The registry has forgotten it. A claim has no older right to show.
        return if mine.state == State::Claimed { Fate::Followed } else { Fate::Kept };
    };
    let contested = Fate::Contested { by: found.shown() };
    if found.nonce == mine.nonce {
        // What another process writes by the same nonce is that of a virtual machine that was
        // cloned while it ran: it goes on as this one.
        return if found.updated_at > tenure.written { contested } else { Fate::Kept };
    }
    if mine.state == State::Claimed || found.floor >= mine.until {
        return Fate::Followed;
    }
    // The registry has gone back to a time before this tenure; or a newcomer has believed such a
    // registry. Whoever uses the number now as well, writes it later.
    let earlier = found.until <= mine.floor || found.updated_at < tenure.since;
    if earlier || found.state == State::Claimed {
        return Fate::Kept;
    }
    contested
}

async fn look(store: &mut impl Store, number: u64) -> Result<Option<(Entry, Record)>, Error> {
    let Some(entry) = store.get(number).await? else { return Ok(None) };
    let record = record_of(store, &entry)?;
    Ok(Some((entry, record)))
}

fn record_of(store: &impl Store, entry: &Entry) -> Result<Record, Error> {
    let foreign = |why| Error::foreign(&store.key(entry.number), why);
    Record::from_json(&entry.value).map_err(foreign)
}

/// All records. One that cannot be read, or is for another layout, might be of any number.
fn read(
    store: &impl Store,
    entries: Vec<Entry>,
    taker: &Taker,
) -> Result<Vec<(Entry, Record)>, Error> {
    let read = |entry: Entry| {
        let record = record_of(store, &entry)?;
        if record.layout != taker.layout || record.epoch != taker.epoch {
            let Record { layout, epoch, .. } = record;
            let (key, layout) = (Words::of(store.key(entry.number)), Words::of(layout));
            return Err(Error::OtherLayout { key, layout, epoch });
        }
        Ok((entry, record))
    };
    entries.into_iter().map(read).collect()
}

/// The record of the lease that the node had last: the one that it kept, or one that it wrote
/// later, as after a crash in the middle of taking one up; or its claim that got no answer.
///
/// By its name alone, only one by which no id can be generated any more: a clone may have the name.
fn own<'a>(
    entries: &'a [(Entry, Record)],
    taker: &Taker,
    nonce: &str,
    now: i64,
) -> Option<&'a (Entry, Record)> {
    let may = |entry: &Entry| {
        let id = entry.number.checked_sub(taker.base);
        !taker.avoid.contains(&entry.number) && id.is_some_and(|id| taker.range.contains(&id))
    };
    let kept = taker.kept.as_ref().map(|kept| &kept.nonce);
    let own = entries.iter().filter(|(entry, record)| {
        let over = record.state == State::Claimed || record.until <= now;
        let before = Some(&record.nonce) == kept || record.node == taker.node && over;
        (record.nonce == nonce || taker.remembers && before) && may(entry)
    });
    own.max_by_key(|(_, record)| record.updated_at)
}

/// The numbers that nobody has: first those that nobody has had. They are in another order for each
/// taker, so that many at once do not all want the same.
#[expect(clippy::type_complexity, reason = "a number with what was found for it, twice")]
fn free<'a>(
    entries: &'a [(Entry, Record)],
    taker: &Taker,
    now: i64,
    surroundings: &impl Surroundings,
) -> Result<Vec<(u64, Option<&'a (Entry, Record)>)>, Error> {
    let mut unused = Vec::new();
    let mut ended = Vec::new();
    let mut alive = 0;
    let mut free_at = None;
    let found: BTreeMap<u64, _> = entries.iter().map(|found| (found.0.number, found)).collect();
    for number in taker.range.clone().map(|id| taker.base + id) {
        match found.get(&number) {
            _ if taker.avoid.contains(&number) => (),
            None => unused.push(number),
            Some((entry, _)) if entry.alive => alive += 1,
            Some(found) if found.1.until <= now => ended.push((number, Some(*found))),
            Some((_, record)) => {
                free_at = Some(free_at.map_or(record.until, |at: i64| at.min(record.until)));
            }
        }
    }
    if unused.is_empty() && ended.is_empty() {
        return Err(Error::Exhausted { range: taker.range.clone(), alive, free_at });
    }
    surroundings.shuffle(&mut unused);
    let mut unused: Vec<_> = unused.into_iter().map(|number| (number, None)).collect();
    ended.sort_by_key(|(_, found)| found.map(|(_, record)| record.until));
    unused.append(&mut ended);
    Ok(unused)
}
