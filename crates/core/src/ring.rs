//! A queue of fixed length in shared memory, from one writer to one reader. Neither ever waits for
//! the other: what does not fit is refused.

use crate::sync::{AtomicU64, Ordering};

/// Up to `LEN` entries of `WORDS` words. Zeroed memory is an empty one.
#[derive(Debug)]
#[repr(C)]
pub struct Ring<const WORDS: usize, const LEN: usize> {
    /// How many entries have been written,
    written: AtomicU64,
    /// and how many of them read. The writer publishes an entry by the one, and the reader gives
    /// its place back by the other: whoever sees the number sees what it stands for.
    read: AtomicU64,
    entries: [[AtomicU64; WORDS]; LEN],
}

impl<const WORDS: usize, const LEN: usize> Default for Ring<WORDS, LEN> {
    fn default() -> Self {
        let entry = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            entries: std::array::from_fn(entry),
        }
    }
}

impl<const WORDS: usize, const LEN: usize> Ring<WORDS, LEN> {
    /// Adds an entry, for the one writer; whether there was room for it.
    pub fn push(&self, entry: [u64; WORDS]) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        let waiting = written.wrapping_sub(self.read.load(Ordering::Acquire)) as usize;
        let place = self.entries.get(written as usize % LEN).filter(|_| waiting < LEN);
        let Some(place) = place else { return false };
        for (place, word) in place.iter().zip(entry) {
            place.store(word, Ordering::Relaxed);
        }
        self.written.store(written.wrapping_add(1), Ordering::Release);
        true
    }

    /// Takes the oldest entry, for the one reader.
    pub fn pop(&self) -> Option<[u64; WORDS]> {
        let read = self.read.load(Ordering::Relaxed);
        if read == self.written.load(Ordering::Acquire) {
            return None;
        }
        let place = self.entries.get(read as usize % LEN)?;
        let entry = std::array::from_fn(|i| place[i].load(Ordering::Relaxed));
        self.read.store(read.wrapping_add(1), Ordering::Release);
        Some(entry)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Ring;

    #[test]
    fn entries_come_out_as_they_went_in_and_a_full_ring_refuses() {
        let ring = Ring::<2, 4>::default();
        assert_eq!(ring.pop(), None);
        for round in 0..3 {
            for i in 0..4 {
                assert!(ring.push([round, i]));
            }
            assert!(!ring.push([9, 9]));
            for i in 0..4 {
                assert_eq!(ring.pop(), Some([round, i]));
            }
            assert_eq!(ring.pop(), None);
        }
    }
}
