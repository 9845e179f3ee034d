//! Text forms of ids.

use crate::encoding::Text;
use crate::error::{Error, OrRaise, TextForm};
use pgrx::prelude::*;
use snowflake_core::{TextError, text};

#[pg_extern(sql = false)]
fn snowflake_base62(id: i64) -> String {
    text::to_base62(id).ok_or(Error::NotAnId { id }).or_raise()
}

#[pg_extern(sql = false)]
fn snowflake_from_base62(text: &[u8]) -> i64 {
    read(TextForm::Base62, text, text::read_base62, text::from_base62)
}

#[pg_extern(sql = false)]
fn snowflake_base32(id: i64) -> String {
    text::to_base32(id).ok_or(Error::NotAnId { id }).or_raise()
}

#[pg_extern(sql = false)]
fn snowflake_from_base32(text: &[u8]) -> i64 {
    read(TextForm::Base32, text, text::read_base32, text::from_base32)
}

/// Both forms are ASCII, which is the same in every encoding: bytes are read where they are. Only what
/// is wrong with a text takes to know its characters.
fn read<'a>(
    form: TextForm,
    bytes: &'a [u8],
    fast: impl Fn(Latin1<'a>) -> Result<i64, TextError>,
    slow: impl Fn(&str) -> Result<i64, TextError>,
) -> i64 {
    let letter: fn(&u8) -> char = |&byte| char::from(byte);
    fast(bytes.iter().map(letter)).unwrap_or_else(|_| {
        let Text(text) = Text::from(bytes);
        slow(&text).map_err(|why| Error::BadText { form, text, why }).or_raise()
    })
}

/// Bytes as the characters of the same numbers.
type Latin1<'a> = std::iter::Map<std::slice::Iter<'a, u8>, fn(&'a u8) -> char>;
