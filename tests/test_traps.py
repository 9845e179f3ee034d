"""What the owner of a database plants is never run by others: not by CREATE EXTENSION, an upgrade, a view, the keeper.

Traps are functions and operators with the names of everything that the extension's scripts and its
library's statements use, for every combination of types that could be matched better. Each says in
the server's log who ran it.
"""

import itertools
import re
from pathlib import Path

import psycopg
import pytest
from clients import eventually
from throwaway import PROJECT, Server

EXTENSIONS = "snowflake_id", "snowflake_id_node", "snowflake_id_migrate"

# Beside a function's own types: what one of its arguments could also be given as.
OTHERS = (
    *("smallint", "integer", "bigint", "real", "double precision", "numeric", "text", "name", "character varying"),
    *("oid", "regclass", "regrole", "interval", "timestamp without time zone", "timestamp with time zone", "date"),
    *("boolean", "bytea", "jsonb", "bigint[]", "text[]", '"char"'),
)

# All functions and operators of the names that are used, with their argument and result types.
FUNCTIONS = """
    SELECT p.proname, p.proargtypes::oid[]::regtype[]::text[], p.prorettype::regtype::text, p.proretset
    FROM pg_proc p WHERE p.proname = ANY (%s) AND p.prokind = 'f' AND NOT EXISTS (
        SELECT FROM pg_type t WHERE t.oid = ANY (p.proargtypes) AND t.typtype = 'p'
          AND t.typname NOT IN ('any', 'anyarray', 'anyelement', 'record'))
"""
# What stands for types of its kind.
POLYMORPHIC = "anyarray", "anyelement", '"any"'
OPERATORS = """
    SELECT o.oprname, ARRAY[oprleft, oprright]::regtype[]::text[], oprresult::regtype::text
    FROM pg_operator o JOIN pg_type l ON l.oid = oprleft JOIN pg_type r ON r.oid = oprright
    WHERE oprname = ANY (%s) AND oprnamespace = 'pg_catalog'::regnamespace AND l.typtype = 'b' AND r.typtype = 'b'
"""
# Objects outside of pg_catalog and the extensions that one of theirs depends on, by itself or by its rule.
DEPENDENCIES = """
    WITH members AS (
        SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname LIKE 'snowflake_id%'
    ), parts AS (
        SELECT classid, objid FROM members
        UNION SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN members m ON m.objid = r.ev_class
        UNION SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN members m ON m.objid = t.tgrelid
        UNION SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN members m ON m.objid = c.conrelid
        UNION SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i JOIN members m ON m.objid = i.indrelid
    )
    SELECT pg_describe_object(d.classid, d.objid, 0), pg_describe_object(d.refclassid, d.refobjid, 0)
    FROM parts p JOIN pg_depend d USING (classid, objid)
    WHERE d.refobjid >= 16384 AND (d.refclassid, d.refobjid) NOT IN (SELECT * FROM parts)
      AND d.refclassid NOT IN ('pg_extension'::regclass, 'pg_namespace'::regclass)
"""


def scripts(installation):
    return {name: next(installation.extensions.glob(f"{name}--*.sql")) for name in EXTENSIONS}


def used(installation):
    """The names of functions, and the operators, in the scripts and in the library's statements."""
    texts = [path.read_text() for path in (*scripts(installation).values(), *(PROJECT / "src/migrate").glob("*.sql"))]
    for path in (PROJECT / "src").rglob("*.rs"):
        literals = re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text(), flags=re.DOTALL)
        texts += [text for text in literals if re.search(r"\b(SELECT|INSERT|UPDATE|DELETE)\b", text)]
    sql = "\n".join(re.sub(r"^\s*--.*$", "", text, flags=re.MULTILINE) for text in texts)
    functions = set(re.findall(r"\b([a-z_][a-z0-9_]*)\s*\(", sql))
    operators = set(re.findall(r"OPERATOR\(pg_catalog\.([^)]+)\)", sql)) | set(re.findall(r" ([-+*/<>=!|&~]{1,2}|->>) ", sql))
    return sorted(functions), sorted(operators)


class Traps:
    """The traps of a database's owner, as statements."""

    def __init__(self, connection, installation):
        functions, operators = used(installation)
        # {(kind, name, argument types): result type}. What exists comes first: its result fits.
        self.planted = {}
        for name, types, result, returns_set in connection.execute(FUNCTIONS, [functions]).fetchall():
            for arguments, of in self.concrete(types, result):
                self.planted["function", name, tuple(arguments)] = f"SETOF {of}" if returns_set else of
        for name, types, result in connection.execute(OPERATORS, [operators]).fetchall():
            self.planted["operator", name, tuple(types)] = result
        for (kind, name, types), result in list(self.planted.items()):
            for arguments in self.combinations(types):
                self.planted.setdefault((kind, name, tuple(arguments)), result)

    @staticmethod
    def concrete(types, result):
        """Types, and the result's, with a type for each that stands for several."""
        if result not in POLYMORPHIC and not set(types) & set(POLYMORPHIC):
            yield types, result
            return
        for one in "bigint", "text", "oid":
            stands = {"anyarray": f"{one}[]", "anyelement": one, '"any"': one}
            yield [stands.get(name, name) for name in types], stands.get(result, result)

    @staticmethod
    def combinations(types):
        """Types that could be matched better: any for each of up to two arguments, else one of them at a time."""
        if len(types) <= 2:
            return list(itertools.product(*[{own, *OTHERS} for own in types]))
        changed = [(*types[:i], other, *types[i + 1 :]) for i in range(len(types)) for other in OTHERS]
        return [types, *changed]

    def statements(self, schema, most=None):
        """Functions and operators whose body tells who ran it; the first so many, which are those of what exists."""
        numbers = itertools.count()
        for (kind, name, arguments), result in list(self.planted.items())[:most]:
            function = f'{schema}."{name}"' if kind == "function" else f"{schema}.operator{next(numbers)}"
            returns = "" if result == "void" or result.startswith("SETOF") else "RETURN NULL;"
            yield f"""
                CREATE FUNCTION {function}({", ".join(arguments)}) RETURNS {result} LANGUAGE plpgsql AS
                $$BEGIN RAISE LOG 'TRAPPED % by {kind} {name.replace("%", "%%")}', current_user; {returns} END$$
            """
            if kind == "operator":
                left, right = arguments
                yield f"CREATE OPERATOR {schema}.{name} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {function})"


def plant(session, installation, schema="public", most=None):
    """Plants in a schema as the session's role; how many traps."""
    count = 0
    for statement in Traps(session, installation).statements(schema, most):
        try:
            session.execute(statement)
            count += 1
        except (psycopg.errors.SyntaxError, psycopg.errors.InvalidFunctionDefinition, psycopg.errors.FeatureNotSupported):
            # No such operator or function can be made, whoever wishes: => is none, nor one of pseudo-types.
            pass
    return count


def trapped(server):
    return re.findall(r"TRAPPED .*", Path(server.logfile).read_text())


@pytest.fixture(scope="module")
def server(installation):
    """A server whose keeper's database, shop, is a tenant's; and a database with all his traps, to be copied."""
    settings = {"snowflake_id.database": "shop", "snowflake_id.sample_rate": 1.0}
    with Server(installation, settings) as server:
        with psycopg.connect(server.conninfo(), autocommit=True) as admin:
            admin.execute("CREATE ROLE tenant LOGIN")
            admin.execute("CREATE DATABASE traps OWNER tenant")
        with psycopg.connect(server.conninfo("traps"), user="tenant", autocommit=True) as session:
            count = plant(session, installation)
            assert count > 5000
            server.traps = count
        yield server
    assert server.crashes() == []


@pytest.fixture
def shop(server, connect):
    """The tenant's database, with his traps; the function returns a session in it, of a role."""
    admin = connect(server)
    admin.execute("CREATE DATABASE shop OWNER tenant TEMPLATE traps")
    yield lambda role: connect(server, "shop", user=role)
    admin.execute("DROP DATABASE shop WITH (FORCE)")
    server.configure({"snowflake_id.worker_id": None})
    server.reload()


# What a session does with the extension. Each must work, so that no trap hides behind an error.
USES = """
    SELECT snowflake_nextval(), snowflake_lastval(), snowflake_batch_array(3);
    SELECT * FROM snowflake_batch(3);
    CREATE TABLE orders (id bigint DEFAULT snowflake_nextval(), at timestamptz DEFAULT now());
    INSERT INTO orders SELECT FROM pg_catalog.generate_series(1, 100);
    SELECT pg_catalog.count(*) FROM orders WHERE snowflake_between(id, '-infinity'::timestamptz, 'infinity'::timestamptz);
    SELECT * FROM snowflake_decode(1::bigint);
    SELECT * FROM snowflake_decode(1::bigint, 'twitter'::text, NULL::timestamptz);
    SELECT snowflake_timestamp(1::bigint), snowflake_timestamp(1::bigint, 'twitter'::text, NULL::timestamptz), snowflake_worker_id(1::bigint);
    SELECT snowflake_encode('2026-01-01'::timestamptz, 1, 1, NULL::integer);
    SELECT snowflake_min('2026-01-01'::timestamptz), snowflake_max('2026-01-01'::timestamptz), snowflake_lower_bound('2026-01-01'::timestamptz);
    SELECT snowflake_from_base62(snowflake_base62(1::bigint)), snowflake_from_base32(snowflake_base32(1::bigint));
    SELECT * FROM snowflake_layout(NULL::text, NULL::timestamptz);
    SELECT * FROM snowflake_layouts;
    SELECT * FROM snowflake_status;
    SELECT * FROM pg_stat_snowflake;
    SELECT * FROM pg_stat_snowflake_backends;
    SELECT pg_stat_snowflake_reset();
    SELECT snowflake_accept_clock();
    SELECT snowflake_drain();
    SELECT snowflake_resume();
    SELECT snowflake_set_floor(1);
    SELECT * FROM snowflake_audit('orders'::regclass, 'id'::name, 'at'::name, NULL::text, NULL::timestamptz, 1::float8, '1 s'::interval);
    SELECT * FROM snowflake_id_node.leases;
    SELECT snowflake_id_node.registry_write(1::bigint, NULL::bigint, '{}'::text), snowflake_id_node.registry_write(1::bigint, 1::bigint, '{}'::text);
    SELECT * FROM snowflake_id_node.registry_read(NULL::bigint);
    SELECT snowflake_id_node.registry_announce(1::bigint, 1::float8);
    CREATE TABLE legacy (id bigserial PRIMARY KEY, key bigint);
    SELECT * FROM snowflake_convert_plan('legacy'::regclass, NULL::name);
    SELECT * FROM snowflake_convert('legacy'::regclass, NULL::name, '1 s'::interval, 3, '{}'::text[]);
    SELECT * FROM snowflake_conversions;
    SELECT * FROM snowflake_revert('legacy'::regclass, NULL::name, '1 s'::interval, 3);
    SELECT * FROM snowflake_convert('legacy'::regclass, NULL::name, '1 s'::interval, 3, '{}'::text[]);
    SELECT * FROM snowflake_convert_finish('legacy'::regclass, NULL::name, '1 s'::interval, 3);
    CALL snowflake_backfill('legacy'::regclass, 'key'::name, '1'::text, 'key IS NULL'::text, 10, '1 ms'::interval, 0::bigint);
    DROP TABLE legacy;
"""


def dependencies(session):
    """What the extensions depend on; traps are not for this query."""
    with session.transaction():
        session.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        return session.execute(DEPENDENCIES).fetchall()


def use(session):
    for statement in USES.split(";\n"):
        if statement.strip():
            session.execute(statement)


def test_nothing_planted_is_run(server, shop, installation):
    """CREATE EXTENSION by both, every view and function by a superuser, an upgrade, the keeper; and no dependency."""
    session = shop("tenant")
    print(f"{server.traps} traps")
    begun = len(trapped(server))
    # A trap works, for whoever does not look where he steps.
    session.execute("SELECT 2::bigint / 2::float8")
    assert trapped(server)[begun:] == ["TRAPPED tenant by operator /"]

    # Trusted: the script runs as a superuser in the tenant's own session, with tables and types in its pg_temp.
    assert plant(session, installation, "pg_temp", most=1000) > 900
    for name in "pg_class", "pg_proc", "pg_extension", "pg_depend", "pg_namespace", "snowflake_status", "text", "bigint":
        session.execute(f'CREATE TEMPORARY TABLE "{name}" (trap integer)')
    session.execute("CREATE EXTENSION snowflake_id")
    server.configure({"snowflake_id.worker_id": 1})
    server.reload()
    admin = shop("postgres")
    eventually(lambda: admin.execute("SELECT state FROM snowflake_status").fetchone() == ("ready",))
    admin.execute("CREATE EXTENSION snowflake_id_migrate")
    use(admin)
    samples = "SELECT pg_catalog.count(*) FROM snowflake_id_node.samples"
    eventually(lambda: admin.execute(samples).fetchone()[0] > 100)
    assert dependencies(admin) == []

    # An upgrade: what a next version's script does at the least.
    for name, path in scripts(installation).items():
        rights = (PROJECT / "src/sql/revoke.sql").read_text().replace("@extension@", name)
        rights += (PROJECT / "src/sql" / name.removeprefix("snowflake_id").removeprefix("_") / "rights.sql").read_text()
        next_version = path.with_name(f"{name}--0.1.0--0.1.0next.sql")
        next_version.write_text(rights)
        try:
            (session if name == "snowflake_id" else admin).execute(f"ALTER EXTENSION {name} UPDATE TO '0.1.0next'")
        finally:
            next_version.unlink()
    admin.execute("DROP TABLE orders; DELETE FROM snowflake_id_node.registry")
    use(admin)

    # By a superuser, in a database where all is planted before.
    admin.execute("DROP EXTENSION snowflake_id CASCADE; DROP TABLE orders; DROP EXTENSION snowflake_id_node")
    eventually(lambda: created(admin), "the extensions are there")
    use(admin)
    assert dependencies(admin) == []
    assert trapped(server)[begun + 1 :] == []


def created(session):
    """Whether all extensions could be created: not while the keeper is creating its own."""
    try:
        session.execute("CREATE EXTENSION IF NOT EXISTS snowflake_id_node; CREATE EXTENSION snowflake_id; CREATE EXTENSION snowflake_id_migrate")
    except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema, psycopg.errors.DuplicateObject):
        return False
    return True


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("::double precision / 31557600::integer", r"::double precision OPERATOR\(pg_catalog\./\) 31557600::double precision"),
        ("FROM unnest(snowflake_presets())", r"FROM pg_catalog\.unnest\(snowflake_presets\(\)\)"),
    ],
    ids=["an operator", "a function"],
)
def test_a_trap_catches(server, shop, installation, wrong, right):
    """The scripts as they were once: what was planted is run."""
    script = scripts(installation)["snowflake_id"]
    text = script.read_text()
    changed, times = re.subn(right, wrong, text)
    assert times > 0
    begun = len(trapped(server))
    try:
        script.write_text(changed)
        admin = shop("postgres")
        admin.execute("CREATE EXTENSION snowflake_id")
    finally:
        script.write_text(text)
    for view in "pg_stat_snowflake", "snowflake_layouts":
        try:
            admin.execute(f"SELECT * FROM {view}")
        except psycopg.Error:
            # What a trap returns may not fit.
            pass
    assert [line for line in trapped(server)[begun:] if "postgres" in line]
    assert dependencies(admin) != []


def test_a_schema_that_somebody_has_made(server, shop):
    """CREATE EXTENSION is an error, ids stop, and the status names the schema and the statement."""
    session, admin = shop("tenant"), shop("postgres")
    session.execute("CREATE SCHEMA snowflake_id_node; CREATE TABLE snowflake_id_node.high_water_marks (node text)")
    with pytest.raises(psycopg.errors.DuplicateSchema):
        admin.execute("CREATE EXTENSION snowflake_id_node")
    session.execute("CREATE EXTENSION snowflake_id")
    server.configure({"snowflake_id.worker_id": 1})
    server.reload()
    status = "SELECT state, reason, hint FROM snowflake_status"
    eventually(lambda: session.execute(status).fetchone()[0] == "schema_taken")
    _, reason, hint = session.execute(status).fetchone()
    assert reason.startswith('Schema snowflake_id_node in database "shop" is not the extension\'s. ')
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
        session.execute("SELECT snowflake_nextval()")
    assert refused.value.diag.message_hint == hint
    statement = hint.split(": ")[-1]
    assert statement == "ALTER SCHEMA snowflake_id_node RENAME TO snowflake_id_node_old;"
    session.execute(statement)
    assert eventually(lambda: flows(session))
    # The first id may come a moment before the keeper says so.
    eventually(lambda: session.execute(status).fetchone()[0] == "ready")


def flows(session):
    try:
        return session.execute("SELECT snowflake_nextval()").fetchone()[0]
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return None
