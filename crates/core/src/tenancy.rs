//! What a node knows of its lease: the right to a worker id until a time, by a registry.
//!
//! Who may have which worker id, the registry's crate knows. Here is what the keeper needs of it.
//! Times are microseconds since the Unix epoch.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What a node keeps of its lease on its own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLease {
    /// What the registry knows it by.
    pub nonce: String,
    /// Its end, or an earlier one.
    pub until: i64,
}

/// A lease that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The node's number, see [`crate::Layout::node`].
    pub number: u64,
    /// No id of an earlier time.
    pub floor: i64,
    /// No id of this time, or later.
    pub until: i64,
    /// To be kept on disk, see [`KeptLease`].
    pub nonce: String,
    /// Whether another node has the number from `until` on, so that it ends there.
    pub followed: bool,
}

impl Held {
    /// What is kept of it.
    pub fn kept(&self) -> KeptLease {
        KeptLease { nonce: self.nonce.clone(), until: self.until }
    }
}

/// The time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// By the wall clock.
    pub wall: i64,
    /// Where ids may be; not below the former.
    pub ids: i64,
}

/// The terms of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a lease lasts from its last heartbeat.
    pub duration: Duration,
    /// How often it is renewed. The same on all nodes: a newcomer waits for half as long again
    /// before it uses a number.
    pub heartbeat: Duration,
}

impl Terms {
    /// How long who is silent, a node or its registry, counts as being there: three heartbeats.
    pub const fn presence(&self) -> Duration {
        self.heartbeat.saturating_mul(3)
    }
}

/// What the settings say of the lease. The address can hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where the registry is.
    pub registry: String,
    /// The worker ids that may be leased.
    pub range: RangeInclusive<u64>,
    /// The datacenter's part of the number.
    pub base: u64,
    /// On which terms.
    pub terms: Terms,
}

/// How a lease stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The lease, until its end and beyond: as long as nobody else is known to have the number.
    pub held: Option<Held>,
    /// A number has been claimed; it is used from this time on, unless somebody objects.
    pub claimed: Option<(u64, i64)>,
    /// Another node was found to use the number that this one held, for the same time.
    pub contested: Option<Contested>,
    /// What is the matter with the registry.
    pub trouble: Option<Trouble>,
    /// Heartbeats that the registry has answered.
    pub renewals: u64,
    /// Calls that it has not, or has refused.
    pub failures: u64,
    /// Whether the registry has said anything at all to this holder.
    pub answered: bool,
}

/// A lease that must not be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// Its nonce.
    pub nonce: String,
    /// Who uses the same number,
    pub node: String,
    /// and where that is, for people.
    pub host: String,
}

/// What is the matter with the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when: the wall clock.
    pub since: i64,
    /// The last error, in words.
    pub why: String,
}
