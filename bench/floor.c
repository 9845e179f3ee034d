/*
 * What a function in C costs that does less than making an id, to compare with; and a caller that
 * keeps a pace. `bench/` compiles it against the server's headers, and has the server preload it.
 */
#include "postgres.h"

#include <sys/mman.h>
#include <time.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "utils/array.h"

PG_MODULE_MAGIC;

/* On a cache line of its own, shared by all backends: they are forked from who preloads this. */
static pg_atomic_uint64 *cursor;

void		_PG_init(void);
void
_PG_init(void)
{
	void	   *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		elog(ERROR, "no shared memory");
	cursor = memory;
	pg_atomic_init_u64(cursor, 0);
}

static inline int64
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64CONST(1000000) + now.tv_nsec / 1000;
}

PG_FUNCTION_INFO_V1(floor_empty);
Datum
floor_empty(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(1);
}

PG_FUNCTION_INFO_V1(floor_clock);
Datum
floor_clock(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(now_us());
}

/* The least that makes ids of this kind: one clock read, one compare-and-swap. */
PG_FUNCTION_INFO_V1(floor_clock_cas);
Datum
floor_clock_cas(PG_FUNCTION_ARGS)
{
	uint64		present = now_us() / 1000 << 12;
	uint64		current = pg_atomic_read_u64(cursor);
	uint64		next;

	do
		next = Max(current, present) + 1;
	while (!pg_atomic_compare_exchange_u64(cursor, &current, next));
	PG_RETURN_INT64(next);
}

static inline int64
monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

/*
 * pace(function regprocedure, calls integer, per_second integer, burst integer,
 *      OUT begin_ns bigint, OUT end_ns bigint, OUT latencies integer[])
 *
 * Calls the function in bursts, one after the other without a pause, and sleeps between bursts
 * until the next is due. When one is due depends on the first alone, so that a burst that was
 * late takes nothing from the pace. Returns how long each call took, in ns.
 */
PG_FUNCTION_INFO_V1(pace);
Datum
pace(PG_FUNCTION_ARGS)
{
	Oid			function = PG_GETARG_OID(0);
	int32		calls = PG_GETARG_INT32(1);
	int64		interval = INT64CONST(1000000000) * PG_GETARG_INT32(3) / PG_GETARG_INT32(2);
	int32		burst = PG_GETARG_INT32(3);
	Datum	   *latencies = palloc(sizeof(Datum) * calls);
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	TupleDesc	row;
	FmgrInfo	flinfo;
	int64		begin;

	LOCAL_FCINFO(call, 0);

	if (get_call_result_type(fcinfo, NULL, &row) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "pace returns a row");
	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*call, &flinfo, 0, InvalidOid, NULL, NULL);

	begin = monotonic_ns();
	for (int32 done = 0; done < calls;)
	{
		int64		due = begin + done / burst * interval;
		struct timespec until = {due / INT64CONST(1000000000), due % INT64CONST(1000000000)};

		/* A signal ends the sleep: then it is slept on, unless it was meant for us. */
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
			CHECK_FOR_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		for (int32 last = Min(done + burst, calls); done < last; done++)
		{
			int64		before = monotonic_ns();

			call->isnull = false;
			(void) FunctionCallInvoke(call);
			latencies[done] = Int32GetDatum((int32) Min(monotonic_ns() - before, PG_INT32_MAX));
		}
	}
	values[0] = Int64GetDatum(begin);
	values[1] = Int64GetDatum(monotonic_ns());
	values[2] = PointerGetDatum(construct_array(latencies, calls, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(row), values, nulls)));
}
