"""Snowflake ids with psycopg. DATABASE_URL names a database with ../schema.sql in it.

    python example.py tour     what docs/COOKBOOK.md shows; prints what it got
    python example.py retry    one order, however often it takes; prints why it tried again
"""

import json
import os
import sys
import time

import psycopg

URL = os.environ["DATABASE_URL"]
GREATEST = 2**63 - 1

# What passes by itself. 40001, 40P01: others were in the way. 55P03, 58000: no ids just now.
# 25006, 57P01 to 57P03: the server has been stopped or replaced; connect anew.
PASSES = {"40001", "40P01", "55P03", "58000", "25006", "57P01", "57P02", "57P03"}


def one(connection):
    """The server makes the key, and RETURNING brings it."""
    query = "INSERT INTO orders (customer) VALUES (%s) RETURNING id"
    return connection.execute(query, ["Ada"]).fetchone()[0]


def bulk(connection):
    """Many rows in one round trip, with their keys."""
    customers = [f"customer {number}" for number in range(1000)]
    query = "INSERT INTO orders (customer) SELECT unnest(%s::text[]) RETURNING id"
    return [key for (key,) in connection.execute(query, [customers])]


def load(connection):
    """The fastest way; the keys are the default's."""
    with connection.cursor() as cursor, cursor.copy("COPY orders (customer) FROM STDIN") as copy:
        for number in range(1000):
            copy.write_row([f"loaded {number}"])


def graph(connection):
    """A block of keys ahead: all objects refer to each other before a row is written."""
    keys = [key for (key,) in connection.execute("SELECT snowflake_batch(%s)", [4])]
    order, *lines = keys
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (%s, %s)", [order, "Grace"])
        rows = [(key, order, f"product {key}") for key in lines]
        cursor.executemany("INSERT INTO lines VALUES (%s, %s, %s)", rows)
    return keys


def pages(connection, size):
    """The newest first; the last key of a page is where the next one begins."""
    query = "SELECT id, customer FROM orders WHERE id < %s ORDER BY id DESC LIMIT %s"
    last = GREATEST
    while page := connection.execute(query, [last, size]).fetchall():
        yield page
        last = page[-1][0]


def follow(connection, last, settled="1 minute"):
    """What has come behind a key, but for what is so new that a smaller key may yet be committed."""
    query = """
        SELECT id FROM orders
        WHERE id > %s AND id < snowflake_lower_bound(now() - %s::interval) ORDER BY id LIMIT 1000
    """
    return [key for (key,) in connection.execute(query, [last, settled])]


def late(connection):
    """What a reader misses who asks for all keys behind the last one, and who waits does not."""
    begin = connection.execute("SELECT max(id) FROM orders").fetchone()[0]
    naive = "SELECT id FROM orders WHERE id > %s ORDER BY id"
    with psycopg.connect(URL) as other:
        slow = one(other)
        fast = one(connection)
        seen = [key for (key,) in connection.execute(naive, [begin])]
        waited = follow(connection, begin)
        other.commit()
    seen += [key for (key,) in connection.execute(naive, [seen[-1]])]
    followed = []
    while fast not in followed:
        # Nobody else writes here: all has settled as soon as its time is over.
        followed = follow(connection, begin, "0")
    return {"keys": [slow, fast], "naive": seen, "waited": waited, "followed": followed}


def as_json(connection, key):
    """As strings: JavaScript would round the numbers."""
    key, customer = connection.execute("SELECT id, customer FROM orders WHERE id = %s", [key]).fetchone()
    return json.dumps({"id": str(key), "customer": customer})


def with_retries(work, attempts=10):
    """A whole transaction, and again where what has stopped it passes by itself."""
    for attempt in range(attempts):
        try:
            with psycopg.connect(URL) as connection:
                return work(connection)
        except psycopg.Error as error:
            # Without a SQLSTATE the connection was lost, or none was made.
            lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
            if not (lost or error.sqlstate in PASSES) or attempt == attempts - 1:
                raise
            print(json.dumps({"retry": error.sqlstate}), flush=True)
        time.sleep(min(0.1 * 2**attempt, 5))


def retry():
    """With the key made first, a commit whose answer was lost is found instead of made twice."""
    key = with_retries(lambda connection: connection.execute("SELECT snowflake_nextval()").fetchone()[0])
    query = "INSERT INTO orders VALUES (%s, %s) ON CONFLICT (id) DO NOTHING"
    with_retries(lambda connection: connection.execute(query, [key, "Barbara"]))
    return key


def main():
    if sys.argv[1] == "retry":
        print(json.dumps({"key": str(retry())}))
        return
    with psycopg.connect(URL, autocommit=True) as connection:
        first = one(connection)
        load(connection)
        result = {
            "one": first,
            "bulk": bulk(connection),
            "graph": graph(connection),
            "pages": [[key for key, _ in page] for page in pages(connection, 500)],
            "late": late(connection),
        }
        print(json.dumps({**texts(result), "json": as_json(connection, first)}))


def texts(value):
    """All keys in it as strings."""
    if isinstance(value, dict):
        return {name: texts(part) for name, part in value.items()}
    return [texts(part) for part in value] if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
