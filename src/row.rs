//! Rows: those whose columns are filled in by their names, and the one that `snowflake_decode` returns,
//! a `record`, not a set, so that it can stand anywhere in a query. Its row type is made once in each
//! process.
#![allow(unsafe_code)]

use once_cell::sync::OnceCell;
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, IntoDatum, TimestampWithTimeZone};
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{AllocatedByRust, pg_sys};
use snowflake_core::Fields;
use std::ffi::CStr;

/// A row of a function that is declared with named columns.
pub(crate) type Row = PgHeapTuple<'static, AllocatedByRust>;

/// A row of the function that was called with `fcinfo`: each column as it is declared has the value of its
/// name. So a library serves the script of another version, which has fewer columns, or more: those
/// are null.
pub(crate) fn by_name(
    fcinfo: pg_sys::FunctionCallInfo,
    value: impl Fn(&str) -> Option<pg_sys::Datum>,
) -> Row {
    // SAFETY: `fcinfo` is that of the present call, of a function that returns a row or rows: then
    // PostgreSQL makes a descriptor, which is copied. There is one value for each column.
    unsafe {
        let mut columns = std::ptr::null_mut();
        let class = pg_sys::get_call_result_type(fcinfo, std::ptr::null_mut(), &raw mut columns);
        assert!(class == pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE, "the function returns no row");
        let columns = PgTupleDesc::from_pg_copy(pg_sys::BlessTupleDesc(columns));
        let values: Vec<_> = columns.iter().map(|column| value(column.name())).collect();
        PgHeapTuple::from_datums(columns, values).unwrap_or_else(|error| pgrx::error!("{error}"))
    }
}

/// A decoded id: `(ts timestamptz, datacenter_id int, worker_id int, sequence int)`.
pub(crate) struct DecodedId {
    pub(crate) ts: TimestampWithTimeZone,
    pub(crate) fields: Fields,
}

/// The columns, as src/sql/decode.sql declares them.
const COLUMNS: [(&CStr, pg_sys::BuiltinOid); 4] = [
    (c"ts", pg_sys::BuiltinOid::TIMESTAMPTZOID),
    (c"datacenter_id", pg_sys::BuiltinOid::INT4OID),
    (c"worker_id", pg_sys::BuiltinOid::INT4OID),
    (c"sequence", pg_sys::BuiltinOid::INT4OID),
];

/// A row descriptor that lives as long as the process.
struct RowType(pg_sys::TupleDesc);

// SAFETY: PostgreSQL's memory is used by the one thread of a backend only; `OnceCell`
// asks for these bounds because it is in a static.
unsafe impl Send for RowType {}
// SAFETY: as above.
unsafe impl Sync for RowType {}

fn row_type() -> pg_sys::TupleDesc {
    static ROW_TYPE: OnceCell<RowType> = OnceCell::new();
    // SAFETY: the descriptor is made in the memory context of the process, has as many
    // attributes as are filled in, each with a built-in type, and is registered with
    // the type cache, as a record that a function returns must be.
    let made = ROW_TYPE.get_or_init(|| unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let row_type = pg_sys::CreateTemplateTupleDesc(COLUMNS.len() as i32);
        for (number, (name, oid)) in (1..).zip(COLUMNS) {
            pg_sys::TupleDescInitEntry(row_type, number, name.as_ptr(), oid.value(), -1, 0);
        }
        let row_type = pg_sys::BlessTupleDesc(row_type);
        pg_sys::MemoryContextSwitchTo(before);
        RowType(row_type)
    });
    made.0
}

// SAFETY: the datum is a composite one of the declared row type, in the caller's memory.
unsafe impl BoxRet for DecodedId {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        let number = |value: Option<u32>| value.and_then(|value| (value as i32).into_datum());
        let columns = [
            self.ts.into_datum(),
            number(self.fields.datacenter),
            number(self.fields.worker),
            number(self.fields.sequence),
        ];
        let mut nulls = columns.map(|column| column.is_none());
        let mut values = columns.map(|column| column.unwrap_or(pg_sys::Datum::from(0)));
        // SAFETY: both arrays have one element for each column of the row type.
        unsafe {
            let row = pg_sys::heap_form_tuple(row_type(), values.as_mut_ptr(), nulls.as_mut_ptr());
            fcinfo.return_raw_datum(pg_sys::HeapTupleHeaderGetDatum((*row).t_data))
        }
    }
}

// SAFETY: says what the type is in SQL. No SQL is made from it: the functions that
// return it are declared by hand in src/sql/decode.sql.
unsafe impl SqlTranslatable for DecodedId {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(DecodedId);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("record"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("record")));
}
