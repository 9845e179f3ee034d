//! Every setting: its definition, what it refuses, and how the code reads it.
//!
//! Names, defaults, ranges and texts stand here and nowhere else in the code;
//! docs/REFERENCE.md is tested against `pg_settings`.
#![allow(unsafe_code)]

use crate::encoding;
use crate::error::Error;
use crate::versions;
use once_cell::sync::OnceCell;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PgList};
use snowflake_core::audit::Sample;
use snowflake_core::{Field, Layout};
use snowflake_registry::{Address, Terms};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static LAYOUT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"default"));
static EPOCH: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static WORKER_ID: GucSetting<i32> = GucSetting::<i32>::new(-1);
static DATACENTER_ID: GucSetting<i32> = GucSetting::<i32>::new(-1);
static DATABASE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"postgres"));
static RESERVATION: GucSetting<i32> = GucSetting::<i32>::new(1000);
static MAX_CLOCK_JUMP: GucSetting<i32> = GucSetting::<i32>::new(24 * HOUR);
static MAX_CLOCK_ERROR: GucSetting<i32> = GucSetting::<i32>::new(0);
static PROMOTION_GUARD: GucSetting<i32> = GucSetting::<i32>::new(1000);
static REGISTRY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static WORKER_ID_RANGE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static LEASE_DURATION: GucSetting<i32> = GucSetting::<i32>::new(HOUR);
static HEARTBEAT: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static ON_COPY: GucSetting<OnCopy> = GucSetting::<OnCopy>::new(OnCopy::Warn);
static MAX_WAIT: GucSetting<i32> = GucSetting::<i32>::new(5);
static MAX_AHEAD: GucSetting<i32> = GucSetting::<i32>::new(0);
static BACKEND_BLOCK: GucSetting<i32> = GucSetting::<i32>::new(1);
static SAMPLE_RATE: GucSetting<f64> = GucSetting::<f64>::new(0.0);
/// The same, as the hot path needs it.
static SAMPLE: AtomicU64 = AtomicU64::new(0);
static SAMPLE_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60);
static MAX_BATCH: GucSetting<i32> = GucSetting::<i32>::new(1_000_000);

/// In milliseconds.
const HOUR: i32 = 3_600_000;

/// The library's version. In the file it stands behind the setting's name, so that `strings` finds it.
const VERSION: &CStr = {
    let marked = concat!("snowflake_id.version=", env!("CARGO_PKG_VERSION"), "\0");
    match CStr::from_bytes_with_nul(marked.as_bytes().split_at("snowflake_id.version=".len()).1) {
        Ok(version) => version,
        Err(_) => panic!("a version has no zeros"),
    }
};
static LIBRARY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(VERSION));

/// The library's version, as text.
pub(crate) fn version() -> &'static str {
    VERSION.to_str().unwrap_or_default()
}

/// What becomes of a data directory that may be the copy of a running node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum OnCopy {
    /// It is said, and ids are generated.
    #[name = c"warn"]
    Warn,
    /// No ids.
    #[name = c"refuse"]
    Refuse,
}

/// The greatest value of `snowflake_id.max_batch`: an array of them takes 800 MB, and
/// PostgreSQL's limit is 1 GB.
pub(crate) const MAX_BATCH_LIMIT: i32 = 100_000_000;

/// Whether the library is being loaded by `shared_preload_libraries`.
pub(crate) fn preloading() -> bool {
    // SAFETY: reads a flag that only the main thread of the process writes.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// The statement that adds this library to those that are preloaded, each name by itself: between
/// one pair of quotes they would be one name, with which the server does not start. `None` where
/// the session's role may not see what is preloaded.
pub(crate) fn preload_statement() -> Option<String> {
    // SAFETY: reads the session's role and its memberships. The string is PostgreSQL's, which
    // changes it with a restart only; what is cut to pieces is a copy of it.
    let names = unsafe {
        let role = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_SETTINGS);
        if !pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) {
            return None;
        }
        let mut names = std::ptr::null_mut();
        let value = pg_sys::shared_preload_libraries_string;
        // Where it is no list, PostgreSQL preloads nothing.
        let whole = !value.is_null()
            && pg_sys::SplitDirectoriesString(
                pg_sys::pstrdup(value),
                b',' as c_char,
                &raw mut names,
            );
        let names = PgList::<c_char>::from_pg(if whole { names } else { std::ptr::null_mut() });
        names.iter_ptr().map(|name| encoding::from_file(CStr::from_ptr(name))).collect::<Vec<_>>()
    };
    let names = names.iter().map(|name| match quote_identifier(name) {
        plain if plain == *name => plain,
        _ => quote_literal(name),
    });
    let names: Vec<_> = names.chain(["snowflake_id".to_owned()]).collect();
    Some(format!("ALTER SYSTEM SET shared_preload_libraries = {};", names.join(", ")))
}

/// What was refused while the settings were defined.
static REFUSED: OnceCell<Error> = OnceCell::new();
static DEFINING: AtomicBool = AtomicBool::new(false);

/// Defines all settings; for `_PG_init`.
pub(crate) fn define() {
    DEFINING.store(true, Ordering::Relaxed);
    // PostgreSQL allows settings that need a restart only while preloading. Where the
    // library is not preloaded no ids are generated, and a session reads them once.
    let restart = || if preloading() { GucContext::Postmaster } else { GucContext::Sighup };

    // The layout and its epoch first: the check of a worker id asks for its width.
    // SAFETY: the hooks have the signatures that PostgreSQL calls, and `pg_guard` turns
    // a panic in them into an error.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"snowflake_id.layout",
            c"Which fields an id has, from the most significant, and how wide they are.",
            c"A preset's name (see the view snowflake_layouts) or, for example, timestamp:41,worker:10,sequence:12. The timestamp comes first; timestamp:39@10ms sets another tick length than 1ms; unused:N leaves bits zero; 63 bits at most. The same on every node; once a key has been stored, it must not change.",
            &LAYOUT,
            restart(),
            GucFlags::default(),
            Some(check_layout),
            None,
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"snowflake_id.epoch",
            c"The moment that an id's time is counted from.",
            c"A timestamp with its offset from UTC, such as 2025-01-01 00:00:00+00. Empty: the epoch of the layout's preset, else 2025-01-01 00:00:00+00. The same on every node; once a key has been stored, it must not change.",
            &EPOCH,
            restart(),
            GucFlags::default(),
            Some(check_epoch),
            None,
            Some(show_epoch),
        );
        GucRegistry::define_int_guc_with_hooks(
            c"snowflake_id.worker_id",
            c"This node's worker id, inside every id; -1 for none: then snowflake_id.registry leases one.",
            c"From 0 to the greatest value of the layout's worker field, different on every node that can ever write the same keys.",
            &WORKER_ID,
            -1,
            i32::MAX,
            GucContext::Sighup,
            GucFlags::default(),
            Some(check_worker_id),
            None,
            None,
        );
        GucRegistry::define_int_guc_with_hooks(
            c"snowflake_id.datacenter_id",
            c"The upper part of this node's worker id, where the layout has a datacenter field; -1 for none.",
            c"From 0 to the greatest value of the layout's datacenter field. Datacenter and worker id together name the node.",
            &DATACENTER_ID,
            -1,
            i32::MAX,
            GucContext::Sighup,
            GucFlags::default(),
            Some(check_datacenter_id),
            None,
            None,
        );
    }
    define_keepers(restart);
    define_leases();
    GucRegistry::define_int_guc(
        c"snowflake_id.max_wait",
        c"How far the clock may have stepped back and be waited for.",
        c"A call waits until the clock has caught up with the ids already generated; where that would take longer, it fails with SQLSTATE 58000.",
        &MAX_WAIT,
        0,
        HOUR,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"snowflake_id.max_ahead",
        c"How far the node's ids may run ahead of the clock.",
        c"Above 0, bulk loads are not held to the layout's ids per tick, and a clock that steps back by less than this is not waited for. All sessions of the node share the lead.",
        &MAX_AHEAD,
        0,
        HOUR,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"snowflake_id.backend_block",
        c"How many sequence values a session claims at once.",
        c"1 keeps all ids of the node in the order in which they were generated. More makes single calls cheaper where many sessions generate ids at once; the order between sessions within one tick is then given up, and values left over at the tick's end are dropped.",
        &BACKEND_BLOCK,
        1,
        65_536,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"snowflake_id.max_batch",
        c"The most ids that one call of snowflake_batch or snowflake_batch_array may ask for.",
        c"",
        &MAX_BATCH,
        1,
        MAX_BATCH_LIMIT,
        GucContext::Suset,
        GucFlags::default(),
    );
    // SAFETY: as above.
    unsafe {
        versions::define_float_guc(
        c"snowflake_id.sample_rate",
        c"The share of ids that are noted in the table snowflake_id_node.samples; 0 for none.",
        c"With each the session, its database and role. Samples that come faster than the keeper can write them down are dropped, and counted in pg_stat_snowflake.",
        &SAMPLE_RATE,
        (0.0, 1.0),
        GucContext::Sighup,
        assign_sample_rate,
    );
    }
    GucRegistry::define_int_guc(
        c"snowflake_id.sample_retention",
        c"How long samples are kept; 0 for ever.",
        c"The keeper deletes older ones while it writes new ones.",
        &SAMPLE_RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_string_guc(
        c"snowflake_id.version",
        c"The version of the library that this session runs.",
        c"After another version of the package was installed, the library of before runs until the server is restarted.",
        &LIBRARY,
        GucContext::Internal,
        GucFlags::DISALLOW_IN_FILE,
    );
    // SAFETY: a string constant.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"snowflake_id".as_ptr()) };
    DEFINING.store(false, Ordering::Relaxed);
}

/// Defines the settings that only the keeper follows.
fn define_keepers(restart: impl Fn() -> GucContext) {
    // SAFETY: as above.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"snowflake_id.database",
            c"The database in which the keeper keeps this node's record.",
            c"In the extension snowflake_id_node, which it creates there. The keeper stays connected to it.",
            &DATABASE,
            restart(),
            GucFlags::default(),
            Some(check_database),
            None,
            None,
        );
    }
    GucRegistry::define_int_guc(
        c"snowflake_id.reservation",
        c"How much id-time the keeper reserves at once.",
        c"The length of a window. A crash costs this much time and a quarter of it at most until ids flow again; while ids are generated, the record is written about twice in this time.",
        &RESERVATION,
        100,
        HOUR,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"snowflake_id.max_clock_jump",
        c"A jump of the clock forward by more than this is not believed; 0 believes all.",
        c"Ids stop until the clock is put right, or until snowflake_accept_clock() is called.",
        &MAX_CLOCK_JUMP,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"snowflake_id.max_clock_error",
        c"No ids while the kernel's estimate of the clock's error is above this; 0 never asks.",
        c"The kernel's estimate is kept right by a time daemon that speaks NTP, such as chrony; without one it grows. Between two answers of a time server it grows as well: not below 2.5 s.",
        &MAX_CLOCK_ERROR,
        0,
        HOUR,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"snowflake_id.promotion_guard",
        c"How far beyond the clock a promoted standby begins.",
        c"Covers what the old primary generated and did not replicate: as much as the two clocks may differ. It also applies where another node's record has this node's worker id.",
        &PROMOTION_GUARD,
        0,
        HOUR,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"snowflake_id.on_copy",
        c"What becomes of a data directory that may be the copy of a running node's.",
        c"warn says so in the log and in the view snowflake_status; refuse generates no ids there.",
        &ON_COPY,
        restart(),
        GucFlags::default(),
    );
}

/// Defines the settings of a lease from a registry.
fn define_leases() {
    // SAFETY: as above.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"snowflake_id.registry",
            c"Where this node leases its worker id; empty where snowflake_id.worker_id sets it.",
            c"postgres://user@host/database?password_file=/file, etcd://host,host/prefix or zookeeper://host,host/path. The same on every node that can ever write the same keys, but for regions whose snowflake_id.worker_id_range do not meet.",
            &REGISTRY,
            GucContext::Sighup,
            // It may hold a password.
            GucFlags::SUPERUSER_ONLY,
            Some(check_registry),
            None,
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"snowflake_id.worker_id_range",
            c"The worker ids that this node may lease, such as 0-341; empty for all of the layout.",
            c"Regions with ranges that do not meet need no common registry.",
            &WORKER_ID_RANGE,
            GucContext::Sighup,
            GucFlags::default(),
            Some(check_worker_id_range),
            None,
            None,
        );
    }
    GucRegistry::define_int_guc(
        c"snowflake_id.lease_duration",
        c"How long a lease lasts from its last heartbeat.",
        c"So long an outage of the registry is survived; and so long the worker id of a node that crashed for good is not given to another.",
        &LEASE_DURATION,
        1000,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"snowflake_id.heartbeat",
        c"How often the lease is renewed.",
        c"The same on every node, and at most a third of snowflake_id.lease_duration. A node that takes a worker id which it did not have first waits for one and a half heartbeats of its own.",
        &HEARTBEAT,
        100,
        HOUR,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
}

// How the code reads them

/// The layout in force, with its epoch. It changes with a restart only, so each
/// process reads it once.
pub(crate) fn layout() -> Result<&'static Layout, Error> {
    static IN_FORCE: OnceCell<Layout> = OnceCell::new();
    IN_FORCE.get_or_try_init(|| {
        if let Some(error) = REFUSED.get() {
            return Err(error.clone());
        }
        parse(&text(&LAYOUT), &text(&EPOCH))
    })
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|text| encoding::from_file(&text)).unwrap_or_default()
}

fn parse(layout: &str, epoch: &str) -> Result<Layout, Error> {
    let bad_layout = |why| Error::BadLayout { text: layout.to_owned(), why };
    let parsed = Layout::parse(layout, parse_epoch(epoch)?).map_err(bad_layout)?;
    parsed.check_generates().map_err(bad_layout)?;
    Ok(parsed)
}

/// Microseconds since 1970; `None` for an empty text, which asks for the layout's own.
fn parse_epoch(text: &str) -> Result<Option<i64>, Error> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let epoch: Result<jiff::Timestamp, _> = text.parse();
    epoch
        .map(|epoch| Some(epoch.as_microsecond()))
        .map_err(|_| Error::BadEpoch { text: text.to_owned() })
}

/// An epoch as the setting takes it, whatever the session's time zone; `None` where it is none.
pub(crate) fn epoch_setting(micros: i64) -> Option<String> {
    let epoch = jiff::Timestamp::from_microsecond(micros).ok()?;
    Some(epoch.strftime("%Y-%m-%d %H:%M:%S%.f+00").to_string())
}

/// The worker id; `None` where it is not set.
pub(crate) fn worker_id() -> Option<u32> {
    u32::try_from(WORKER_ID.get()).ok()
}

/// The datacenter id; `None` where it is not set.
pub(crate) fn datacenter_id() -> Option<u32> {
    u32::try_from(DATACENTER_ID.get()).ok()
}

/// The database of the keeper.
pub(crate) fn database() -> String {
    text(&DATABASE)
}

/// Its name as PostgreSQL has it.
pub(crate) fn database_name() -> CString {
    DATABASE.get().unwrap_or_default()
}

/// The length of a window, in microseconds.
pub(crate) fn reservation() -> u64 {
    micros(&RESERVATION)
}

/// The greatest jump of the clock forward that is believed, in microseconds.
pub(crate) fn max_clock_jump() -> Option<u64> {
    Some(micros(&MAX_CLOCK_JUMP)).filter(|&max| max > 0)
}

/// The greatest error of the clock with which ids are generated, in microseconds.
pub(crate) fn max_clock_error() -> Option<u64> {
    Some(micros(&MAX_CLOCK_ERROR)).filter(|&max| max > 0)
}

/// How far beyond the clock a promoted standby begins, in microseconds.
pub(crate) fn promotion_guard() -> u64 {
    micros(&PROMOTION_GUARD)
}

/// The registry's address; `None` where the worker id is set by hand.
pub(crate) fn registry() -> Option<String> {
    Some(text(&REGISTRY)).filter(|address| !address.is_empty())
}

/// The worker ids that may be leased.
pub(crate) fn worker_id_range(layout: &Layout) -> RangeInclusive<u64> {
    parse_range(&text(&WORKER_ID_RANGE), layout).unwrap_or(0..=layout.max(Field::Worker))
}

/// The terms of a lease.
pub(crate) fn terms() -> Terms {
    let duration = |setting: &GucSetting<i32>| Duration::from_millis(setting.get() as u64);
    Terms { duration: duration(&LEASE_DURATION), heartbeat: duration(&HEARTBEAT) }
}

/// What becomes of a copy.
pub(crate) fn on_copy() -> OnCopy {
    ON_COPY.get()
}

/// A setting in milliseconds that is never negative, in microseconds.
fn micros(setting: &GucSetting<i32>) -> u64 {
    setting.get() as u64 * 1000
}

/// How far a clock may have stepped back and be waited for.
pub(crate) fn max_wait() -> Duration {
    Duration::from_millis(MAX_WAIT.get() as u64)
}

/// Reads a setting on the hot path, without the check of the thread that `get` makes.
#[inline]
fn read(setting: &GucSetting<i32>) -> i32 {
    // SAFETY: points to the variable itself, which only PostgreSQL's code on the main
    // thread of the process writes; SQL functions run on no other thread.
    unsafe { setting.as_ptr().read() }
}

/// How far ids may run ahead of the clock, in microseconds.
#[inline]
pub(crate) fn max_ahead() -> u64 {
    read(&MAX_AHEAD) as u64 * 1000
}

/// The least `snowflake_id.max_ahead`, in whole seconds, with which an id that is `by` microseconds too
/// far ahead could have been followed; `None` where that is more than the setting takes.
pub(crate) fn max_ahead_for(by: u64) -> Option<u64> {
    let seconds = max_ahead().saturating_add(by).div_ceil(1_000_000);
    Some(seconds).filter(|&seconds| seconds <= HOUR as u64 / 1000)
}

/// How many sequence values a session claims at once.
#[inline]
pub(crate) fn backend_block() -> u64 {
    read(&BACKEND_BLOCK) as u64
}

/// The ids that are sampled; `None` for none.
#[inline]
pub(crate) fn sample() -> Option<Sample> {
    Sample::from_word(SAMPLE.load(Ordering::Relaxed))
}

/// How long samples are kept, in microseconds; `None` for ever.
pub(crate) fn sample_retention() -> Option<u64> {
    Some(SAMPLE_RETENTION.get() as u64 * 60_000_000).filter(|&retention| retention > 0)
}

/// The most ids of one batch.
pub(crate) fn max_batch() -> i32 {
    MAX_BATCH.get()
}

// What they refuse

#[pg_guard]
unsafe extern "C-unwind" fn check_layout(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL hands over a pointer to the new value, a C string.
    let text = unsafe { given(value) };
    // Whether the epoch is one is not the layout's matter.
    accept("snowflake_id.layout", text, parse(text, "").map(|_| ()))
}

#[pg_guard]
unsafe extern "C-unwind" fn check_epoch(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as in `check_layout`.
    let text = unsafe { given(value) };
    accept("snowflake_id.epoch", text, parse_epoch(text).map(|_| ()))
}

#[pg_guard]
unsafe extern "C-unwind" fn check_database(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as in `check_layout`.
    let name = unsafe { given(value) };
    // The keeper stays connected, and a template must have no connections.
    let good = (1..pg_sys::NAMEDATALEN as usize).contains(&name.len())
        && !["template0", "template1"].contains(&name);
    let result = if good { Ok(()) } else { Err(Error::BadDatabase) };
    accept("snowflake_id.database", name, result)
}

#[pg_guard]
unsafe extern "C-unwind" fn check_registry(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as in `check_layout`.
    let address = unsafe { given(value) };
    let result = match address {
        "" => Ok(()),
        address => Address::parse(address).map(drop).map_err(|why| Error::BadRegistry { why }),
    };
    let accepted = accept("snowflake_id.registry", "...", result);
    if !accepted {
        // PostgreSQL's own message would show the value, and its password, to the log.
        // SAFETY: as in `accept`.
        unsafe {
            pg_sys::GUC_check_errmsg_string =
                error_text("invalid value for parameter \"snowflake_id.registry\"");
        }
    }
    accepted
}

#[pg_guard]
unsafe extern "C-unwind" fn check_worker_id_range(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as in `check_layout`.
    let range = unsafe { given(value) };
    // Without a layout, that is the error.
    let result = layout().map_or(Ok(()), |layout| parse_range(range, layout).map(drop));
    accept("snowflake_id.worker_id_range", range, result)
}

/// Worker ids from one to another, or all.
fn parse_range(text: &str, layout: &Layout) -> Result<RangeInclusive<u64>, Error> {
    let all = 0..=layout.max(Field::Worker);
    if text.trim().is_empty() {
        return Ok(all);
    }
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    ends.filter(|(first, last)| first <= last && all.contains(last))
        .map(|(first, last)| first..=last)
        .ok_or_else(|| Error::BadRange { text: text.to_owned(), layout: *layout })
}

/// Worker ids, ranges of them, or both, with commas between.
pub(crate) fn parse_ranges(text: &str, layout: &Layout) -> Result<Vec<RangeInclusive<u64>>, Error> {
    let range = |item: &str| {
        // A single one is a range, too.
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        parse_range(&format!("{first}-{last}"), layout).ok()
    };
    let bad = || Error::BadRange { text: text.to_owned(), layout: *layout };
    text.split(',').map(range).collect::<Option<_>>().ok_or_else(bad)
}

#[pg_guard]
unsafe extern "C-unwind" fn check_worker_id(
    value: *mut c_int,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL hands over a pointer to the new value.
    check_number(Field::Worker, "snowflake_id.worker_id", unsafe { *value })
}

#[pg_guard]
unsafe extern "C-unwind" fn check_datacenter_id(
    value: *mut c_int,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL hands over a pointer to the new value.
    check_number(Field::Datacenter, "snowflake_id.datacenter_id", unsafe { *value })
}

/// A number must fit into its field; where the layout has none, only 0 does.
fn check_number(field: Field, setting: &str, value: c_int) -> bool {
    let result = match layout() {
        Ok(layout) if i64::from(value) > layout.max(field) as i64 => {
            Err(Error::FieldOutOfRange { field, value: i64::from(value), layout: *layout })
        }
        _ => Ok(()),
    };
    accept(setting, &value.to_string(), result)
}

/// What a check hook answers. A refused value is reported with the reason by
/// PostgreSQL, which then goes on with the old one. While the configuration is
/// read for the first time, the old one is the default, and going on would make or
/// read ids of another layout than the one that was asked for: the server does not
/// start, and a session that loads the library late gets an error at each use.
fn accept(setting: &str, value: &str, result: Result<(), Error>) -> bool {
    let Err(error) = result else { return true };
    if DEFINING.load(Ordering::Relaxed) {
        let (setting, value) = (setting.to_owned(), value.to_owned());
        let refused = Error::BadSetting { setting, value, why: Box::new(error.clone()) };
        if preloading() {
            refused.raise();
        }
        // The first refusal is enough to mend.
        let _ = REFUSED.set(refused);
    }
    let (detail, hint) = error.help();
    // SAFETY: PostgreSQL reads both strings after the hook has returned and before it
    // resets the context that they are copied into, as its own macros do.
    unsafe {
        pg_sys::GUC_check_errdetail_string = error_text(&detail);
        if !hint.is_empty() {
            pg_sys::GUC_check_errhint_string = error_text(&hint);
        }
    }
    false
}

/// A C string in the memory that lasts until the error has been reported.
unsafe fn error_text(text: &str) -> *mut c_char {
    let text = encoding::to_server(text);
    // SAFETY: ErrorContext exists in every process; the string is copied.
    unsafe { pg_sys::MemoryContextStrdup(pg_sys::ErrorContext, text.as_ptr()) }
}

/// The new value of a string setting.
unsafe fn given<'a>(value: *mut *mut c_char) -> &'a str {
    // SAFETY: the caller got the pointer from PostgreSQL; the string lives as long as
    // the hook runs. Null stands for a setting without a value.
    unsafe {
        if (*value).is_null() {
            return "";
        }
        CStr::from_ptr(*value).to_str().unwrap_or("\u{fffd}")
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_sample_rate(rate: f64, _extra: *mut c_void) {
    SAMPLE.store(Sample::of(rate).map_or(0, Sample::into_word), Ordering::Relaxed);
}

/// Shows the epoch in force, also where it is the layout's own.
#[pg_guard]
unsafe extern "C-unwind" fn show_epoch() -> *const c_char {
    static SHOWN: OnceCell<CString> = OnceCell::new();
    let shown = SHOWN.get_or_try_init(|| {
        let epoch = layout()?.epoch();
        let text = epoch_setting(epoch);
        text.and_then(|text| CString::new(text).ok()).ok_or(Error::NotATimestamp)
    });
    // A layout that cannot be read is reported where it is used.
    shown.map_or(c"".as_ptr(), |text| text.as_ptr())
}
