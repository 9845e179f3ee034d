//! *Write, then publish*: a limit that has been recorded, and the one way to come by it.
//!
//! The allocator lets ids be issued up to a [`Reserved`] limit and no other. That value is made
//! in one place, after the record has been written that names the worker id and a mark that is not
//! below the limit. So a window that no record covers, or one that is recorded for another
//! worker id, cannot be opened by any mistake in the keeper: there is nothing to open it with.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What a node keeps its high-water mark in.
pub trait Journal {
    /// Why it could not be written.
    type Error;

    /// Records that ids of `node` (see [`crate::Layout::node`]) may be issued below the slot
    /// `mark`. When it returns well, that outlasts any crash.
    fn write(&mut self, node: u64, mark: u64) -> impl Future<Output = Result<(), Self::Error>>;
}

/// The right to issue ids of one node below a limit, which has been recorded. It is used up
/// by the allocator that it is given to.
#[derive(Debug, PartialEq, Eq)]
pub struct Reserved {
    node: u64,
    limit: u64,
}

impl Reserved {
    /// Writes the record, and only then there is something to publish. The record's mark is
    /// `above` where that is greater than the limit: ids of another worker id that is still in use
    /// are issued up to there, and there is one record for both.
    pub async fn write<J: Journal>(
        journal: &mut J,
        node: u64,
        limit: u64,
        above: u64,
    ) -> Result<Self, J::Error> {
        journal.write(node, limit.max(above)).await?;
        Ok(Self { node, limit })
    }

    /// Whose ids.
    pub const fn node(&self) -> u64 {
        self.node
    }

    /// The first slot that may not be issued.
    pub const fn limit(&self) -> u64 {
        self.limit
    }
}

/// The result of a future that never waits; `None` for one that does.
pub fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
