"""What is compared: functions that make keys, and how to create those that are not PostgreSQL's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A function under the name that it has in the tables."""

    name: str
    call: str
    block: int = 1  # snowflake_id.backend_block
    since: int = 0  # the first PostgreSQL that has it


# Where statements are compared: one that calls nothing.
SELECT_1 = Candidate("1", "1")
EMPTY = Candidate("C function: empty", "floor_empty()")
CLOCK = Candidate("C function: reads the clock", "floor_clock()")
CLOCK_CAS = Candidate("C function: clock and compare-and-swap", "floor_clock_cas()")
SNOWFLAKE = Candidate("snowflake_nextval()", "snowflake_nextval()")
SNOWFLAKE_64 = Candidate("snowflake_nextval(), backend_block 64", "snowflake_nextval()", block=64)
# After an id of 2026: there is nothing to be done.
SNOWFLAKE_AFTER = Candidate("snowflake_nextval_after(id)", "snowflake_nextval_after(132271570946793472)")
NEXTVAL = Candidate("nextval(), CACHE 1", "nextval('cache1')")
NEXTVAL_32 = Candidate("nextval(), CACHE 32", "nextval('cache32')")
NEXTVAL_1000 = Candidate("nextval(), CACHE 1000", "nextval('cache1000')")
UUID = Candidate("gen_random_uuid()", "gen_random_uuid()")
UUID7 = Candidate("uuidv7()", "uuidv7()", since=18)
INSTAGRAM = Candidate("Instagram's PL/pgSQL", "instagram_id()")

FLOORS = [EMPTY, CLOCK, CLOCK_CAS]
IDS = [SNOWFLAKE, SNOWFLAKE_64, NEXTVAL, NEXTVAL_32, NEXTVAL_1000]

# Declared as snowflake_nextval() is.
CREATE_FLOORS = """
CREATE FUNCTION floor_empty() RETURNS bigint AS 'floor' LANGUAGE c VOLATILE PARALLEL SAFE;
CREATE FUNCTION floor_clock() RETURNS bigint AS 'floor' LANGUAGE c VOLATILE PARALLEL SAFE;
CREATE FUNCTION floor_clock_cas() RETURNS bigint AS 'floor' LANGUAGE c VOLATILE PARALLEL SAFE;
CREATE FUNCTION pace(
    function regprocedure, calls integer, per_second integer, burst integer,
    OUT begin_ns bigint, OUT end_ns bigint, OUT latencies integer[]
) AS 'floor' LANGUAGE c VOLATILE STRICT;
"""

CREATE_SEQUENCES = """
CREATE SEQUENCE cache1;
CREATE SEQUENCE cache32 CACHE 32;
CREATE SEQUENCE cache1000 CACHE 1000;
"""

# The function that Instagram published, on a sequence of its own.
CREATE_INSTAGRAM = """
CREATE SEQUENCE instagram;
CREATE FUNCTION instagram_id(OUT result bigint) LANGUAGE plpgsql AS $$
DECLARE
    our_epoch bigint := 1314220021721;
    seq_id bigint;
    now_millis bigint;
    shard_id int := 5;
BEGIN
    SELECT nextval('instagram') % 1024 INTO seq_id;
    SELECT FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) INTO now_millis;
    result := (now_millis - our_epoch) << 23;
    result := result | (shard_id << 10);
    result := result | (seq_id);
END $$;
"""

CREATE = CREATE_FLOORS + CREATE_SEQUENCES + CREATE_INSTAGRAM
