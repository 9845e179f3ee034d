//! Why there is no lease.

use crate::words::Words;
use std::fmt;
use std::ops::RangeInclusive;

/// Why there is no lease. Everybody may see it: it names no password and no path, and what others
/// wrote is in [`Words`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The registry cannot be reached, or does not answer.
    Unreachable {
        /// Host and port, or what else names it.
        place: Words,
        /// In words.
        why: Words,
    },
    /// It answers, and will not.
    Refused {
        /// Host and port, or what else names it.
        place: Words,
        /// In words.
        why: Words,
    },
    /// What answers there is something else, or does not do what a registry does.
    NoRegistry {
        /// Host and port, or what else names it.
        place: Words,
        /// In words.
        why: Words,
    },
    /// Each number that was free was taken by others in the moment before.
    Outrun,
    /// A file that the address names cannot be used.
    File {
        /// The option of the address that names it.
        option: &'static str,
        /// In words.
        why: Words,
    },
    /// It holds what no node has written.
    Foreign {
        /// Where.
        key: Words,
        /// In words.
        why: Words,
    },
    /// It holds leases for another layout.
    OtherLayout {
        /// Where.
        key: Words,
        /// That layout.
        layout: Words,
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
            Self::NoRegistry { place, why } => {
                write!(f, "{place} is none, by its answer: {why}")
            }
            Self::Outrun => f.write_str("others took each worker id that was free a moment ago"),
            Self::File { option, why } => {
                write!(f, "the file that {option} names cannot be used: {why}")
            }
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
    /// Whether it comes from how the node or the registry is set up, so that it comes again until
    /// somebody does something about it.
    pub(crate) fn is_of_configuration(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::NoRegistry { .. }
            | Self::File { .. }
            | Self::Foreign { .. }
            | Self::OtherLayout { .. } => true,
            Self::Unreachable { .. } | Self::Outrun | Self::Exhausted { .. } => false,
        }
    }

    /// Whether it is a registry's answer: none that did not come, or came from something else.
    pub(crate) fn is_answer(&self) -> bool {
        !matches!(self, Self::Unreachable { .. } | Self::NoRegistry { .. } | Self::File { .. })
    }

    /// That it cannot be reached.
    pub fn unreachable(place: &str, why: impl fmt::Display) -> Self {
        Self::Unreachable { place: Words::of(place), why: Words::of(why) }
    }

    /// What the registry has refused, and why; its words are cut.
    pub fn refused(place: &str, why: impl fmt::Display) -> Self {
        Self::Refused { place: Words::of(place), why: Words::of(why) }
    }

    pub(crate) fn no_registry(place: &str, why: impl fmt::Display) -> Self {
        Self::NoRegistry { place: Words::of(place), why: Words::of(why) }
    }

    pub(crate) fn foreign(key: &str, why: impl fmt::Display) -> Self {
        Self::Foreign { key: Words::of(key), why: Words::of(why) }
    }

    /// The same, should a registry have repeated a secret that it was shown.
    pub(crate) fn without(mut self, secret: &str) -> Self {
        match &mut self {
            Self::Unreachable { why, .. }
            | Self::Refused { why, .. }
            | Self::NoRegistry { why, .. } => *why = why.without(secret),
            Self::Foreign { key, why: text, .. } | Self::OtherLayout { key, layout: text, .. } => {
                *key = key.without(secret);
                *text = text.without(secret);
            }
            Self::Outrun | Self::File { .. } | Self::Exhausted { .. } => (),
        }
        self
    }
}

/// The innermost cause in words: what a library puts around it repeats it, or names what
/// is not to be named.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    advise(cause.to_string())
}

/// What to do, where a certificate is refused that other programs take.
fn advise(why: String) -> String {
    for (word, what, make) in [
        (
            "CaUsedAsEndEntity",
            "the server's certificate is that of an authority",
            "one with CA:FALSE, signed by the authority",
        ),
        (
            "UnsupportedCertVersion",
            "a certificate of the server is of version 1",
            "one of version 3, with subjectAltName",
        ),
    ] {
        if why.contains(word) {
            return format!("{what} ({word}): give the server {make}");
        }
    }
    why
}
