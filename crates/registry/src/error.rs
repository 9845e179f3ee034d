//! Why there is no lease.

use std::fmt;
use std::ops::RangeInclusive;

/// Why there is no lease. The texts hold no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The registry cannot be reached, or does not answer.
    Unreachable {
        /// Host and port, or what else names it.
        place: String,
        /// In words.
        why: String,
    },
    /// It answers, and will not.
    Refused {
        /// Host and port, or what else names it.
        place: String,
        /// In words.
        why: String,
    },
    /// A file that the address names cannot be used.
    File {
        /// Its path.
        path: String,
        /// In words.
        why: String,
    },
    /// It holds what no node has written.
    Foreign {
        /// Where.
        key: String,
        /// In words.
        why: String,
    },
    /// It holds leases for another layout.
    OtherLayout {
        /// Where.
        key: String,
        /// That layout.
        layout: String,
        /// Its epoch, in microseconds since the Unix epoch.
        epoch: i64,
    },
    /// Each number of the range has a holder.
    Exhausted {
        /// The range.
        range: RangeInclusive<u64>,
        /// How many of the holders are alive.
        alive: usize,
        /// When the first number of one that is not becomes free: microseconds since the
        /// Unix epoch.
        free_at: Option<i64>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { place, why } => write!(f, "{place} cannot be reached: {why}"),
            Self::Refused { place, why } => write!(f, "{place} refuses: {why}"),
            Self::File { path, why } => write!(f, "{path} cannot be used: {why}"),
            Self::Foreign { key, why } => write!(f, "{key} is no lease: {why}"),
            Self::OtherLayout { key, layout, .. } => {
                write!(f, "{key} is a lease for another layout: {layout}")
            }
            Self::Exhausted { range, alive, .. } => write!(
                f,
                "all worker ids from {} to {} are taken, {alive} of them by nodes that are alive",
                range.start(),
                range.end(),
            ),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn file(path: &str, why: &impl fmt::Display) -> Self {
        Self::File { path: path.to_owned(), why: why.to_string() }
    }
}

/// The innermost cause in words: what a library puts around it repeats it, or names what
/// is not to be named.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
