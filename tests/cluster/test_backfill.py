"""A column is filled in batches: complete, resumable, cancellable, and with nobody's rights but the owner's."""

import threading

import psycopg
import pytest
from clients import eventually
from nodes import kill_session, refusal, status

EXTENSIONS = "CREATE EXTENSION snowflake_id; CREATE EXTENSION snowflake_id_migrate;"
USERS = """
    CREATE TABLE users (id integer PRIMARY KEY, name text, key bigint);
    INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 3000) AS n;
    ALTER TABLE users ALTER COLUMN key SET DEFAULT snowflake_nextval();
"""
STATE = "SELECT count(*), count(key), count(DISTINCT key) FROM users"


def backfill(connection, *arguments, **named):
    values = ", ".join(["%s"] * len(arguments) + [f"{name} => %s" for name in named])
    return connection.execute(f"CALL snowflake_backfill({values})", [*arguments, *named.values()]).fetchone()[0]


@pytest.mark.parametrize("batch", [1, 999, 1000, 3000, 5000])
def test_all_rows(migrating, batch):
    """Whether batches end where the table does or not; again, nothing is left to do."""
    migrating.execute(USERS.replace("3000", "300" if batch == 1 else "3000"))
    rows = migrating.execute("SELECT count(*) FROM users").fetchone()[0]
    assert backfill(migrating, "users", "key", batch=batch) == rows
    assert migrating.execute(STATE).fetchone() == (rows, rows, rows)
    # Each batch is a transaction of its own.
    transactions = migrating.execute("SELECT count(DISTINCT xmin::text) FROM users").fetchone()[0]
    assert transactions == -(-rows // batch)
    assert backfill(migrating, "users", "key", batch=batch) == 0


KEYS = {
    "two columns": "a smallint, b text, PRIMARY KEY (b, a)",
    "a domain and an enum": "a positive, b mood, PRIMARY KEY (b, a)",
    "a domain's other collation": 'a integer, b letters COLLATE "POSIX", PRIMARY KEY (b, a)',
    "a text with a quote": 'a integer, b text, "c "" d" text GENERATED ALWAYS AS (b || a) STORED, PRIMARY KEY ("c "" d")',
    "partitions": "a integer, b text, PRIMARY KEY (a, b)) PARTITION BY HASH (b",
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys(migrating, kind):
    """A copy of another column, along primary keys of every kind."""
    migrating.execute(
        f"""
        CREATE DOMAIN positive AS integer CHECK (value > 0); CREATE DOMAIN letters AS text COLLATE "C"; CREATE TYPE mood AS ENUM ('x''', '{{"', 'a');
        CREATE TABLE items ({KEYS[kind]}); ALTER TABLE items ADD COLUMN old integer, ADD COLUMN new bigint;
        """
    )
    if kind == "partitions":
        migrating.execute("CREATE TABLE i1 PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE i2 PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER 1)")
    of = "b::mood" if kind == "a domain and an enum" else "b"
    migrating.execute(f"""INSERT INTO items (a, b, old) SELECT n, {of}, n * 7 FROM generate_series(1, 100) AS n, unnest(ARRAY['x''', '{{"', 'a']) AS b""")
    assert backfill(migrating, "items", "new", "old", "new IS DISTINCT FROM old", 7) == 300
    assert migrating.execute("SELECT bool_and(new = old) FROM items").fetchone() == (True,)
    migrating.execute("UPDATE items SET new = 1 WHERE a = 50")
    assert backfill(migrating, "items", "new", "old", "new IS DISTINCT FROM old", 7) == 3


def test_keys_that_look_alike(migrating):
    """As the session shows them; and an expression ends with a comment."""
    migrating.execute("CREATE TABLE items (id float8 PRIMARY KEY, key bigint); INSERT INTO items SELECT 1 + n * 1e-9 FROM generate_series(1, 50) AS n")
    migrating.execute("SET extra_float_digits = -10; SET statement_timeout = '1min'")
    assert backfill(migrating, "items", "key", "7 -- seven", "key IS NULL -- not yet", 10) == 50
    assert migrating.execute("SELECT count(*) FROM items WHERE key = 7").fetchone() == (50,)
    # It is the session's own again.
    assert migrating.execute("SHOW extra_float_digits").fetchone() == ("-10",)


@pytest.mark.parametrize("victim", ["session", "server", "cancelled"])
def test_it_goes_on(start_server, connect, victim):
    """After kill -9 of the session and of the server, midway, and after a cancel: what was filled stays as it is."""
    server = start_server()
    connection = connect(server)
    connection.execute(f"{EXTENSIONS} {USERS}")
    eventually(lambda: status(connection).state == "ready")
    filling, ended = connect(server), []
    pid = filling.info.backend_pid

    def fill():
        try:
            # It would take an hour.
            backfill(filling, "users", "key", batch=100, pause="2 minutes")
        except psycopg.Error as error:
            ended.append(error.sqlstate)

    thread = threading.Thread(target=fill)
    thread.start()
    # The first batch is committed, and it waits.
    filled = "SELECT id, key FROM users WHERE key IS NOT NULL ORDER BY id"
    rows = eventually(lambda: connection.execute(filled).fetchall())
    assert [row[0] for row in rows] == list(range(1, 101))
    if victim == "server":
        server.kill9()
        server.start()
    elif victim == "session":
        kill_session(server, pid)
    else:
        eventually(lambda: connection.execute("SELECT pg_cancel_backend(%s) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'", [pid, pid]).fetchone())
    thread.join()
    assert ended == (["57014"] if victim == "cancelled" else [None])

    def back():
        try:
            session = connect(server)
            return session.execute("SELECT snowflake_nextval()") and session
        except psycopg.Error:
            return None

    connection = eventually(back)
    assert connection.execute(filled).fetchall()[:100] == rows
    assert backfill(connection, "users", "key", batch=100) == 2900
    assert connection.execute(STATE).fetchone() == (3000, 3000, 3000)
    assert connection.execute(filled).fetchall()[:100] == rows


def test_with_clients(server, database, migrating, connect):
    """Clients change and insert rows meanwhile: nothing is lost, and a row that one has locked is waited for."""
    migrating.execute(USERS)
    client = connect(server, database)
    locked = connect(server, database, autocommit=False)
    locked.execute("UPDATE users SET name = 'changed' WHERE id = 1500")
    done = []
    filling = connect(server, database)
    thread = threading.Thread(target=lambda: done.append(backfill(filling, "users", "key", batch=50)))
    thread.start()
    eventually(lambda: client.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", [filling.info.backend_pid]).fetchone() == (1,))
    # All before it is committed: others write there.
    client.execute("UPDATE users SET name = 'new' WHERE id = 1; INSERT INTO users SELECT n, 'new' FROM generate_series(3001, 3100) AS n")
    locked.commit()
    thread.join()
    assert done == [3000]
    assert client.execute(STATE).fetchone() == (3100, 3100, 3100)
    assert client.execute("SELECT name FROM users WHERE id IN (1, 1500) ORDER BY id").fetchall() == [("new",), ("changed",)]
    for session in filling, locked, client:
        session.close()


def test_rights(server, database, migrating, connect):
    """The owner's rows are filled by a superuser as the owner: triggers, expressions, policies. Others may not."""
    migrating.execute(
        f"""
        {USERS} CREATE ROLE owner_of_users LOGIN; CREATE ROLE stranger_to_users LOGIN;
        GRANT ALL ON SCHEMA public TO owner_of_users; ALTER TABLE users OWNER TO owner_of_users; GRANT ALL ON users TO stranger_to_users;
        ALTER TABLE users ADD COLUMN who text; ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY;
        CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN new.who := current_user; RETURN new; END$$;
        CREATE TRIGGER who BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION who();
        """
    )
    try:
        stranger = connect(server, database, user="stranger_to_users")
        diag = refusal(stranger, "CALL snowflake_backfill('users', 'key')")
        assert (diag.sqlstate, diag.message_primary) == ("42501", "must be owner of table public.users")
        # Names of the caller's schemas are nobody's.
        migrating.execute("SET search_path = public")
        assert refusal(migrating, "CALL snowflake_backfill('users', 'key', '(SELECT max(id) FROM users)')").sqlstate == "42P01"
        assert backfill(migrating, "users", "key") == 3000
        assert migrating.execute("SELECT DISTINCT who FROM users").fetchall() == [("owner_of_users",)]
        # What would be done when it commits, would be done by the superuser.
        migrating.execute("CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION who()")
        assert refusal(migrating, "CALL snowflake_backfill('users', 'key', '1', 'true')").sqlstate == "42501"
        stranger.close()
    finally:
        migrating.execute("DROP OWNED BY owner_of_users, stranger_to_users; DROP ROLE owner_of_users, stranger_to_users")


@pytest.mark.parametrize(
    "call, sqlstate, message",
    [
        ("NULL, 'key'", "22004", "relation, column_name and batch must not be null"),
        ("'users', NULL", "22004", "relation, column_name and batch must not be null"),
        ("'users', 'key', batch => 0", "22023", "batch is out of range: 0"),
        ("'users', 'key', batch => 1000001", "22023", "batch is out of range: 1000001"),
        ("'users', 'other'", "42703", 'column "other" does not exist'),
        ("'users', 'name'", "55000", "column name of public.users has no default to be filled with"),
        ("'users', 'id', 'id + 1000', 'true'", "55000", "public.users has no primary key that batches can go along"),
        ("'bare', 'key'", "55000", "public.bare has no primary key that batches can go along"),
        ("'odd', 'key'", "55000", "public.odd has no primary key that batches can go along"),
        ("12345", "42883", None),
        ("12345, 'key'", "42P01", "relation with OID 12345 does not exist"),
    ],
)
def test_refused(migrating, call, sqlstate, message):
    migrating.execute(f"{USERS} CREATE TABLE bare (key bigint); CREATE TYPE pair AS (a integer, b integer); CREATE TABLE odd (id pair PRIMARY KEY, key bigint)")
    diag = refusal(migrating, f"CALL snowflake_backfill({call})")
    assert diag.sqlstate == sqlstate
    assert message is None or diag.message_primary == message
    assert migrating.execute(STATE).fetchone() == (3000, 0, 0)


def test_in_a_transaction(migrating):
    """It cannot commit there, and has done nothing."""
    migrating.execute(USERS)
    with pytest.raises(psycopg.errors.InvalidTransactionTermination), migrating.transaction():
        migrating.execute("CALL snowflake_backfill('users', 'key')")
    assert migrating.execute(STATE).fetchone() == (3000, 0, 0)
