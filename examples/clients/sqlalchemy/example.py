"""Snowflake ids with SQLAlchemy and alembic. DATABASE_URL names a database with extension snowflake_id.

    python example.py tour     what docs/COOKBOOK.md shows; prints what it got
    python example.py retry    one order, however often it takes; prints why it tried again
"""

import json
import os
import sys
import time
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from models import Base, Line, Order
from sqlalchemy import create_engine, event, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"))
GREATEST = 2**63 - 1

# What passes by itself: see ../psycopg/example.py.
PASSES = {"40001", "40P01", "55P03", "58000", "25006", "57P01", "57P02", "57P03"}


def migrate():
    """As `alembic upgrade head` does; what autogenerate would still change."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return [str(change) for change in compare_metadata(context, Base.metadata) if "alembic_version" not in str(change)]


def one(session):
    """The server makes the key, and RETURNING brings it at the flush."""
    order = Order(customer="Ada")
    session.add(order)
    session.flush()
    return order.id


def bulk(session):
    """Many rows, with their keys: some statements of many rows each."""
    rows = [{"customer": f"customer {number}"} for number in range(1000)]
    return list(session.scalars(insert(Order).returning(Order.id), rows))


def keys(session, count):
    """A block of keys ahead."""
    return list(session.scalars(text("SELECT snowflake_batch(:count)"), {"count": count}))


def graph(session):
    """With keys ahead, objects are written in batches; without, each row is a statement of its own."""
    first, *others = block = keys(session, 4)
    order = Order(id=first, customer="Grace")
    order.lines = [Line(id=key, product=f"product {key}") for key in others]
    session.add(order)
    session.flush()
    return block


def statements(session, objects):
    """How many statements it takes to write objects."""
    seen = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    session.add_all(objects)
    session.flush()
    return len(seen)


def pages(session, size):
    """The newest first; the last key of a page is where the next one begins."""
    last = GREATEST
    query = select(Order.id, Order.customer).order_by(Order.id.desc()).limit(size)
    while page := session.execute(query.where(Order.id < last)).all():
        yield page
        last = page[-1].id


def follow(session, last, settled="1 minute"):
    """What has come behind a key, but for what is so new that a smaller key may yet be committed."""
    bound = func.snowflake_lower_bound(func.now() - text("cast(:settled AS interval)").bindparams(settled=settled))
    query = select(Order.id).where(Order.id > last, Order.id < bound).order_by(Order.id).limit(1000)
    return list(session.scalars(query))


def late(session):
    """What a reader misses who asks for all keys behind the last one, and who waits does not."""
    begin = session.scalar(select(func.max(Order.id)))
    naive = select(Order.id).order_by(Order.id)
    with Session(engine) as other:
        slow = one(other)
        fast = one(session)
        session.commit()
        seen = list(session.scalars(naive.where(Order.id > begin)))
        waited = follow(session, begin)
        other.commit()
    seen += session.scalars(naive.where(Order.id > seen[-1]))
    followed = []
    while fast not in followed:
        # Nobody else writes here. now() is when a transaction began.
        session.commit()
        followed = follow(session, begin, "0")
    return {"keys": [slow, fast], "naive": seen, "waited": waited, "followed": followed}


def as_json(session, key):
    """As strings: JavaScript would round the numbers."""
    order = session.get_one(Order, key)
    return json.dumps({"id": str(order.id), "customer": order.customer})


def with_retries(work, attempts=10):
    """A whole transaction, and again where what has stopped it passes by itself."""
    for attempt in range(attempts):
        try:
            with Session(engine) as session, session.begin():
                return work(session)
        except DBAPIError as error:
            sqlstate = error.orig.sqlstate
            if not (error.connection_invalidated or sqlstate in PASSES) or attempt == attempts - 1:
                raise
            print(json.dumps({"retry": sqlstate}), flush=True)
        time.sleep(min(0.1 * 2**attempt, 5))


def retry():
    """With the key made first, a commit whose answer was lost is found instead of made twice."""
    (key,) = with_retries(lambda session: keys(session, 1))
    query = upsert(Order).values(id=key, customer="Barbara").on_conflict_do_nothing()
    with_retries(lambda session: session.execute(query))
    return key


def main():
    if sys.argv[1] == "retry":
        print(json.dumps({"key": str(retry())}))
        return
    changes = migrate()
    with Session(engine) as session:
        first = one(session)
        result = {"one": first, "bulk": bulk(session), "graph": graph(session)}
        session.commit()
        result["pages"] = [[order.id for order in page] for page in pages(session, 500)]
        result["late"] = late(session)
        named = [Order(id=key, customer="named") for key in keys(session, 100)]
        more = {
            "changes": changes,
            "with keys": statements(session, named),
            "without": statements(session, [Order(customer="not named") for _ in range(100)]),
            "json": as_json(session, first),
        }
        session.rollback()
    print(json.dumps({**texts(result), **more}))


def texts(value):
    """All keys in it as strings."""
    if isinstance(value, dict):
        return {name: texts(part) for name, part in value.items()}
    return [texts(part) for part in value] if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
