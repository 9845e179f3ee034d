//! Text between Rust, where it is UTF-8, and the database, where it has the database's encoding.

use std::ffi::CStr;

/// Text of the database's.
pub(crate) fn from_server(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}
