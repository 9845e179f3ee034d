//! What administrators want of the keeper: one order at a time, each with a number of its own, so that
//! whoever gave it learns what became of *it*.
//!
//! The place for an order is free, or holds one that waits, one that is being carried out, or one
//! that has been. Who gives one waits for the place; who has given up waiting takes back what has not been
//! begun. An answer is kept for longer than the next few orders take.

use crate::keeper::{Order, Outcome};
use crate::sync::{AtomicU64, Ordering};

/// How many answers are kept.
const KEPT: usize = 16;

/// The place for an order. Zeroed memory is a free one.
#[derive(Debug)]
#[repr(C)]
pub struct Orders {
    /// The number of the order, its stage and what it is.
    present: AtomicU64,
    /// What an order says beside that; written before it can be taken.
    value: AtomicU64,
    /// What became of the last ones, with their numbers.
    answers: [AtomicU64; KEPT],
}

/// An order that has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given(u64);

impl Given {
    /// As a plain number, by which whoever gave it can still take it back while the process ends.
    pub const fn into_word(self) -> u64 {
        self.0
    }

    /// The order of such a number.
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    const fn number(self) -> u64 {
        number(self.0)
    }
}

const STAGES: u64 = 0b11 << 4;
const WAITS: u64 = 0b01 << 4;
const IS_TAKEN: u64 = 0b10 << 4;
/// It is being written down: nobody takes it yet.
const IS_GIVEN: u64 = 0b11 << 4;
const OUTCOMES: [Outcome; 3] = [Outcome::Done, Outcome::Nothing, Outcome::Refused];

const fn number(word: u64) -> u64 {
    word >> 8
}

/// An order in two words: its kind, in four bits, and what it says beside that.
const fn words(order: Order) -> (u64, u64) {
    match order {
        Order::AcceptClock => (0, 0),
        Order::Drain => (1, 0),
        Order::Resume => (2, 0),
        Order::Exchange => (3, 0),
        Order::SetFloor(id) => (4, id.cast_unsigned()),
    }
}

/// The order of two such words.
const fn order(kind: u64, value: u64) -> Option<Order> {
    match kind {
        0 => Some(Order::AcceptClock),
        1 => Some(Order::Drain),
        2 => Some(Order::Resume),
        3 => Some(Order::Exchange),
        4 => Some(Order::SetFloor(value.cast_signed())),
        _ => None,
    }
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            present: AtomicU64::new(0),
            value: AtomicU64::new(0),
            answers: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Orders {
    /// Gives an order; `None` while another one is in the way.
    pub fn give(&self, order: Order) -> Option<Given> {
        let present = self.present.load(Ordering::Acquire);
        if present & STAGES != 0 {
            return None;
        }
        let number = number(present) + 1;
        let (kind, value) = words(order);
        let word = number << 8 | kind;
        let mine = self.present.compare_exchange(
            present,
            word | IS_GIVEN,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        // A process that ends between here and the next store ends the server.
        mine.ok()?;
        self.value.store(value, Ordering::Relaxed);
        self.present.store(word | WAITS, Ordering::Release);
        Some(Given(word | WAITS))
    }

    /// What became of an order; `None` while nothing has, or when that was long ago.
    pub fn outcome(&self, given: Given) -> Option<Outcome> {
        let answer = self.answers[given.number() as usize % KEPT].load(Ordering::Acquire);
        let outcome = OUTCOMES.get((answer & 0xf) as usize);
        outcome.copied().filter(|_| number(answer) == given.number())
    }

    /// Takes an order back, if the keeper has not begun with it: it then never will.
    pub fn take_back(&self, given: Given) -> bool {
        let free = given.number() << 8;
        let taken =
            self.present.compare_exchange(given.0, free, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok()
    }

    /// The order that waits, for the keeper, which shall answer it. One that an earlier keeper had begun
    /// with is answered by this.
    pub fn take(&self) -> Option<Order> {
        let present = self.present.load(Ordering::Acquire);
        if present & STAGES == IS_TAKEN {
            self.answer(Outcome::Refused);
            return None;
        }
        if present & STAGES != WAITS {
            return None;
        }
        let word = present & !STAGES | IS_TAKEN;
        let taken =
            self.present.compare_exchange(present, word, Ordering::AcqRel, Ordering::Acquire);
        taken.ok()?;
        // Nobody gives another one before this one is answered.
        order(present & 0xf, self.value.load(Ordering::Relaxed))
    }

    /// What became of the order that was taken.
    pub fn answer(&self, outcome: Outcome) {
        let present = self.present.load(Ordering::Acquire);
        let number = number(present);
        if present & STAGES == IS_TAKEN {
            let answer = &self.answers[number as usize % KEPT];
            answer.store(number << 8 | outcome as u64, Ordering::Release);
            self.present.store(number << 8, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_order_is_answered_by_itself() {
        let orders = Orders::default();
        assert_eq!(orders.take(), None);
        let drain = orders.give(Order::Drain).expect("a free place");
        // Two at once: the second waits for its turn, and overwrites nothing.
        assert_eq!(orders.give(Order::Resume), None);
        assert_eq!(orders.outcome(drain), None);
        assert_eq!(orders.take(), Some(Order::Drain));
        assert_eq!(orders.give(Order::Resume), None);
        assert!(!orders.take_back(drain));
        orders.answer(Outcome::Done);
        let resume = orders.give(Order::Resume).expect("a free place");
        assert_eq!((orders.outcome(drain), orders.outcome(resume)), (Some(Outcome::Done), None));
        assert_eq!(orders.take(), Some(Order::Resume));
        orders.answer(Outcome::Refused);
        assert_eq!(orders.outcome(resume), Some(Outcome::Refused));
        assert_eq!(orders.outcome(drain), Some(Outcome::Done));
    }

    #[test]
    fn what_is_taken_back_is_never_done() {
        let orders = Orders::default();
        let given = orders.give(Order::AcceptClock).expect("a free place");
        let given = Given::from_word(given.into_word());
        assert!(orders.take_back(given));
        assert!(!orders.take_back(given));
        assert_eq!(orders.take(), None);
        assert_eq!(orders.outcome(given), None);
        assert!(orders.give(Order::Exchange).is_some());
    }

    #[test]
    fn an_order_arrives_as_it_was_given() {
        let orders = Orders::default();
        for order in [Order::SetFloor(i64::MAX), Order::Exchange, Order::SetFloor(7), Order::Drain]
        {
            let given = orders.give(order).expect("a free place");
            assert_eq!(orders.take(), Some(order));
            orders.answer(Outcome::Done);
            assert_eq!(orders.outcome(given), Some(Outcome::Done));
        }
    }

    #[test]
    fn an_order_outlives_no_keeper() {
        let orders = Orders::default();
        let given = orders.give(Order::Drain).expect("a free place");
        assert_eq!(orders.take(), Some(Order::Drain));
        // Another keeper.
        assert_eq!(orders.take(), None);
        assert_eq!(orders.outcome(given), Some(Outcome::Refused));
        assert!(orders.give(Order::Drain).is_some());
    }
}
