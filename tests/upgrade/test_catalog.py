"""A database that was upgraded has the same catalog as one that was not."""

import itertools

import pytest
from throwaway import Server
from versions import CHANGES, NEXT, PRESENT, RIGHTS, catalog

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def admin(package_of_the_session):
    """One server for all, where no node runs."""
    with Server(package_of_the_session.installation, {"shared_preload_libraries": ""}) as server:
        server.psql("CREATE ROLE eve")
        yield server
    assert server.crashes() == []


@pytest.fixture
def fresh_database(admin, connect):
    """A function that makes a database whose default privileges give others everything, and connects to it."""

    def make():
        name = f"upgrade{next(_numbers)}"
        admin.psql(f"CREATE DATABASE {name}")
        connection = connect(admin, name)
        for kind in "TABLES", "FUNCTIONS", "SCHEMAS":
            connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO eve")
        return connection

    return make


def differences(package, fresh_database, start, end):
    """What only the fresh database has, and what only the upgraded one."""
    found = []
    upgraded, fresh = fresh_database(), fresh_database()
    for extension in package.extensions:
        # One that is newer than the start has no upgrade.
        if not (package.scripts / f"{extension}--{start}.sql").exists():
            continue
        upgraded.execute(f"CREATE EXTENSION {extension} VERSION '{start}' CASCADE")
        fresh.execute(f"CREATE EXTENSION {extension} VERSION '{end}' CASCADE")
    # In a subtransaction: its number is another one.
    with upgraded.transaction():
        for extension in package.extensions:
            with upgraded.transaction():
                upgraded.execute(f"ALTER EXTENSION {extension} UPDATE TO '{end}'")
    for extension in package.extensions:
        lines = catalog(upgraded, extension), catalog(fresh, extension)
        found += [f"- {line}" for line in lines[1] if line not in lines[0]]
        found += [f"+ {line}" for line in lines[0] if line not in lines[1]]
        assert found or lines[0] == lines[1]
    return found


def test_releases(package, fresh_database):
    """From every release to the present version."""
    for start in package.released:
        assert differences(package, fresh_database, start, PRESENT) == []


def test_the_next_version(package, fresh_database):
    """The machinery, by a version that is made up."""
    package.install(NEXT)
    assert differences(package, fresh_database, PRESENT, NEXT) == []


def test_rights_that_somebody_has_granted(package, fresh_database):
    """Stay, on what was there before; also on what the upgrade changes."""
    package.install(NEXT)
    connection = fresh_database()
    connection.execute(f"CREATE EXTENSION snowflake_id VERSION '{PRESENT}'")
    connection.execute("GRANT EXECUTE ON FUNCTION snowflake_drain() TO eve")
    connection.execute("REVOKE EXECUTE ON FUNCTION snowflake_base62(bigint) FROM PUBLIC")
    connection.execute(f"ALTER EXTENSION snowflake_id UPDATE TO '{NEXT}'")
    may = "SELECT has_function_privilege('eve', %s, 'EXECUTE')"
    functions = "snowflake_drain()", "snowflake_base62(bigint)", "snowflake_made_up(bigint)"
    assert [connection.execute(may, [name]).fetchone()[0] for name in functions] == [True, False, False]


FORGOTTEN = {
    "a default": ("snowflake_id", " DEFAULT 7", " DEFAULT 8"),
    "volatility": ("snowflake_id", "IMMUTABLE", "STABLE"),
    "strictness": ("snowflake_id", "STRICT ", ""),
    "a comment": ("snowflake_id", "COMMENT ON VIEW snowflake_made_up_view IS 'the answer';", ""),
    "a column's comment": ("snowflake_id", "IS 'itself'", "IS NULL"),
    "a cost": ("snowflake_id", "COST 7", "COST 1"),
    "a grant": ("snowflake_id", "GRANT SELECT ON snowflake_made_up_view TO PUBLIC;", ""),
    "a view's column": ("snowflake_id", "answer", "reply"),
    "a dependency": ("snowflake_id", "snowflake_made_up() AS answer", "42::bigint AS answer"),
    "NOT NULL": ("snowflake_id_node", "timestamptz NOT NULL", "timestamptz"),
    "a column's default": ("snowflake_id_node", " DEFAULT pg_catalog.now()", ""),
    "a type": ("snowflake_id_node", "at timestamptz", "at timestamp"),
    "a check": ("snowflake_id_node", "0::bigint", "1::bigint"),
    "an index": ("snowflake_id_node", "CREATE INDEX made_up_at ON snowflake_id_node.made_up (at);", ""),
    "the replica identity": ("snowflake_id_node", "IDENTITY FULL", "IDENTITY DEFAULT"),
    "what a dump carries": ("snowflake_id_node", "SELECT pg_catalog.pg_extension_config_dump(", "SELECT pg_catalog.concat("),
    "a trigger's state": ("snowflake_id_node", "ENABLE REPLICA TRIGGER", "ENABLE ALWAYS TRIGGER"),
}


@pytest.mark.once("it is the comparison that is tested")
@pytest.mark.parametrize("what", FORGOTTEN)
def test_what_an_upgrade_forgets(package, fresh_database, what):
    """Is found, whatever it is."""
    extension, right, wrong = FORGOTTEN[what]
    texts = [{**part, extension: part[extension].replace(right, wrong)} for part in (CHANGES, RIGHTS)]
    assert texts != [CHANGES, RIGHTS]
    package.install(NEXT, changes=texts[0], grants=texts[1])
    assert differences(package, fresh_database, PRESENT, NEXT) != []
