//! Words in shared memory that belong together.

use crate::sync::{AtomicU64, Ordering, fence, yield_now};

/// Words that one process publishes as one and any may read: a sequence lock. The version is
/// odd while they are being written. Zeroed memory is zeros that were published.
#[derive(Debug)]
#[repr(C)]
pub struct Published<const N: usize> {
    version: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Default for Published<N> {
    fn default() -> Self {
        Self { version: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// A writer that was stopped inside is not waited for any longer.
const TRIES: usize = 1000;

impl<const N: usize> Published<N> {
    /// Publishes the words; for the one writer.
    pub fn write(&self, words: [u64; N]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// The words. Of a writer that was stopped inside, half of these and half of those before:
    /// for what that is no danger to, such as a text to be shown.
    pub fn read(&self) -> [u64; N] {
        self.read_with(|| ()).map_or_else(|| self.load(), |(words, ())| words)
    }

    /// The words, and what `more` reads while they are published: of what the writer wrote
    /// before it published them it sees all, and of what it wrote after the next ones, nothing.
    /// `None` where the writer was stopped inside.
    pub fn read_with<T>(&self, more: impl Fn() -> T) -> Option<([u64; N], T)> {
        for _ in 0..TRIES {
            let before = self.version.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let read = (self.load(), more());
                fence(Ordering::Acquire);
                if before == self.version.load(Ordering::Relaxed) {
                    return Some(read);
                }
            }
            yield_now();
        }
        None
    }

    fn load(&self) -> [u64; N] {
        std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed))
    }
}
