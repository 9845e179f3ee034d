//! Who may call what, beyond what PostgreSQL checks.

use crate::encoding::Text;
use crate::error::Error;
use crate::versions;
use pgrx::PgList;
use pgrx::prelude::*;
use pgrx::spi;
use std::cell::Cell;
use std::ffi::c_int;

/// An error where the caller may call a function only as the owner of this database.
///
/// `GRANT ... ON ALL FUNCTIONS IN SCHEMA` is an error for whoever has no right at all on one of
/// them. So the owner of a database has EXECUTE on each function of the extension, though some are
/// for those who run the node: these ask for a right by another name.
pub(crate) fn refuse_database_owner(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: PostgreSQL calls each function with its own description; the other one asks for the
    // current user.
    #[allow(unsafe_code)]
    let (function, superuser) = unsafe { ((*(*fcinfo).flinfo).fn_oid, pg_sys::superuser()) };
    if superuser {
        return;
    }
    let found = Spi::connect(|client| {
        let query = "SELECT pg_catalog.bool_or(a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid
                        OR pg_catalog.pg_has_role(a.grantee, 'USAGE'::pg_catalog.text)),
                    pg_catalog.min(p.proname::pg_catalog.text)
             FROM pg_catalog.pg_proc AS p
             CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) AS a
             WHERE p.oid OPERATOR(pg_catalog.=) $1
               AND a.grantee OPERATOR(pg_catalog.<>)
                   'pg_database_owner'::pg_catalog.regrole::pg_catalog.oid";
        let row = client.select(query, Some(1), &[function.into()])?.first();
        Ok::<_, spi::Error>((row.get::<bool>(1)?, row.get::<Text>(2)?))
    });
    match found {
        Ok((Some(true), _)) => (),
        Ok((_, name)) => {
            Error::MayNotCall { function: name.map_or_else(String::new, |name| name.0) }.raise()
        }
        Err(error) => error!("{error}"),
    }
}

/// Does something as a role, which can do nothing in it that would outlast it; as PostgreSQL's own
/// maintenance commands do it. An owner may pass by the policies that he has made for himself.
///
/// # Safety
///
/// It is a role.
#[allow(unsafe_code)]
pub(crate) unsafe fn as_role<T>(
    role: pg_sys::Oid,
    no_policies: bool,
    work: impl FnOnce() -> T,
) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    let mut restricted = pg_sys::SECURITY_RESTRICTED_OPERATION;
    if no_policies {
        restricted |= pg_sys::SECURITY_NOFORCE_RLS;
    }
    // SAFETY: two places to write to, and a level of settings that ends below. Where `work` ends
    // with an error, PostgreSQL puts all of it back with the (sub)transaction.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        pg_sys::SetUserIdAndSecContext(role, context | restricted as c_int);
        let level = pg_sys::NewGUCNestLevel();
        let result = work();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

thread_local! {
    /// What the next query must be of, and what plans it.
    static EXPECTED: Cell<Option<(pg_sys::Oid, pg_sys::planner_hook_type)>> =
        const { Cell::new(None) };
}

/// Does something whose first query names a relation; an error where another relation has the name. The
/// owner of a schema can have put it there after the name was found, with whatever he has made in it, and as
/// it can be so until the query is planned, it is looked for there: the names in it have become numbers by
/// then, and nothing has been run yet.
#[allow(unsafe_code)]
pub(crate) fn of_relation<T>(relation: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    struct Hooked;
    impl Drop for Hooked {
        fn drop(&mut self) {
            unhook();
        }
    }
    // SAFETY: a variable of this process, which is put back before another query can be planned.
    unsafe {
        EXPECTED.set(Some((relation, pg_sys::planner_hook)));
        pg_sys::planner_hook = Some(versions::plan_checked);
    }
    let _hooked = Hooked;
    work()
}

#[allow(unsafe_code)]
fn unhook() -> Option<(pg_sys::Oid, pg_sys::planner_hook_type)> {
    let expected = EXPECTED.take();
    if let Some((_, planner)) = expected {
        // SAFETY: as above; this is what it was.
        unsafe { pg_sys::planner_hook = planner };
    }
    expected
}

/// An error where a query, which is about to be planned, is not of the relation that it should be of; else what
/// plans it, where that is not PostgreSQL itself.
///
/// # Safety
///
/// A whole query.
#[allow(unsafe_code)]
pub(crate) unsafe fn check_query(query: *mut pg_sys::Query) -> pg_sys::planner_hook_type {
    let (relation, planner) = unhook()?;
    // SAFETY: as the caller promises. What an UPDATE is of, or a SELECT from one relation, is the first.
    let first = unsafe { PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).get_ptr(0) };
    let is_it = first.is_some_and(|entry| {
        // SAFETY: as above.
        let (kind, found) = unsafe { ((*entry).rtekind, (*entry).relid) };
        kind == pg_sys::RTEKind::RTE_RELATION && found == relation
    });
    if !is_it {
        Error::Moved { oid: relation }.raise();
    }
    planner
}
