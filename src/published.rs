//! Words in shared memory that belong together.

use snowflake_core::sync::{AtomicU64, Ordering};
use std::sync::atomic::fence;

/// Words that one process publishes as one and any may read: a sequence lock. The version is
/// odd while they are being written.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Published<const N: usize> {
    version: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Published<N> {
    pub(crate) fn write(&self, words: [u64; N]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    pub(crate) fn read(&self) -> [u64; N] {
        let mut words = [0; N];
        // A writer that was stopped inside is not waited for: what was read then may be half
        // of one text and half of another, which is no danger to anything.
        for _ in 0..1000 {
            let before = self.version.load(Ordering::Acquire);
            words = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == self.version.load(Ordering::Relaxed) {
                break;
            }
            std::thread::yield_now();
        }
        words
    }
}
