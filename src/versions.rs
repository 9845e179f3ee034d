//! What differs between PostgreSQL's majors, and between the two versions of pgrx that the source is
//! built with (Cargo.toml says which is for what). Nothing else in this crate asks for a version.
#![allow(unsafe_code)]

use crate::wait::WaitEvent;
#[cfg(feature = "pg15")]
use pgrx::PgTryBuilder;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::ffi::{CStr, c_int, c_void};

/// What the keeper's session pins beyond the settings that every major has.
pub(crate) const SESSION: &[(&CStr, &CStr)] = &[
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    (c"transaction_timeout", c"0"),
];

/// Installs a handler, a function without arguments, for a signal in a process of PostgreSQL's.
/// Unsafe: the handler must do nothing that is not allowed in one.
macro_rules! pqsignal {
    ($signal:expr, $handler:path) => {{
        #[cfg(not(feature = "pg19"))]
        unsafe extern "C-unwind" fn handler(_signal: std::ffi::c_int) {
            $handler();
        }
        #[cfg(feature = "pg19")]
        unsafe extern "C-unwind" fn handler(
            _signal: std::ffi::c_int,
            _info: *const pgrx::pg_sys::pg_signal_info,
        ) {
            $handler();
        }
        #[cfg(not(any(feature = "pg18", feature = "pg19")))]
        pgrx::pg_sys::pqsignal($signal, Some(handler));
        #[cfg(any(feature = "pg18", feature = "pg19"))]
        pgrx::pg_sys::pqsignal_be($signal, Some(handler));
    }};
}
pub(crate) use pqsignal;

/// This process among the server's backends, from 0 on; a number below 0 in a process that is none.
pub(crate) fn my_number() -> c_int {
    // SAFETY: reads a number that is set before the process runs any query and not changed afterwards.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    unsafe {
        pg_sys::MyBackendId - 1
    }
    // SAFETY: as above.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    unsafe {
        pg_sys::MyProcNumber
    }
}

/// What `pg_stat_activity` shows of a wait: its name where the server knows such names, else that it is an
/// extension's.
pub(crate) fn wait_event(event: WaitEvent) -> u32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    {
        let _ = event;
        pg_sys::PG_WAIT_EXTENSION
    }
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    {
        use std::sync::atomic::{AtomicU32, Ordering};
        // The server has the names; a process asks once for each that it needs.
        static KNOWN: [AtomicU32; 6] = [const { AtomicU32::new(0) }; 6];
        let (known, name) = match event {
            WaitEvent::Tick => (&KNOWN[0], c"SnowflakeIdTick"),
            WaitEvent::Clock => (&KNOWN[1], c"SnowflakeIdClock"),
            WaitEvent::Keeper => (&KNOWN[2], c"SnowflakeIdWorker"),
            WaitEvent::Reset => (&KNOWN[3], c"SnowflakeIdReset"),
            WaitEvent::Main => (&KNOWN[4], c"SnowflakeIdMain"),
            WaitEvent::Convert => (&KNOWN[5], c"SnowflakeIdConvert"),
        };
        match known.load(Ordering::Relaxed) {
            0 => {
                // SAFETY: a string constant; called where the process may wait, and so take a lock.
                let new = unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) };
                known.store(new, Ordering::Relaxed);
                new
            }
            known => known,
        }
    }
}

/// Defines a setting that is told when it changes. The hook must be one that PostgreSQL may call, and
/// `pg_guard` must turn its panics into errors.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn define_float_guc(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<f64>,
    (least, most): (f64, f64),
    context: GucContext,
    assign: unsafe extern "C-unwind" fn(f64, *mut c_void),
) {
    let flags = GucFlags::default();
    // SAFETY: as the caller promises. pgrx 0.18 does not ask for it.
    #[allow(unused_unsafe)]
    unsafe {
        GucRegistry::define_float_guc_with_hooks(
            name,
            short,
            long,
            setting,
            least,
            most,
            context,
            flags,
            None,
            Some(assign),
            None,
        );
    }
}

/// A character in the database's encoding, which is not UTF-8 or may be, with a zero byte behind it.
/// Whether the encoding has it.
pub(crate) fn unicode_to_server(
    c: char,
    bytes: &mut [u8; pg_sys::MAX_UNICODE_EQUIVALENT_STRING as usize + 1],
) -> bool {
    let target = bytes.as_mut_ptr();
    // What is raised is caught at once, and has opened nothing by then.
    #[cfg(feature = "pg15")]
    let known = PgTryBuilder::new(|| {
        // SAFETY: memory for the longest character and a zero byte.
        unsafe { pg_sys::pg_unicode_to_server(u32::from(c), target) };
        true
    })
    .catch_others(|_| false)
    .execute();
    // SAFETY: as above.
    #[cfg(not(feature = "pg15"))]
    let known = unsafe { pg_sys::pg_unicode_to_server_noerror(u32::from(c), target) };
    known
}

/// Whether a role may SET ROLE to another.
pub(crate) fn may_set_role(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    // SAFETY: numbers; both look into a cache.
    #[cfg(feature = "pg15")]
    unsafe {
        pg_sys::is_member_of_role(role, other)
    }
    // SAFETY: as above.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        pg_sys::member_can_set_role(role, other)
    }
}

/// Whether this session says that its changes come from another server.
pub(crate) fn has_origin() -> bool {
    // SAFETY: reads a variable of this process.
    #[cfg(not(feature = "pg19"))]
    let origin = unsafe { pg_sys::replorigin_session_origin };
    // SAFETY: as above.
    #[cfg(feature = "pg19")]
    let origin = unsafe { pg_sys::replorigin_xact_state.origin };
    // What PostgreSQL calls InvalidRepOriginId, and from 19 on InvalidReplOriginId.
    origin != 0
}

/// Plans a query that takes no parameters.
///
/// # Safety
///
/// A whole query, rewritten.
pub(crate) unsafe fn plan_query(
    query: *mut pg_sys::Query,
    text: &CStr,
) -> *mut pg_sys::PlannedStmt {
    let parameters = std::ptr::null_mut();
    // SAFETY: as the caller promises.
    #[cfg(not(feature = "pg19"))]
    unsafe {
        pg_sys::pg_plan_query(query, text.as_ptr(), 0, parameters)
    }
    // SAFETY: as above.
    #[cfg(feature = "pg19")]
    unsafe {
        pg_sys::pg_plan_query(query, text.as_ptr(), 0, parameters, std::ptr::null_mut())
    }
}

/// Plans a query by what plans queries here, if it is of what it should be of.
macro_rules! checked {
    ($query:ident $(, $argument:ident)*) => {
        // SAFETY: PostgreSQL has called it for a query that it has made. An error of what another
        // library has put there meets no destructor on its way.
        unsafe {
            match crate::rights::check_query($query) {
                Some(plan) => pg_sys::ffi::pg_guard_ffi_boundary(|| plan($query $(, $argument)*)),
                None => pg_sys::standard_planner($query $(, $argument)*),
            }
        }
    };
}

/// Plans a query of which it has been said what it must be of.
#[cfg(not(feature = "pg19"))]
#[pgrx::pg_guard]
pub(crate) unsafe extern "C-unwind" fn plan_checked(
    query: *mut pg_sys::Query,
    text: *const std::ffi::c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    checked!(query, text, options, parameters)
}

/// The same.
#[cfg(feature = "pg19")]
#[pgrx::pg_guard]
pub(crate) unsafe extern "C-unwind" fn plan_checked(
    query: *mut pg_sys::Query,
    text: *const std::ffi::c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
    explain: *mut pg_sys::ExplainState,
) -> *mut pg_sys::PlannedStmt {
    checked!(query, text, options, parameters, explain)
}

/// Runs a query to its end, once.
///
/// # Safety
///
/// `ExecutorStart` has begun it.
pub(crate) unsafe fn executor_run(query: *mut pg_sys::QueryDesc) {
    let forward = pg_sys::ScanDirection::ForwardScanDirection;
    // SAFETY: as the caller promises.
    #[cfg(not(any(feature = "pg18", feature = "pg19")))]
    unsafe {
        pg_sys::ExecutorRun(query, forward, 0, true);
    }
    // SAFETY: as above.
    #[cfg(any(feature = "pg18", feature = "pg19"))]
    unsafe {
        pg_sys::ExecutorRun(query, forward, 0);
    }
}

/// Hands over what the query's relations must be checked for, where that does not stand in its range table.
///
/// # Safety
///
/// Both point to what they are.
pub(crate) unsafe fn take_permissions(query: *mut pg_sys::Query, state: *mut pg_sys::ParseState) {
    #[cfg(feature = "pg15")]
    let _ = (query, state);
    // SAFETY: as the caller promises.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        (*query).rteperminfos = (*state).p_rteperminfos;
    }
}

// PostgreSQL's nodes/nodeFuncs.h, which pgrx does not have for all versions.
unsafe extern "C-unwind" {
    #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
    pub(crate) fn query_tree_walker(
        query: *mut pg_sys::Query,
        walker: unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool,
        context: *mut c_void,
        flags: c_int,
    ) -> bool;
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
    pub(crate) fn expression_tree_walker(
        node: *mut pg_sys::Node,
        walker: unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool,
        context: *mut c_void,
    ) -> bool;
}
