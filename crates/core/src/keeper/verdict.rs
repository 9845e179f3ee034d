//! What a look ends with: ids, or why there are none.

/// Whether ids can be had, and why not. The numbers are stored in shared memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// The keeper is about to open a window.
    Starting = 0,
    /// Ids flow.
    Ready,
    /// No worker id is set.
    NoWorkerId,
    /// The layout has a datacenter field and no datacenter id is set.
    NoDatacenterId,
    /// The keeper cannot connect to its database.
    NoDatabase,
    /// The extension could not be created in the keeper's database; `text` is the server's error.
    NoExtension,
    /// The keeper could not read or write its record; `text` is the server's error.
    CannotReserve,
    /// The record lies ahead of the clock, by `micros`.
    ClockBehind,
    /// There is a window, but the clock stands behind the ids, by `micros`: further than calls wait.
    ClockFellBehind,
    /// The clock jumped forward, by `micros`.
    ClockJumped,
    /// The kernel's estimate of the clock's error is too large: `micros`.
    ClockError,
    /// There is no such estimate, and it is to be looked at.
    ClockUnknown,
    /// The record is of another layout: `text`, with an epoch in `micros`.
    LayoutChanged,
    /// The data directory may be the copy of another node's: `text`.
    Copy,
    /// Both a worker id and a registry are set.
    TwoSources,
    /// There is no lease; `text` says why.
    NoLease,
    /// Worker id `text` is claimed until `micros` since 1970.
    LeaseClaimed,
    /// The lease ended at `micros` since 1970; `text` says why it was not renewed.
    LeaseEnded,
    /// The node has been drained.
    Drained,
    /// Somebody else has made the schema of the keeper's extension.
    SchemaTaken,
    /// A table of the keeper's extension was changed: `text` says how.
    TableChanged,
    /// The layout has no more time.
    TimeExhausted,
}

/// Each state, with its name for users.
const STATES: [(State, &str); 22] = [
    (State::Starting, "starting"),
    (State::Ready, "ready"),
    (State::NoWorkerId, "no_worker_id"),
    (State::NoDatacenterId, "no_datacenter_id"),
    (State::NoDatabase, "no_database"),
    (State::NoExtension, "no_extension"),
    (State::CannotReserve, "cannot_reserve"),
    (State::ClockBehind, "clock_behind"),
    (State::ClockFellBehind, "clock_behind"),
    (State::ClockJumped, "clock_jumped"),
    (State::ClockError, "clock_error"),
    (State::ClockUnknown, "clock_unknown"),
    (State::LayoutChanged, "layout_changed"),
    (State::Copy, "copy"),
    (State::TwoSources, "two_sources"),
    (State::NoLease, "no_lease"),
    (State::LeaseClaimed, "lease_claimed"),
    (State::LeaseEnded, "lease_ended"),
    (State::Drained, "drained"),
    (State::SchemaTaken, "schema_taken"),
    (State::TableChanged, "table_changed"),
    (State::TimeExhausted, "time_exhausted"),
];

impl State {
    /// Its name for users.
    pub fn word(self) -> &'static str {
        STATES.iter().find(|(state, _)| *state == self).map_or("starting", |(_, word)| word)
    }

    /// The state that was stored by its number.
    pub fn from_number(number: u64) -> Self {
        let found = STATES.iter().find(|&&(state, _)| state as u64 == number);
        found.map_or(Self::Starting, |&(state, _)| state)
    }
}

/// A state with the facts that its message needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The state.
    pub state: State,
    /// A length of time or a moment, by the state.
    pub micros: u64,
    /// A text, by the state.
    pub text: String,
}

impl Verdict {
    /// A state with its facts.
    pub fn of(state: State, micros: u64, text: impl Into<String>) -> Self {
        Self { state, micros, text: text.into() }
    }
}

impl From<State> for Verdict {
    fn from(state: State) -> Self {
        Self::of(state, 0, "")
    }
}
