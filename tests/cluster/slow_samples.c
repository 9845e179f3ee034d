/*
 * A table that takes its time, for a server that preloads this: while the file named by
 * SLOW_SAMPLES exists, no insert into a table called samples goes on. It can be cancelled,
 * as can be what other extensions do there.
 *
 *     cc -shared -fPIC -I"$(pg_config --includedir-server)" -o slow_samples.so slow_samples.c
 */
#include "postgres.h"

#include <unistd.h>

#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;

static ExecutorStart_hook_type previous;

static bool
is_slow(PlannedStmt *statement)
{
	const char *flag = getenv("SLOW_SAMPLES");
	const char *name;

	if (statement->commandType != CMD_INSERT || flag == NULL || access(flag, F_OK) != 0)
		return false;
	name = get_rel_name(linitial_node(RangeTblEntry, statement->rtable)->relid);
	return name != NULL && strcmp(name, "samples") == 0;
}

static void
slow_start(QueryDesc *query, int flags)
{
	while (is_slow(query->plannedstmt))
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	if (previous)
		previous(query, flags);
	else
		standard_ExecutorStart(query, flags);
}

void		_PG_init(void);
void
_PG_init(void)
{
	previous = ExecutorStart_hook;
	ExecutorStart_hook = slow_start;
}
