"""docs/SECURITY.md's tables against a server: who may do what with each object, and nothing else."""

import itertools
import re

import psycopg
import pytest
from throwaway import PROJECT

PAGE = (PROJECT / "docs/SECURITY.md").read_text()
MAY = {"call", "read", "use"}
NOTHING = "–"
ROLES = "PUBLIC", "pg_monitor", "owner", "node's role", "application"
EXTENSIONS = "snowflake_id", "snowflake_id_node", "snowflake_id_migrate"
SCHEMAS = "snowflake_id_node", "snowflake_id_migrate"

# What runs before CREATE EXTENSION, and after it; by a superuser.
SETTINGS = {
    "nothing": ("", ""),
    "default privileges grant": (
        """
        ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {application}, {owner};
        ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {application}, {owner} WITH GRANT OPTION;
        ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {application};
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO {application}, PUBLIC;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC, {application};
        """,
        "",
    ),
    "default privileges revoke": (
        """
        ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
        ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;
        ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM postgres;
        ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM postgres;
        """,
        "",
    ),
    "all tables of public": ("", "GRANT ALL ON ALL TABLES IN SCHEMA public TO {application}"),
}

_numbers = itertools.count(1)


def matrix():
    """What each role may do with each object: {object: {role: word}}, and the extension of each."""
    rights, extensions = {}, {}
    for extension in EXTENSIONS:
        section = PAGE.split(f"\n### Extension {extension}\n")[1].split("\n## ")[0].split("\n### ")[0]
        head, rows = re.search(r"^\| object \|(.*)\|\n\|[-|]+\|\n((?:\|.*\n)+)", section, re.MULTILINE).groups()
        assert tuple(cell.strip() for cell in head.split("|")) == ROLES
        for row in rows.splitlines():
            objects, *cells = (cell.strip() for cell in row.strip("|").split("|"))
            assert len(cells) == len(ROLES)
            assert set(cells) <= MAY | {NOTHING}
            for name in re.findall(r"`([^`]*)`", objects):
                assert name not in rights
                rights[name] = dict(zip(ROLES, cells, strict=True))
                extensions[name] = extension
    return rights, extensions


def test_every_object_is_there(connection):
    """The page has the functions, views, tables and schemas that the extensions consist of."""
    connection.execute("CREATE EXTENSION snowflake_id_node; CREATE EXTENSION snowflake_id_migrate; SET search_path = public, pg_temp")
    rows = connection.execute(
        """
        SELECT e.extname, CASE d.classid
            WHEN 'pg_proc'::regclass THEN d.objid::regprocedure::text
            WHEN 'pg_class'::regclass THEN d.objid::regclass::text
            WHEN 'pg_namespace'::regclass THEN d.objid::regnamespace::text END
        FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
        WHERE d.deptype = 'e' AND e.extname ^@ 'snowflake_id'
          AND d.classid <> 'pg_type'::regclass
        """
    ).fetchall()
    _, extensions = matrix()
    written = [(extension, re.sub(r", ", ",", name)) for name, extension in extensions.items()]
    assert sorted(written) == sorted(rows)


@pytest.fixture
def roles(server, connect):
    """A database whose owner is no superuser, and a role for each column of the tables; not yet an extension."""
    number = next(_numbers)
    names = {role: f"{word}{number}" for role, word in zip(ROLES, ("anybody", "watcher", "owner", "node", "app"), strict=True)}
    names |= {"application": names["application"], "dbname": f"rights{number}"}
    admin = connect(server)
    for role in ROLES:
        admin.execute(f"CREATE ROLE {names[role]} LOGIN")
    admin.execute(f"GRANT pg_monitor TO {names['pg_monitor']}")
    admin.execute(f"CREATE DATABASE {names['dbname']} OWNER {names['owner']}")
    yield names
    admin.execute(f"DROP DATABASE {names['dbname']} WITH (FORCE)")
    for role in ROLES:
        admin.execute(f"DROP ROLE {names[role]}")


def may(connection, name, word):
    """Whether the session's role may do this with an object; by trying."""
    kind = "function" if "(" in name else "schema" if name in SCHEMAS else "relation"
    if kind == "schema":
        return connection.execute("SELECT has_schema_privilege(%s, 'USAGE')", [name]).fetchone()[0]
    if kind == "function":
        # A call of a STRICT function with NULLs is not even begun.
        granted = connection.execute("SELECT has_function_privilege(%s, 'EXECUTE')", [name]).fetchone()[0]
        # Nobody calls a trigger's function; the right is needed to make a trigger.
        if not granted or name.endswith(".keep_rows()") or ".skip_" in name:
            return granted
        function, types = re.fullmatch(r"(.*)\((.*)\)", name).groups()
        arguments = ", ".join(f"NULL::{argument}" for argument in types.split(", ") if argument)
        is_procedure = connection.execute("SELECT prokind = 'p' FROM pg_proc WHERE oid = %s::regprocedure", [name]).fetchone()[0]
        statement = f"CALL {function}({arguments})" if is_procedure else f"SELECT * FROM {function}({arguments})"
    else:
        statement = f"SELECT * FROM {name} LIMIT 1"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error as error:
        # It was called, and did not like what it got.
        assert error.sqlstate in ("22004", "22023", "55000", "23502", "0A000"), (name, word, error)
    return True


def writes(connection, name):
    """The rights on a relation beside SELECT."""
    rights = "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"
    query = "SELECT has_table_privilege(%s::regclass, %s)"
    return [right for right in rights if connection.execute(query, [name, right]).fetchone()[0]]


@pytest.mark.parametrize("before, after", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("creator", ["owner", "superuser"])
def test_rights(server, connect, roles, creator, before, after):
    """Every role may do with every object exactly what the page says."""
    admin = connect(server, roles["dbname"])
    admin.execute(before.format(**roles))
    as_creator = admin if creator == "superuser" else connect(server, roles["dbname"], user=roles["owner"])
    as_creator.execute("CREATE EXTENSION snowflake_id")
    admin.execute("CREATE EXTENSION snowflake_id_node; CREATE EXTENSION snowflake_id_migrate")
    admin.execute(after.format(**roles))
    functions = "registry_read, registry_write, registry_announce"
    names = ", ".join(f"snowflake_id_node.{name}" for name in functions.split(", "))
    admin.execute(f"GRANT EXECUTE ON FUNCTION {names} TO \"{roles[ROLES[3]]}\"")

    rights, _ = matrix()
    wrong = []
    for role in ROLES:
        session = connect(server, roles["dbname"], user=roles[role])
        for name, words in rights.items():
            word = words[role]
            if may(session, name, word) != (word != NOTHING):
                wrong.append(f"{role}, {name}: {word}")
            # What GRANT ALL gave on the views that are there, can do nothing.
            if "(" not in name and name not in SCHEMAS and not after and (more := writes(session, name)):
                wrong.append(f"{role}, {name}: {more}")
    assert wrong == []


def test_grants_by_the_owner_of_a_database(server, connect, roles):
    """GRANT and REVOKE on all objects of the schema are warnings for him, not errors, and change nothing."""
    session = connect(server, roles["dbname"], user=roles["owner"])
    session.execute("CREATE EXTENSION snowflake_id; CREATE TABLE mine (id bigint DEFAULT snowflake_nextval())")
    rights = """
        SELECT proname, proacl::text FROM pg_proc WHERE proacl IS NOT NULL
        UNION ALL SELECT relname, relacl::text FROM pg_class WHERE relacl IS NOT NULL AND relname <> 'mine'
    """
    before = set(session.execute(rights).fetchall())
    for objects in "TABLES", "FUNCTIONS", "ROUTINES", "SEQUENCES":
        session.execute(f"GRANT ALL ON ALL {objects} IN SCHEMA public TO {roles['application']}")
        session.execute(f"REVOKE ALL ON ALL {objects} IN SCHEMA public FROM {roles['application']}, PUBLIC")
    assert set(session.execute(rights).fetchall()) == before
    reader = connect(server, roles["dbname"], user=roles["application"])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT * FROM pg_stat_snowflake")


def test_the_owner_of_a_database_gives_it_away(server, connect, roles):
    """REASSIGN OWNED and DROP OWNED by the owner of a database, with the extension in it."""
    session = connect(server, roles["dbname"], user=roles["owner"])
    session.execute("CREATE EXTENSION snowflake_id; CREATE TABLE mine (id bigint DEFAULT snowflake_nextval())")
    admin = connect(server, roles["dbname"])
    # The database itself is among what he gives away.
    admin.execute(f"ALTER ROLE {roles['owner']} CREATEDB")
    admin.execute(f"GRANT {roles['application']} TO {roles['owner']}")
    admin.execute(f"GRANT ALL ON SCHEMA public TO {roles['application']}")
    session.execute(f"REASSIGN OWNED BY {roles['owner']} TO {roles['application']}")
    owners = "SELECT extowner::regrole::text, (SELECT relowner::regrole::text FROM pg_class WHERE relname = 'mine') FROM pg_extension WHERE extname = 'snowflake_id'"
    assert admin.execute(owners).fetchone() == (roles["application"], roles["application"])
    connect(server, roles["dbname"], user=roles["application"]).execute("INSERT INTO mine DEFAULT VALUES")
    session.execute(f"DROP OWNED BY {roles['application']}")
    assert admin.execute(owners).fetchone() is None
    assert admin.execute("SELECT count(*) FROM pg_proc WHERE proname ^@ 'snowflake'").fetchone() == (0,)


def test_a_function_is_granted(server, connect, roles):
    """What a superuser grants, on a function that the owner of the database may not call, is a right."""
    admin = connect(server, roles["dbname"])
    admin.execute("CREATE EXTENSION snowflake_id")
    owner, other = (connect(server, roles["dbname"], user=roles[role]) for role in ("owner", "application"))
    for session in owner, other:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            session.execute("SELECT snowflake_drain()")
        assert refused.value.diag.message_primary == "permission denied for function snowflake_drain"
    for grantee in roles["owner"], "PUBLIC":
        admin.execute(f"GRANT EXECUTE ON FUNCTION snowflake_counters() TO {grantee}")
        assert owner.execute("SELECT count(*) FROM snowflake_counters()").fetchone() == (1,)
        admin.execute(f"REVOKE EXECUTE ON FUNCTION snowflake_counters() FROM {grantee}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute("SELECT count(*) FROM snowflake_counters()")
