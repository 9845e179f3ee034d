//! What can be wrong with a layout, a field, a time or a text.
//!
//! These types carry the facts; sentences for people are made from them by the
//! PostgreSQL extension. Their `Display` is a terse English form for logs.

use crate::layout::Field;
use std::fmt;

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

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadItem(item) => write!(f, "\"{item}\" is not of the form field:bits"),
            Self::UnknownField(name) => write!(f, "there is no field \"{name}\""),
            Self::BadWidth { field, bits, max } => {
                write!(f, "the width of \"{field}\" is \"{bits}\", not a number from 1 to {max}")
            }
            Self::DuplicateField(field) => write!(f, "the field \"{field}\" stands twice"),
            Self::NoTimestamp => write!(f, "there is no timestamp field"),
            Self::TooWide(bits) => write!(f, "the fields take {bits} bits, more than 63"),
            Self::BadTick(tick) => write!(f, "\"{tick}\" is not a tick length from 1us to 1h"),
            Self::TickOnOtherField(field) => {
                write!(f, "\"{field}\" has a tick length, which only the timestamp can have")
            }
            Self::TimestampNotFirst => write!(f, "the timestamp is not the most significant field"),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { field, value, max } => {
                write!(f, "{field} {value} is greater than {max}")
            }
            Self::Missing(field) => write!(f, "the layout needs a value for {field}"),
            Self::NoSuchField(field) => write!(f, "the layout has no {field} field"),
            Self::NotOfLayout(id) => write!(f, "{id} is not an id of the layout"),
        }
    }
}

impl fmt::Display for TimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeEpoch => write!(f, "the time is before the layout's epoch"),
            Self::AfterEnd => write!(f, "the time is after the layout's end"),
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadLength(length) => write!(f, "{length} characters is not the form's length"),
            Self::BadCharacter(c) => write!(f, "{c:?} is not in the alphabet"),
            Self::TooLarge => write!(f, "the number is greater than the greatest bigint"),
        }
    }
}

impl std::error::Error for LayoutError {}
impl std::error::Error for FieldError {}
impl std::error::Error for TimeError {}
impl std::error::Error for TextError {}
