/*
 * The library of the made-up next version: one function more than the one that was built, which it
 * is linked with. PostgreSQL looks for symbols in a library and in those that it needs.
 */
#include "postgres.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

PGDLLEXPORT PG_FUNCTION_INFO_V1(snowflake_made_up_wrapper);

Datum
snowflake_made_up_wrapper(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(PG_GETARG_INT64(0) * 6);
}
