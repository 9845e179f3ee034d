//! The wall clock, and the two ways to count microseconds: since 1970 in
//! `snowflake-core`, since 2000 in PostgreSQL.

use crate::error::Error;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use snowflake_core::Clock;

/// 2000-01-01 00:00:00 UTC, PostgreSQL's own epoch, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = (pg_sys::POSTGRES_EPOCH_JDATE - pg_sys::UNIX_EPOCH_JDATE) as i64
    * pg_sys::SECS_PER_DAY as i64
    * 1_000_000;

/// The machine's wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock;

impl Clock for WallClock {
    #[inline]
    fn now(&self) -> i64 {
        read(libc::CLOCK_REALTIME)
    }
}

/// Microseconds since the machine was started, also those in which it slept. Nobody sets this
/// clock.
pub(crate) fn uptime() -> i64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Not by std's SystemTime, which costs 10 ns more: it checks the result and counts in u64
/// seconds and u32 nanoseconds.
#[inline]
fn read(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own. The call can fail only for a bad
    // pointer or a clock that does not exist; Linux has had both since version 2.6.39.
    #[allow(unsafe_code)]
    unsafe {
        libc::clock_gettime(clock, &raw mut now)
    };
    // Below a thousand million: as u32, the division is one multiplication.
    now.tv_sec * 1_000_000 + i64::from(now.tv_nsec as u32 / 1000)
}

/// Microseconds since 1970. The infinities become the ends of `i64`, which are
/// before and after every id.
pub(crate) fn to_unix(time: TimestampWithTimeZone) -> i64 {
    time.into_inner().saturating_add(POSTGRES_EPOCH)
}

/// The `timestamptz` of microseconds since 1970.
pub(crate) fn from_unix(micros: i64) -> Result<TimestampWithTimeZone, Error> {
    micros
        .checked_sub(POSTGRES_EPOCH)
        .and_then(|time| TimestampWithTimeZone::try_from(time).ok())
        .filter(TimestampWithTimeZone::is_finite)
        .ok_or(Error::NotATimestamp)
}

/// How a moment is shown in messages: as the session shows a `timestamptz`, or in
/// words where it is none.
pub(crate) fn shown(micros: Option<i64>) -> String {
    match micros.and_then(|micros| from_unix(micros).ok()) {
        Some(time) => time.to_string(),
        None => "a time that PostgreSQL cannot show".to_owned(),
    }
}
