//! What a snowflake id is and how a node makes them, without PostgreSQL.
//!
//! * [`layout`]: which fields an id has, in which order and how wide, with
//!   epoch and tick length; packing and unpacking.
//! * [`allocator`]: the lock-free claim of the next slots of a node.
//! * [`reserved`]: the limit that may be published, because it has been written.
//! * [`window`]: what a node reserves before it issues from it, and where it may begin.
//! * [`keeper`]: what is decided when, and by whom.
//! * [`orders`]: what administrators want of it.
//! * [`tenancy`]: what a node knows of its lease.
//! * [`clock`]: where the time comes from.
//! * [`clock_watch`]: whether a jump of the wall clock is to be believed.
//! * [`ring`]: a queue from one process to another.
//! * [`published`]: words that are read as one.
//! * [`audit`]: what is wrong with ids that exist.
//! * [`text`]: base62 and base32 forms of an id.
//!
//! The words are those of `docs/ARCHITECTURE.md`: a *tick* is the id's time
//! field, the *sequence* counts inside one tick, a *slot* is both as one number,
//! and the *node number* is datacenter and worker id as one number.
#![forbid(unsafe_code)]

pub mod allocator;
pub mod audit;
pub mod clock;
pub mod clock_watch;
pub mod error;
pub mod keeper;
pub mod layout;
pub mod orders;
pub mod published;
pub mod reserved;
pub mod ring;
pub mod sync;
pub mod tenancy;
pub mod text;
pub mod window;

pub use allocator::{Allocator, Claim, ClaimedTick, Position, Seen, Slots};
pub use clock::{Clock, ManualClock};
pub use clock_watch::ClockWatch;
pub use error::{FieldError, LayoutError, TextError, TimeError};
pub use layout::{Field, Fields, Layout, Preset};
pub use reserved::Reserved;
