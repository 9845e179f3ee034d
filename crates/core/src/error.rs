//! What can be wrong with a layout, a field, a time or a text.
//!
//! These types carry the facts; the PostgreSQL extension makes sentences for people from
//! them, in its `src/error.rs` and nowhere else.

use crate::layout::Field;

/// Why a layout is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The text has an item that is not `field:bits`.
    BadItem(String),
    /// A field that does not exist.
    UnknownField(String),
    /// A width that is not a number from 1 to `max`.
    BadWidth {
        /// The field's name as it was written.
        field: String,
        /// The width as it was written.
        bits: String,
        /// The greatest width of this field.
        max: u32,
    },
    /// A field stands twice.
    DuplicateField(Field),
    /// There is no timestamp field.
    NoTimestamp,
    /// The widths add up to more than 63 bits.
    TooWide(u32),
    /// A tick length that is not a number with the unit us, ms or s, or is out
    /// of range.
    BadTick(String),
    /// A tick length behind a field other than the timestamp.
    TickOnOtherField(String),
    /// The layout cannot generate: its timestamp is not the most significant field.
    TimestampNotFirst,
}

/// A field's value does not fit, or an id is not one of this layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// The value is greater than the field's greatest.
    TooLarge {
        /// The field.
        field: Field,
        /// The value that was given.
        value: u64,
        /// The field's greatest value.
        max: u64,
    },
    /// No value was given for a field that the layout has.
    Missing(Field),
    /// A value was given for a field that the layout does not have.
    NoSuchField(Field),
    /// The id is negative, or has a bit set that the layout leaves zero.
    NotOfLayout(i64),
}

/// A time that the layout cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeError {
    /// Before tick 0.
    BeforeEpoch,
    /// After the last tick.
    AfterEnd,
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// Not the number of characters that the form has.
    BadLength(usize),
    /// A character outside of the alphabet.
    BadCharacter(char),
    /// A number above the greatest `bigint`.
    TooLarge,
}
