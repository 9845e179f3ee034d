//! How an audit reads: a SELECT of a relation's column, made of PostgreSQL's own parts.
//!
//! Not as text: a name in a text is looked up again when the text is planned, and the owner of a
//! schema can have put another relation behind it by then. Here the relation is opened by its
//! number, locked, and looked at in PostgreSQL's cache, which has its present owner and columns
//! whatever the transaction's snapshot; the query is made of that, rewritten, planned and run once.
//! The lock keeps all of it as it is until the transaction ends.
//!
//! What is read goes through a sort of our own, by the one that PostgreSQL has, within `work_mem`.
#![allow(unsafe_code)]

use crate::encoding;
use crate::error::Error;
use crate::rights::as_role;
use crate::versions::{self, expression_tree_walker, query_tree_walker};
use pgrx::datum::{DatumWithOid, FromDatum, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::{PgList, PgRelation, PgTupleDesc};
use std::ffi::{CStr, c_int, c_void};

/// From PostgreSQL's catalog/pg_operator.dat, where such numbers never change.
const INT8_LESS: pg_sys::Oid = pg_sys::Oid::from_u32(412);
const INT8_GREATER_OR_EQUAL: pg_sys::Oid = pg_sys::Oid::from_u32(415);
const TIMESTAMPTZ_LESS: pg_sys::Oid = pg_sys::Oid::from_u32(1322);

/// A relation, locked until the transaction ends.
pub(super) struct Relation(PgRelation);

/// A column of it.
pub(super) struct Column {
    name: pg_sys::NameData,
    /// Of its values, under all domains.
    pub(super) type_id: pg_sys::Oid,
}

/// As whom a relation is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) role: pg_sys::Oid,
    /// Whether that is the relation's owner, in the place of who has called.
    pub(super) owner: bool,
}

/// Why there may be rows that were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// A policy of row-level security applies to the reader.
    Policies,
    /// It is a view, which may show other rows to its owner.
    View,
    /// A foreign server decides.
    Foreign,
}

/// What is to be read.
pub(super) struct Query<'a> {
    pub(super) relation: &'a Relation,
    pub(super) id: &'a Column,
    pub(super) created: Option<&'a Column>,
    /// No lesser ids.
    pub(super) first: i64,
}

/// What is done with each row.
pub(super) trait Judge {
    /// Whether the id, which has just been read, is to be judged.
    fn read(&mut self, id: i64) -> bool;
    /// The next row, in the order of ids and times.
    fn judge(&mut self, id: i64, created: Option<TimestampWithTimeZone>);
}

impl Relation {
    /// Locks it and opens it; `None` where there is none.
    pub(super) fn open(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: takes a number, of whatever. What is opened is closed by `PgRelation`, and the
        // lock stays.
        unsafe {
            let relation = pg_sys::try_relation_open(oid, pg_sys::AccessShareLock as c_int);
            (!relation.is_null()).then(|| Self(PgRelation::from_pg_owned(relation)))
        }
    }

    fn form(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: an open relation has its row of pg_class, as long as it is open.
        unsafe { &*self.0.rd_rel }
    }

    /// With its schema, as it is written in a statement.
    pub(super) fn name(&self) -> String {
        let form = self.form();
        // SAFETY: C strings, the first null where the schema has just been dropped; the result is
        // one, too.
        unsafe {
            let schema = pg_sys::get_namespace_name_or_temp(form.relnamespace);
            let name = pg_sys::quote_qualified_identifier(schema, form.relname.data.as_ptr());
            encoding::from_server(CStr::from_ptr(name))
        }
    }

    pub(super) fn owner(&self) -> pg_sys::Oid {
        self.form().relowner
    }

    fn is_a(&self, kind: u8) -> bool {
        self.form().relkind as u8 == kind
    }

    pub(super) fn column(&self, name: &CStr) -> Option<Column> {
        let columns = PgTupleDesc::from_relation(&self.0);
        let column = columns.iter().find(|column| {
            // SAFETY: a name is a C string within its 64 bytes.
            !column.attisdropped && unsafe { CStr::from_ptr(column.attname.data.as_ptr()) } == name
        })?;
        // SAFETY: takes a number, and looks into a cache.
        let type_id = unsafe { pg_sys::getBaseType(column.atttypid) };
        Some(Column { name: column.attname, type_id })
    }

    /// The caller reads what he may read. Where he may become the owner, he reads as the owner: so
    /// that the owner's functions do not run as whoever audits.
    pub(super) fn reader(&self) -> Reader {
        // SAFETY: no arguments.
        let caller = unsafe { pg_sys::GetUserId() };
        let owner = versions::may_set_role(caller, self.owner());
        Reader { role: if owner { self.owner() } else { caller }, owner }
    }
}

impl Column {
    /// Its name as it is stored, for a statement.
    pub(super) fn name(&self) -> DatumWithOid<'_> {
        let name = pg_sys::Datum::from(&raw const self.name);
        // SAFETY: a pointer to a name is what such a datum is, and it lives as long as `self`.
        unsafe { DatumWithOid::new(name, pg_sys::NAMEOID) }
    }
}

/// Name of a role, for people.
pub(super) fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: a C string, or null where the role has just been dropped.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { role.to_string() } else { encoding::from_server(CStr::from_ptr(name)) }
    }
}

/// Reads, sorts, and has each row judged. What it returns says that there may be other rows.
pub(super) fn look(query: &Query<'_>, reader: Reader, judge: &mut impl Judge) -> Option<Hidden> {
    // SAFETY: what is made here lives in a memory context of its own until the end, or as long as
    // the one that it is made in: an error of PostgreSQL's leaves it to the end of the transaction,
    // with snapshot, sort and executor, as it does in PostgreSQL's own functions. The relation is
    // open and locked throughout.
    unsafe {
        let memory = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"snowflake_audit".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let before = pg_sys::MemoryContextSwitchTo(memory);
        let no_policies = reader.owner && query.relation.form().relforcerowsecurity;
        let (sort, hidden) = as_role(reader.role, no_policies, || read(query, reader, judge));
        sort.each(query.created.is_some(), judge);
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextDelete(memory);
        hidden
    }
}

/// Reads into a sort.
unsafe fn read(
    query: &Query<'_>,
    reader: Reader,
    judge: &mut impl Judge,
) -> (Sort, Option<Hidden>) {
    // SAFETY: see `look`. Each part is called as PostgreSQL calls it for a statement; what one
    // returns is what the next one takes.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let rewritten = PgList::<pg_sys::Query>::from_pg(pg_sys::QueryRewrite(analyzed(query)));
        let rewritten = rewritten.get_ptr(0).unwrap_or_else(|| unreachable!("a SELECT stays one"));
        let Inspection { policies, foreign, .. } = inspect(rewritten, reader);
        if let Some(Foreign { what, owner }) = foreign {
            let (relation, role) = (query.relation.name(), role_name(reader.role));
            Error::RunsOthers { relation, role, what, owner }.raise();
        }
        let plan = versions::plan_query(rewritten, TEXT);
        let mut receiver = Receiver::new(judge);
        let receiver = &raw mut receiver;
        let run = pg_sys::CreateQueryDesc(
            plan,
            TEXT.as_ptr(),
            pg_sys::GetActiveSnapshot(),
            std::ptr::null_mut(),
            receiver.cast(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        );
        pg_sys::ExecutorStart(run, 0);
        let sort = Sort::begin((*run).tupDesc);
        (*receiver).sort = sort.state;
        versions::executor_run(run);
        pg_sys::ExecutorFinish(run);
        let sources = || PgList::<pg_sys::RangeTblEntry>::from_pg((*plan).rtable);
        let hidden = if policies {
            Some(Hidden::Policies)
        } else if reader.owner {
            None
        } else if query.relation.is_a(pg_sys::RELKIND_VIEW) {
            Some(Hidden::View)
        } else {
            let is_foreign = |of: *mut pg_sys::RangeTblEntry| {
                (*of).relkind as u8 == pg_sys::RELKIND_FOREIGN_TABLE
            };
            sources().iter_ptr().any(is_foreign).then_some(Hidden::Foreign)
        };
        pg_sys::ExecutorEnd(run);
        pg_sys::FreeQueryDesc(run);
        pg_sys::PopActiveSnapshot();
        (sort, hidden)
    }
}

/// What views of statements show: the query has no text.
const TEXT: &CStr = c"SELECT id, created FROM the relation of snowflake_audit()";

/// `SELECT id, created::timestamptz FROM relation WHERE id >= first`, as PostgreSQL's parser would
/// have it.
unsafe fn analyzed(query: &Query<'_>) -> *mut pg_sys::Query {
    let &Query { relation, id, created, first } = query;
    // SAFETY: see `look`. A column is one of the relation's, which is locked, so that the parser
    // finds it; by doing so it notes which columns the reader must have the right to read.
    unsafe {
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            relation.0.as_ptr(),
            pg_sys::AccessShareLock as c_int,
            std::ptr::null_mut(),
            true,
            true,
        );
        pg_sys::addNSItemToQuery(state, item, true, true, true);
        let column = |column: &Column, type_id| {
            let value = pg_sys::colNameToVar(state, column.name.data.as_ptr(), true, -1);
            let cast = pg_sys::coerce_to_target_type(
                state,
                value,
                pg_sys::exprType(value),
                type_id,
                -1,
                pg_sys::CoercionContext::COERCION_EXPLICIT,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
                -1,
            );
            assert!(!cast.is_null(), "the column's type has been looked at");
            cast
        };
        let mut targets = PgList::<pg_sys::TargetEntry>::new();
        let mut target = |value: *mut pg_sys::Node, name: &CStr| {
            let number = targets.len() + 1;
            let name = pg_sys::pstrdup(name.as_ptr());
            targets.push(pg_sys::makeTargetEntry(value.cast(), number as i16, name, false));
        };
        target(column(id, pg_sys::INT8OID), c"id");
        if let Some(created) = created {
            target(column(created, pg_sys::TIMESTAMPTZOID), c"created");
        }
        let first = pg_sys::makeConst(
            pg_sys::INT8OID,
            -1,
            pg_sys::InvalidOid,
            8,
            pg_sys::Datum::from(first),
            false,
            true,
        );
        let condition = pg_sys::make_opclause(
            INT8_GREATER_OR_EQUAL,
            pg_sys::BOOLOID,
            false,
            column(id, pg_sys::INT8OID).cast(),
            first.cast(),
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
        );
        let size = size_of::<pg_sys::Query>();
        let query: *mut pg_sys::Query = pg_sys::palloc0(size).cast();
        (*query).type_ = pg_sys::NodeTag::T_Query;
        (*query).commandType = pg_sys::CmdType::CMD_SELECT;
        (*query).canSetTag = true;
        (*query).rtable = (*state).p_rtable;
        versions::take_permissions(query, state);
        (*query).jointree = pg_sys::makeFromExpr((*state).p_joinlist, condition.cast());
        (*query).targetList = targets.into_pg();
        (*query).stmt_location = -1;
        pg_sys::free_parsestate(state);
        query
    }
}

/// What a query does beside reading: looked for before it is planned, since planning runs functions.
struct Inspection {
    /// Policies of row-level security are part of it.
    policies: bool,
    /// Who reads, where that is not the owner.
    caller: Option<pg_sys::Oid>,
    /// What would run with the caller's rights though somebody else has made it.
    foreign: Option<Foreign>,
}

/// What somebody has made.
struct Foreign {
    what: String,
    owner: String,
}

unsafe fn inspect(query: *mut pg_sys::Query, reader: Reader) -> Inspection {
    let caller = (!reader.owner).then_some(reader.role);
    let mut inspection = Inspection { policies: false, caller, foreign: None };
    // SAFETY: a whole query; what is handed over is used while this waits for it. An error, which
    // the walkers raise where a query is too deep, meets no destructor on its way.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            inspect_node(query.cast(), (&raw mut inspection).cast());
        });
    }
    inspection
}

#[pg_guard]
unsafe extern "C-unwind" fn inspect_node(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: PostgreSQL hands over the parts of the query one after the other, and what `inspect`
    // has given it; each has the type that its tag says.
    unsafe {
        let inspection = &mut *context.cast::<Inspection>();
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int;
                return query_tree_walker(node.cast(), inspect_node, context, flags);
            }
            // What it refers to comes by itself.
            pg_sys::NodeTag::T_RangeTblEntry => {
                let entry = node.cast::<pg_sys::RangeTblEntry>();
                inspection.policies |= !(*entry).securityQuals.is_null();
                return false;
            }
            // The constraints of domains run functions.
            pg_sys::NodeTag::T_CoerceToDomain | pg_sys::NodeTag::T_CoerceViaIO => {
                inspection.type_id(pg_sys::exprType(node));
            }
            _ => (),
        }
        pg_sys::check_functions_in_node(node, Some(inspect_function), context);
        expression_tree_walker(node, inspect_node, context)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn inspect_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: as above.
    unsafe { (*context.cast::<Inspection>()).function(function) };
    false
}

impl Inspection {
    fn function(&mut self, oid: pg_sys::Oid) {
        let owner = |form: &pg_sys::FormData_pg_proc| form.proowner;
        // SAFETY: rows of that cache are of that type.
        let owner = unsafe { cached(pg_sys::SysCacheIdentifier::PROCOID, oid, owner) };
        // SAFETY: takes a number, returns a C string.
        let name = || unsafe { CStr::from_ptr(pg_sys::format_procedure(oid)) };
        self.made_by(oid, owner, || format!("function {}", encoding::from_server(name())));
    }

    fn type_id(&mut self, oid: pg_sys::Oid) {
        let owner = |form: &pg_sys::FormData_pg_type| form.typowner;
        // SAFETY: as above.
        let owner = unsafe { cached(pg_sys::SysCacheIdentifier::TYPEOID, oid, owner) };
        // SAFETY: as above.
        let name = || unsafe { CStr::from_ptr(pg_sys::format_type_be(oid)) };
        self.made_by(oid, owner, || format!("type {}", encoding::from_server(name())));
    }

    /// Who has all rights that the caller has gains nothing by them.
    fn made_by(&mut self, oid: pg_sys::Oid, owner: Option<pg_sys::Oid>, what: impl Fn() -> String) {
        let Some((caller, owner)) = self.caller.zip(owner) else { return };
        // SAFETY: numbers; they look into a cache.
        let harmless = oid.to_u32() < pg_sys::FirstNormalObjectId
            || unsafe { pg_sys::superuser_arg(owner) || pg_sys::has_privs_of_role(owner, caller) };
        if !harmless && self.foreign.is_none() {
            self.foreign = Some(Foreign { what: what(), owner: role_name(owner) });
        }
    }
}

/// Something of a row of a cache of PostgreSQL's.
unsafe fn cached<F, T>(
    cache: pg_sys::SysCacheIdentifier::Type,
    oid: pg_sys::Oid,
    of: impl Fn(&F) -> T,
) -> Option<T> {
    // SAFETY: the caller says of what type the rows are; it is let go of when it has been read.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache as c_int, pg_sys::Datum::from(oid));
        if row.is_null() {
            return None;
        }
        let value = of(&*pg_sys::GETSTRUCT(row).cast::<F>());
        pg_sys::ReleaseSysCache(row);
        Some(value)
    }
}

/// Where the executor sends the rows: through a judge into a sort.
#[repr(C)]
struct Receiver<'a, J> {
    /// What PostgreSQL knows of it. First, so that a pointer to it is one to all.
    base: pg_sys::DestReceiver,
    sort: *mut pg_sys::Tuplesortstate,
    judge: &'a mut J,
}

impl<'a, J: Judge> Receiver<'a, J> {
    fn new(judge: &'a mut J) -> Self {
        let base = pg_sys::DestReceiver {
            receiveSlot: Some(receive::<J>),
            rStartup: Some(begin),
            rShutdown: Some(end),
            rDestroy: Some(end),
            mydest: pg_sys::CommandDest::DestNone,
        };
        Self { base, sort: std::ptr::null_mut(), judge }
    }
}

unsafe extern "C-unwind" fn begin(_: *mut pg_sys::DestReceiver, _: c_int, _: pg_sys::TupleDesc) {}

unsafe extern "C-unwind" fn end(_: *mut pg_sys::DestReceiver) {}

#[pg_guard]
unsafe extern "C-unwind" fn receive<J: Judge>(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: the executor hands over what it was given, while `read` waits for it; nothing else
    // uses it meanwhile. The row is of the query, whose first column is a bigint.
    unsafe {
        let receiver = &mut *receiver.cast::<Receiver<'_, J>>();
        if let Some(id) = value(slot, 0)
            && receiver.judge.read(id.value() as i64)
        {
            pg_sys::tuplesort_puttupleslot(receiver.sort, slot);
        }
    }
    true
}

/// A value of a row; `None` for NULL.
unsafe fn value(slot: *mut pg_sys::TupleTableSlot, column: usize) -> Option<pg_sys::Datum> {
    // SAFETY: the caller's row has such a column; its values are there once it has been taken apart
    // so far.
    unsafe {
        if usize::try_from((*slot).tts_nvalid).unwrap_or(0) <= column {
            pg_sys::slot_getsomeattrs_int(slot, column as c_int + 1);
        }
        let null = *(*slot).tts_isnull.add(column);
        (!null).then(|| *(*slot).tts_values.add(column))
    }
}

/// PostgreSQL's sort: in memory up to `work_mem`, then in temporary files.
struct Sort {
    state: *mut pg_sys::Tuplesortstate,
    row: pg_sys::TupleDesc,
}

impl Sort {
    unsafe fn begin(row: pg_sys::TupleDesc) -> Self {
        let mut columns = [1, 2];
        let mut operators = [INT8_LESS, TIMESTAMPTZ_LESS];
        let mut collations = [pg_sys::InvalidOid; 2];
        let mut nulls_first = [false; 2];
        // SAFETY: the rows are those of the query, of one column or two, of these types; the
        // description is copied, because the sort outlives the query, as are the four lists.
        unsafe {
            let row = pg_sys::CreateTupleDescCopy(row);
            let state = pg_sys::tuplesort_begin_heap(
                row,
                (*row).natts,
                columns.as_mut_ptr(),
                operators.as_mut_ptr(),
                collations.as_mut_ptr(),
                nulls_first.as_mut_ptr(),
                pg_sys::work_mem,
                std::ptr::null_mut(),
                pg_sys::TUPLESORT_NONE as c_int,
            );
            Self { state, row }
        }
    }

    /// Sorts, and hands over each row.
    unsafe fn each(self, timed: bool, judge: &mut impl Judge) {
        // SAFETY: as above; a row is good until the next one is asked for.
        unsafe {
            pg_sys::tuplesort_performsort(self.state);
            let slot =
                pg_sys::MakeSingleTupleTableSlot(self.row, &raw const pg_sys::TTSOpsMinimalTuple);
            let next = || {
                let none = std::ptr::null_mut();
                pg_sys::tuplesort_gettupleslot(self.state, true, false, slot, none)
            };
            while next() {
                pgrx::check_for_interrupts!();
                let created = timed.then(|| value(slot, 1)).flatten();
                let created =
                    created.and_then(|time| TimestampWithTimeZone::from_datum(time, false));
                if let Some(id) = value(slot, 0) {
                    judge.judge(id.value() as i64, created);
                }
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::tuplesort_end(self.state);
        }
    }
}
