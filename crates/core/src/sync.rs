//! The atomics that this crate uses, from one place: `std`'s, or those of the
//! model checker [loom](https://docs.rs/loom) when compiled with `--cfg loom`.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::thread::yield_now;

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::thread::yield_now;

/// A value on a cache line of its own, so that writers of one value do not slow
/// down readers of its neighbour. 128 bytes: x86-64 prefetches lines in pairs,
/// and some arm64 cores have lines of that length.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct CacheLine<T>(pub T);
