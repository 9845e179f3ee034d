//! Leases of worker ids, from a registry that all nodes of a cluster reach: a PostgreSQL
//! database, etcd or ZooKeeper.
//!
//! A [`Store`] keeps one value per number and replaces it if it is still the one that was
//! read; that is all that a provider has to do. What the values mean, who may have which number
//! and until when, is [`lease`]'s, once for all of them. [`Holder`] takes a lease and keeps
//! it, in a thread of its own.
//!
//! # Why no two nodes issue the same id
//!
//! A record says who may use its number for which ids: those of the time from `floor` up to
//! `until`. A node that takes a number writes a record with a `floor` that is not below the
//! `until` which it replaces, and it does so only if nobody else has written since it read.
//! It then uses only what its last successful write allows. So the times of two holders of
//! one number do not overlap, whatever their clocks say and however long a process was stopped;
//! whether a node is thought to be alive decides only who waits.
//!
//! A registry that forgets (one restored from a backup) breaks that chain. See [`lease`]
//! for what then helps.
#![forbid(unsafe_code)]

mod address;
mod bounded;
mod error;
mod etcd;
mod file;
mod holder;
pub mod lease;
mod lessee;
mod net;
mod postgres;
mod record;
mod store;
mod tls;
mod words;
mod zookeeper;

pub use address::Address;
pub use error::Error;
pub use holder::{Contested, Holder, Status, Surroundings, Trouble};
pub use lessee::{Lessee, Start, TrustedTime};
pub use record::{Record, State};
pub use snowflake_core::tenancy::{Held, KeptLease, Now, Terms};
pub use store::{Entry, Memory, Provider, Store};
pub use words::Words;
