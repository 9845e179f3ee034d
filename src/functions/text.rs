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
fn snowflake_from_base62(text: Text) -> i64 {
    read(TextForm::Base62, &text, text::from_base62)
}

#[pg_extern(sql = false)]
fn snowflake_base32(id: i64) -> String {
    text::to_base32(id).ok_or(Error::NotAnId { id }).or_raise()
}

#[pg_extern(sql = false)]
fn snowflake_from_base32(text: Text) -> i64 {
    read(TextForm::Base32, &text, text::from_base32)
}

fn read(form: TextForm, text: &str, read: impl Fn(&str) -> Result<i64, TextError>) -> i64 {
    read(text).map_err(|why| Error::BadText { form, text: text.to_owned(), why }).or_raise()
}
