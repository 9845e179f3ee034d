"""A database with the extension, in its owner's hands: dumped, restored, compared by a schema tool. He is no superuser."""

import io
import subprocess

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, create_engine, text


@pytest.fixture
def shop(server, connect):
    """Two databases of an ordinary role's, the first with the extension, a table and rows; a session in each."""
    admin = connect(server)
    admin.execute("CREATE ROLE keeper_of_the_shop LOGIN")
    for name in "shop", "shop2":
        admin.execute(f"CREATE DATABASE {name} OWNER keeper_of_the_shop")
    sessions = [connect(server, name, user="keeper_of_the_shop") for name in ("shop", "shop2")]
    sessions[0].execute(
        """
        CREATE EXTENSION snowflake_id;
        CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), note text);
        CREATE VIEW times AS SELECT snowflake_timestamp(id) FROM orders;
        INSERT INTO orders (note) VALUES ('a'), ('b');
        """
    )
    yield sessions
    for name in "shop", "shop2":
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.execute("DROP ROLE keeper_of_the_shop")


def pg(server, program, *options, dbname, **more):
    """Runs a client program as the owner; an error fails the test."""
    command = [server.installation.bin(program), *options, "-d", f"{server.conninfo(dbname)} user=keeper_of_the_shop"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.every_major("pg_dump")
@pytest.mark.parametrize("options", [[], ["--schema-only"], ["--data-only"]], ids=["all", "schema", "data"])
def test_dump_and_restore(server, shop, options):
    old, new = shop
    dump = pg(server, "pg_dump", *options, dbname="shop")
    if options == ["--data-only"]:
        new.execute("CREATE EXTENSION snowflake_id; CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), note text)")
    pg(server, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", dbname="shop2", input=dump)
    rows = "SELECT * FROM orders ORDER BY id"
    assert new.execute(rows).fetchall() == ([] if options == ["--schema-only"] else old.execute(rows).fetchall())
    new.execute("INSERT INTO orders (note) VALUES ('c')")
    # The rights are as in any database: nothing was carried along, nothing lost.
    acl = "SELECT proname, proacl::text FROM pg_proc WHERE proname ~ 'snowflake' ORDER BY proname, oid::regprocedure::text"
    assert new.execute(acl).fetchall() == old.execute(acl).fetchall()


def test_a_migration_is_dumped(server, shop, connect):
    """While the owner's tables are moved: a dump has what the way back needs."""
    session, _ = shop
    connect(server, "shop").execute("CREATE EXTENSION snowflake_id_migrate")
    session.execute("CREATE TABLE items (id bigserial PRIMARY KEY)")
    session.execute("SELECT * FROM snowflake_convert('items')")
    assert "\npublic.items\tid\t{" in pg(server, "pg_dump", dbname="shop")


def test_a_reader_of_all_tables(server, shop, connect):
    """GRANT SELECT ON ALL TABLES by the owner, as every guide has it: the reader sees his tables."""
    session, _ = shop
    connect(server).execute("CREATE ROLE reader LOGIN")
    try:
        session.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        reader = connect(server, "shop", user="reader")
        assert reader.execute("SELECT count(*) FROM orders").fetchone() == (2,)
    finally:
        session.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM reader")
        connect(server).execute("DROP ROLE reader")


def test_alembic_proposes_nothing(server, shop):
    """Its autogenerate, in the default set-up, with a model of the application's table alone."""
    metadata = MetaData()
    default = text("snowflake_nextval()")
    Table("orders", metadata, Column("id", BigInteger, primary_key=True, server_default=default), Column("note", Text))
    url = f"postgresql+psycopg://keeper_of_the_shop@/shop?host={server.directory}&port={server.port}"
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True, "output_buffer": io.StringIO()})
        assert compare_metadata(context, metadata) == []
        # It would see what is not in the model.
        connection.execute(text("CREATE TABLE another (id bigint)"))
        assert [change[0] for change in compare_metadata(context, metadata)] == ["remove_table"]
        connection.rollback()
    engine.dispose()
