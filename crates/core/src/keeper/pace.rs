//! How often the keeper looks, and when it renews a window: ahead of calls that keep coming, and
//! not a moment longer.

use std::time::Duration;

/// How often it looks while nothing happens.
pub(super) const IDLE: Duration = Duration::from_secs(1);
/// How often it looks at most while there are no ids, however many ask; and how often while a
/// lease is being taken.
pub(super) const REFUSING: Duration = Duration::from_millis(100);
/// Nothing is renewed for a call that does not come in this time; microseconds.
const LONGEST: i64 = 60_000_000;
/// A call is awaited for so many times as long as the last one was.
const PATIENCE: i64 = 4;

/// How long the keeper rests before the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Even if it is asked.
    pub at_least: Duration,
    /// If nobody asks.
    pub at_most: Duration,
}

impl Pause {
    /// None at all.
    pub const NONE: Self = Self::up_to(Duration::ZERO);

    pub(super) const fn up_to(at_most: Duration) -> Self {
        Self { at_least: Duration::ZERO, at_most }
    }

    /// While there are no ids to be had: however many ask, not more often than that.
    pub(super) fn unless_asked(at_most: Duration) -> Self {
        Self { at_least: REFUSING.min(at_most), at_most }
    }

    pub(super) fn while_called(reservation: u64) -> Self {
        Self::up_to(Duration::from_micros(reservation / 4).min(IDLE))
    }
}

/// When calls came, by the machine's uptime in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    called_at: Option<i64>,
    /// Until when another call is to be expected.
    expected_until: i64,
    /// The last look, too, found that there had been calls.
    busy: bool,
    called: bool,
    /// A window was opened for a call, whose ids the next look will see.
    opened: bool,
}

/// When to reserve, and how much, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Renewal {
    /// When less than this is left.
    pub(super) below: u64,
    /// The length of the window.
    pub(super) length: u64,
}

impl Pace {
    /// A window was opened for a call.
    pub(super) fn open(&mut self, uptime: i64) {
        self.note(uptime, true);
        self.opened = true;
    }

    /// A look found that there had been calls since the last one, or none.
    pub(super) fn note(&mut self, uptime: i64, called: bool) {
        let is_the_same = std::mem::take(&mut self.opened);
        self.busy = called && self.called && !is_the_same;
        self.called = called;
        if !called || is_the_same {
            return;
        }
        // One call says nothing of a next one; the second does.
        if let Some(before) = self.called_at {
            let gap = uptime.saturating_sub(before).saturating_mul(PATIENCE).min(LONGEST);
            self.expected_until = self.expected_until.max(uptime.saturating_add(gap));
        }
        self.called_at = Some(uptime);
    }

    /// Whether calls came of late, or are expected.
    pub(super) const fn is_warm(&self, uptime: i64) -> bool {
        self.called || uptime < self.expected_until
    }

    /// What to reserve and when; `None` where nobody needs a window.
    pub(super) const fn renewal(
        &self,
        uptime: i64,
        asked: bool,
        reservation: u64,
    ) -> Option<Renewal> {
        if asked || self.busy {
            return Some(Renewal { below: reservation / 2, length: reservation });
        }
        if !self.is_warm(uptime) {
            return None;
        }
        // Calls that come now and then find a window, at the price of one commit per reservation.
        let slack = reservation / 4;
        Some(Renewal { below: slack + 1, length: longest(reservation) })
    }
}

/// The longest window, beyond where ids are or may be.
pub(crate) const fn longest(reservation: u64) -> u64 {
    reservation.saturating_add(reservation / 4)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const RESERVATION: u64 = 1_000_000;

    /// Looks every quarter of a second at calls that come in given intervals: how many commits there
    /// were, and how many calls found no window.
    fn minute_of_calls(every: i64) -> (u64, u64) {
        let (mut pace, mut end, mut commits, mut waited) = (Pace::default(), 0, 0, 0);
        let (mut called, mut at) = (false, 0);
        while at < 60 * SECOND {
            if at % every == 0 {
                called = true;
                if at >= end {
                    waited += 1;
                    commits += 1;
                    end = at + RESERVATION as i64;
                }
            }
            if at % (SECOND / 4) == 0 {
                pace.note(at, called);
                called = false;
                if let Some(renewal) = pace.renewal(at, false, RESERVATION)
                    && end - at < renewal.below as i64
                {
                    commits += 1;
                    end = at + renewal.length as i64;
                }
            }
            at += SECOND / 100;
        }
        (commits, waited)
    }

    #[test]
    fn a_call_a_second_finds_a_window_for_a_commit_a_second() {
        for every in [SECOND / 2, SECOND, SECOND * 3 / 2, 5 * SECOND] {
            let (commits, waited) = minute_of_calls(every);
            assert!(waited <= 2, "{every}: {waited}");
            assert!(commits <= 62, "{every}: {commits}");
        }
    }

    #[test]
    fn nothing_is_renewed_for_calls_that_do_not_come() {
        let mut pace = Pace::default();
        pace.open(0);
        pace.note(SECOND / 4, true);
        // One call is none to wait for.
        pace.note(SECOND, false);
        assert_eq!(pace.renewal(SECOND, false, RESERVATION), None);
        pace.note(1000 * SECOND, true);
        for after in [1, 30, 59] {
            pace.note((1000 + after) * SECOND, false);
            assert!(pace.is_warm((1000 + after) * SECOND), "{after}");
        }
        pace.note(1060 * SECOND, false);
        assert!(!pace.is_warm(1060 * SECOND));
    }
}
