//! Text between Rust, where it is UTF-8, and the database, where it has the database's encoding.
//! What one of them cannot write is replaced: by U+FFFD on the way in, by `?` on the way out.
//!
//! pgrx takes and gives text as it is. So text of SQL is a [`Text`], and what is said to people goes
//! through [`report`].
#![allow(unsafe_code)]

use crate::versions;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, UnboxDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Deref;
use std::panic::AssertUnwindSafe;

const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;
const SQL_ASCII: c_int = pg_sys::pg_enc::PG_SQL_ASCII as c_int;

/// The database's encoding; UTF-8 where there is no database yet, as in what the configuration says.
fn encoding() -> c_int {
    // SAFETY: both read what is set once, when the session begins.
    unsafe {
        if pg_sys::MyDatabaseId == pg_sys::InvalidOid {
            UTF8
        } else {
            pg_sys::GetDatabaseEncoding()
        }
    }
}

/// Text of the database's.
pub(crate) fn from_server(text: &CStr) -> String {
    decode(text.to_bytes())
}

/// Text of a configuration file, which is UTF-8, or was written by a session of the database's.
pub(crate) fn from_file(text: &CStr) -> String {
    text.to_str().map_or_else(|_| from_server(text), str::to_owned)
}

fn decode(bytes: &[u8]) -> String {
    let encoding = encoding();
    // SAFETY: no arguments; it reads a variable.
    let conversions = || unsafe { pg_sys::IsTransactionState() };
    match encoding {
        // Bytes of nobody knows which encoding may well be UTF-8.
        UTF8 | SQL_ASCII => String::from_utf8_lossy(bytes).into_owned(),
        _ if bytes.is_ascii() || !conversions() => bytes.iter().map(|&byte| ascii(byte)).collect(),
        _ => convert(bytes, encoding),
    }
}

fn ascii(byte: u8) -> char {
    if byte.is_ascii() { char::from(byte) } else { char::REPLACEMENT_CHARACTER }
}

/// Text of another encoding, whose characters are whole.
fn convert(bytes: &[u8], encoding: c_int) -> String {
    let mut text = String::new();
    let mut rest = bytes.to_vec();
    // What measures a character may look at the byte behind the last one.
    rest.push(0);
    let mut rest = &mut rest[..];
    // SAFETY: a transaction is under way, as looking for a conversion takes.
    let conversion = unsafe { pg_sys::FindDefaultConversionProc(encoding, UTF8) };
    while rest.len() > 1 {
        let left = rest.len() - 1;
        let done = if conversion == pg_sys::InvalidOid {
            0
        } else {
            // As much as PostgreSQL thinks that it can take.
            let mut converted = vec![0; (left + 1) * pg_sys::MAX_CONVERSION_GROWTH as usize + 1];
            // SAFETY: two pieces of memory, of the lengths that are said.
            let done = unsafe {
                pg_sys::pg_do_encoding_conversion_buf(
                    conversion,
                    encoding,
                    UTF8,
                    rest.as_mut_ptr(),
                    left as c_int,
                    converted.as_mut_ptr(),
                    converted.len() as c_int,
                    true,
                )
            };
            let converted = CStr::from_bytes_until_nul(&converted).unwrap_or_default();
            text.push_str(&converted.to_string_lossy());
            usize::try_from(done).unwrap_or(0)
        };
        rest = &mut rest[done.min(left)..];
        if rest.len() > 1 {
            text.push(char::REPLACEMENT_CHARACTER);
            // SAFETY: there is a character, and a zero byte behind the last one.
            let length = unsafe { pg_sys::pg_encoding_mblen(encoding, rest.as_ptr().cast()) };
            let length = usize::try_from(length).unwrap_or(1).clamp(1, rest.len() - 1);
            rest = &mut rest[length..];
        }
    }
    text
}

/// Text for the database.
pub(crate) fn to_server(text: &str) -> CString {
    let encoding = encoding();
    let bytes = if text.is_ascii() || encoding == UTF8 {
        text.as_bytes().to_vec()
    } else {
        let mut bytes = Vec::with_capacity(text.len());
        for c in text.chars() {
            match encode(c, encoding) {
                Some(encoded) => bytes.extend_from_slice(encoded.to_bytes()),
                None => bytes.push(b'?'),
            }
        }
        bytes
    };
    // Nothing that the database or a C library has said has a zero byte in it.
    CString::new(bytes).unwrap_or_default()
}

/// Text of the database's that becomes a part of a statement: where it would not be the same there, what is
/// around the character that gets lost.
pub(crate) fn exact(text: &Verbatim) -> Result<String, String> {
    let decoded = decode(&text.0);
    if to_server(&decoded).as_bytes() == text.0 {
        return Ok(decoded);
    }
    let encoding = encoding();
    let is_lost = |c: char| !c.is_ascii() && encode(c, encoding).is_none();
    let quoted = |c: char| c == '"' || c == '\'' || c == '\\' || c.is_whitespace();
    Err(decoded.split(quoted).find(|part| part.contains(is_lost)).unwrap_or_default().to_owned())
}

/// A character in the database's encoding, where that has it. It takes no transaction.
fn encode(c: char, encoding: c_int) -> Option<CString> {
    // `?` stands for what is missing, and for what was, on the way in.
    if encoding == SQL_ASCII && !c.is_ascii() || c == char::REPLACEMENT_CHARACTER {
        return None;
    }
    let mut bytes = [0_u8; pg_sys::MAX_UNICODE_EQUIVALENT_STRING as usize + 1];
    let known = versions::unicode_to_server(c, &mut bytes);
    let found = CStr::from_bytes_until_nul(&bytes).ok().filter(|found| !found.is_empty());
    found.filter(|_| known).map(CStr::to_owned)
}

/// What every client can read, where the database's encoding is not UTF-8.
fn plain(text: &str) -> String {
    if encoding() == UTF8 {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// A value of SQL's type text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&[u8]> for Text {
    fn from(text: &[u8]) -> Self {
        Self(decode(text))
    }
}

impl From<Text> for CString {
    fn from(text: Text) -> Self {
        to_server(&text.0)
    }
}

/// The same for what only passes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verbatim(pub(crate) Vec<u8>);

impl From<&[u8]> for Verbatim {
    fn from(text: &[u8]) -> Self {
        Self(text.to_vec())
    }
}

impl From<Verbatim> for CString {
    fn from(text: Verbatim) -> Self {
        // A text has no zero byte in it.
        Self::new(text.0).unwrap_or_default()
    }
}

/// What pgrx asks of a type whose values are SQL's of type text.
macro_rules! is_text {
    ($($type:ty),*) => {$(
        impl FromDatum for $type {
            unsafe fn from_polymorphic_datum(
                datum: pg_sys::Datum,
                is_null: bool,
                type_id: pg_sys::Oid,
            ) -> Option<Self> {
                // SAFETY: a text is laid out as the bytes are.
                unsafe { <&[u8]>::from_polymorphic_datum(datum, is_null, type_id) }.map(Self::from)
            }
        }

        impl IntoDatum for $type {
            fn into_datum(self) -> Option<pg_sys::Datum> {
                let text = CString::from(self);
                // SAFETY: a C string, which is copied.
                Some(pg_sys::Datum::from(unsafe { pg_sys::cstring_to_text(text.as_ptr()) }))
            }

            fn type_oid() -> pg_sys::Oid {
                pg_sys::TEXTOID
            }
        }

        // SAFETY: the function that has such an argument is declared with type text there.
        unsafe impl<'fcx> ArgAbi<'fcx> for $type {
            unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
                // SAFETY: as above.
                let text: Option<Self> = unsafe { arg.unbox_arg_using_from_datum() };
                text.unwrap_or_else(|| unreachable!("the function is STRICT"))
            }

            unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
                // SAFETY: as above.
                unsafe { arg.unbox_arg_using_from_datum().into() }
            }
        }

        // SAFETY: as above, of what it returns.
        unsafe impl BoxRet for $type {
            unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
                match self.into_datum() {
                    // SAFETY: a datum that has just been made.
                    Some(text) => unsafe { fcinfo.return_raw_datum(text) },
                    None => fcinfo.return_null(),
                }
            }
        }

        // SAFETY: as above, of a column.
        unsafe impl UnboxDatum for $type {
            type As<'src> = Self;

            unsafe fn unbox<'src>(datum: Datum<'src>) -> Self
            where
                Self: 'src,
            {
                // SAFETY: a text is laid out as the bytes are.
                Self::from(unsafe { <&[u8]>::unbox(datum) })
            }
        }

        // SAFETY: says what the type is in SQL. No SQL is made from it.
        unsafe impl SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!($type);
            const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
            const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
                Ok(SqlMappingRef::literal("text"));
            const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
                Ok(ReturnsRef::One(SqlMappingRef::literal("text")));
        }
    )*};
}

is_text!(Text, Verbatim);

/// Says something to the user or to the log, or ends the statement with it.
#[track_caller]
pub(crate) fn report(
    level: PgLogLevel,
    code: PgSqlErrorCode,
    message: &str,
    detail: &str,
    hint: &str,
) {
    let mut report = ErrorReport::new(code, plain(message), function_name!());
    if !detail.is_empty() {
        report = report.set_detail(plain(detail));
    }
    if !hint.is_empty() {
        report = report.set_hint(plain(hint));
    }
    let ascii = [message, detail, hint].iter().all(|text| text.is_ascii());
    if !ascii && encoding() != UTF8 {
        exact::set(&plain(message), [message, detail, hint].map(to_server));
    }
    report.report(level);
    exact::forget();
}

/// Says something that has no details.
pub(crate) fn say(level: PgLogLevel, message: &str) {
    report(level, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, "", "");
}

/// The words of a report that are not ASCII, in the database's encoding.
///
/// pgrx carries an error as a string, which is UTF-8, to where PostgreSQL takes it over. There,
/// last of all, PostgreSQL calls who has something to add: so that is when the words are exchanged.
mod exact {
    use super::{CStr, CString, c_char, c_int, c_void, pg_sys};
    use std::cell::{Cell, UnsafeCell};

    // PostgreSQL's utils/elog.h, of which pgrx has its own.
    unsafe extern "C-unwind" {
        fn errmsg_internal(format: *const c_char, ...) -> c_int;
        fn errdetail_internal(format: *const c_char, ...) -> c_int;
        fn errhint(format: *const c_char, ...) -> c_int;
    }

    struct Words {
        /// By which the report is known again.
        plain: CString,
        exact: [CString; 3],
    }

    struct Link(UnsafeCell<pg_sys::ErrorContextCallback>);

    // SAFETY: PostgreSQL's functions are called in the one thread of a process that is its own.
    unsafe impl Sync for Link {}

    static LINK: Link = Link(UnsafeCell::new(pg_sys::ErrorContextCallback {
        previous: std::ptr::null_mut(),
        callback: Some(exchange),
        arg: std::ptr::null_mut(),
    }));

    thread_local! {
        static WORDS: Cell<Option<Words>> = const { Cell::new(None) };
    }

    /// Has the words of the next report exchanged.
    pub(super) fn set(plain: &str, exact: [CString; 3]) {
        let plain = CString::new(plain).unwrap_or_default();
        WORDS.set(Some(Words { plain, exact }));
        put_in();
    }

    /// Has PostgreSQL call for the words.
    pub(super) fn put_in() {
        let link = LINK.0.get();
        // SAFETY: a chain of structures, each of which lives longer than those before it: those of
        // functions that have not returned, which PostgreSQL takes out when they do. Ours lives for
        // ever, and is put in once.
        unsafe {
            let mut next = pg_sys::error_context_stack;
            while !next.is_null() && next != link {
                next = (*next).previous;
            }
            if next.is_null() {
                (*link).previous = pg_sys::error_context_stack;
                pg_sys::error_context_stack = link;
            }
        }
    }

    /// What has not been said is not said later.
    pub(super) fn forget() {
        WORDS.set(None);
        // SAFETY: as above.
        unsafe {
            if pg_sys::error_context_stack == LINK.0.get() {
                pg_sys::error_context_stack = (*LINK.0.get()).previous;
            }
        }
    }

    /// Called by PostgreSQL for the report that it is about to make.
    unsafe extern "C-unwind" fn exchange(_: *mut c_void) {
        let words = WORDS.take();
        forget();
        let Some(words) = words else { return };
        // SAFETY: a report is being made, of which PostgreSQL gives a copy, in memory that is there
        // for that. The words are copied.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let report = pg_sys::CopyErrorData();
            let message = (*report).message;
            let same = !message.is_null() && CStr::from_ptr(message) == words.plain.as_c_str();
            pg_sys::FreeErrorData(report);
            pg_sys::MemoryContextSwitchTo(before);
            if !same {
                return;
            }
            let [message, detail, hint] = &words.exact;
            errmsg_internal(c"%s".as_ptr(), message.as_ptr());
            if !detail.is_empty() {
                errdetail_internal(c"%s".as_ptr(), detail.as_ptr());
            }
            if !hint.is_empty() {
                errhint(c"%s".as_ptr(), hint.as_ptr());
            }
        }
    }
}

/// Does something whose errors are PostgreSQL's, or those of a function in some language: in the
/// database's encoding, of which pgrx would make what is no text of it.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> T {
    if encoding() == UTF8 {
        return work();
    }
    let heard = RefCell::new(None);
    let mut link = pg_sys::ErrorContextCallback {
        // SAFETY: reads a variable of this process.
        previous: unsafe { pg_sys::error_context_stack },
        callback: Some(hear),
        arg: (&raw const heard).cast_mut().cast(),
    };
    let before = link.previous;
    // SAFETY: the structure lives until it is taken out below.
    unsafe { pg_sys::error_context_stack = &raw mut link };
    let done = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
        .catch_others(|error| Err(Box::new(error)))
        .catch_rust_panic(|error| Err(Box::new(error)))
        .execute();
    // SAFETY: as it was.
    unsafe { pg_sys::error_context_stack = before };
    match done.map_err(|error| *error) {
        Ok(done) => done,
        Err(CaughtError::PostgresError(error)) => {
            let part = |part: Option<&str>| plain(part.unwrap_or_default());
            let (message, detail, hint) =
                (plain(error.message()), part(error.detail()), part(error.hint()));
            let heard = heard.take().filter(|[message, ..]: &[CString; 3]| {
                message.to_string_lossy() == error.message()
            });
            let words =
                heard.unwrap_or_else(|| [&message, &detail, &hint].map(|text| to_server(text)));
            exact::set(&message, words);
            let mut report = ErrorReport::new(error.sql_error_code(), message, function_name!());
            if !detail.is_empty() {
                report = report.set_detail(detail);
            }
            if !hint.is_empty() {
                report = report.set_hint(hint);
            }
            report.report(PgLogLevel::ERROR);
            unreachable!("an ERROR does not return")
        }
        // What is ours still has its words to be exchanged.
        Err(error) => {
            exact::put_in();
            error.rethrow()
        }
    }
}

/// Called by PostgreSQL for each report that it is about to make; keeps the words of an error.
unsafe extern "C-unwind" fn hear(heard: *mut c_void) {
    // SAFETY: what `guarded` has put there, which waits. A report is being made, of which
    // PostgreSQL gives a copy, in memory that is there for that.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let report = pg_sys::CopyErrorData();
        if (*report).elevel >= PgLogLevel::ERROR as c_int {
            let words = [(*report).message, (*report).detail, (*report).hint].map(|words| {
                if words.is_null() { CString::default() } else { CStr::from_ptr(words).to_owned() }
            });
            (*heard.cast::<RefCell<Option<[CString; 3]>>>()).replace(Some(words));
        }
        pg_sys::FreeErrorData(report);
        pg_sys::MemoryContextSwitchTo(before);
    }
}
