"""Snowflake ids with Django. DATABASE_URL names a database with extension snowflake_id.

    python example.py tour     what docs/COOKBOOK.md shows; prints what it got
    python example.py retry    one order, however often it takes; prints why it tried again
"""

import json
import os
import sys
import time

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

URL = conninfo_to_dict(os.environ["DATABASE_URL"])
DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": URL["host"],
    "PORT": URL["port"],
    "USER": URL["user"],
    "NAME": URL["dbname"],
}
settings.configure(INSTALLED_APPS=["shop"], DATABASES={"default": DATABASE, "other": DATABASE})
django.setup()

# They can be loaded only now.
from django.core.management import call_command
from django.db import Error, connection, transaction
from django.db.models import DateTimeField, ExpressionWrapper, Func, Value
from django.db.models.functions import Now
from shop.models import Line, Order

GREATEST = 2**63 - 1

# What passes by itself: see ../psycopg/example.py.
PASSES = {"40001", "40P01", "55P03", "58000", "25006", "57P01", "57P02", "57P03"}


def migrate():
    """As `manage.py migrate`; whether `makemigrations` would still change something."""
    call_command("migrate", verbosity=0)
    try:
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
    except SystemExit:
        return ["makemigrations"]
    return []


def one():
    """The server makes the key, and RETURNING brings it."""
    return Order.objects.create(customer="Ada").pk


def keys(count):
    """A block of keys ahead."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT snowflake_batch(%s)", [count])
        return [key for (key,) in cursor.fetchall()]


def bulk():
    """Many rows in one statement. Django 5.2 does not read keys back here that the server has made, so they are given."""
    block = keys(1000)
    orders = [Order(id=key, customer=f"customer {number}") for number, key in enumerate(block)]
    Order.objects.bulk_create(orders)
    return block


def load():
    """Without them; what is known of the first one's key afterwards."""
    orders = Order.objects.bulk_create([Order(customer=f"loaded {number}") for number in range(1000)])
    return type(orders[0].pk).__name__


def graph():
    """All objects refer to each other before a row is written; two statements write them."""
    first, *others = block = keys(4)
    order = Order(id=first, customer="Grace")
    lines = [Line(id=key, order=order, product=f"product {key}") for key in others]
    with transaction.atomic():
        Order.objects.bulk_create([order])
        Line.objects.bulk_create(lines)
    return block


def pages(size):
    """The newest first; the last key of a page is where the next one begins."""
    last = GREATEST
    while page := list(Order.objects.filter(id__lt=last).order_by("-id")[:size]):
        yield page
        last = page[-1].pk


def follow(last, settled="1 minute"):
    """What has come behind a key, but for what is so new that a smaller key may yet be committed."""
    until = ExpressionWrapper(Now() - Func(Value(settled), template="%(expressions)s::interval"), DateTimeField())
    bound = Func(until, function="snowflake_lower_bound", output_field=Order._meta.pk)
    query = Order.objects.filter(id__gt=last, id__lt=bound).order_by("id")
    return list(query.values_list("id", flat=True)[:1000])


def late():
    """What a reader misses who asks for all keys behind the last one, and who waits does not."""
    begin = Order.objects.latest("id").pk
    naive = Order.objects.order_by("id").values_list("id", flat=True)
    with transaction.atomic(using="other"):
        slow = Order.objects.using("other").create(customer="Ada").pk
        fast = one()
        seen = list(naive.filter(id__gt=begin))
        waited = follow(begin)
    seen += naive.filter(id__gt=seen[-1])
    followed = []
    while fast not in followed:
        # Nobody else writes here: all has settled as soon as its time is over.
        followed = follow(begin, "0")
    return {"keys": [slow, fast], "naive": seen, "waited": waited, "followed": followed}


def as_json(key):
    """As strings: JavaScript would round the numbers."""
    order = Order.objects.get(pk=key)
    return json.dumps({"id": str(order.pk), "customer": order.customer})


def with_retries(work, attempts=10):
    """A whole transaction, and again where what has stopped it passes by itself."""
    for attempt in range(attempts):
        try:
            with transaction.atomic():
                return work()
        except Error as error:
            # Django's errors have psycopg's as their cause. Without a SQLSTATE the connection was lost.
            sqlstate = getattr(error.__cause__, "sqlstate", None)
            if sqlstate not in {None, *PASSES} or attempt == attempts - 1:
                raise
            connection.close()
            print(json.dumps({"retry": sqlstate}), flush=True)
        time.sleep(min(0.1 * 2**attempt, 5))


def retry():
    """With the key made first, a commit whose answer was lost is found instead of made twice."""
    (key,) = with_retries(lambda: keys(1))
    order = Order(id=key, customer="Barbara")
    with_retries(lambda: Order.objects.bulk_create([order], ignore_conflicts=True))
    return key


def main():
    if sys.argv[1] == "retry":
        print(json.dumps({"key": str(retry())}))
        return
    changes = migrate()
    first = one()
    result = {
        "one": first,
        "bulk": bulk(),
        "unknown": load(),
        "graph": graph(),
        "pages": [[order.pk for order in page] for page in pages(500)],
        "late": late(),
    }
    print(json.dumps({**texts(result), "changes": changes, "json": as_json(first)}))


def texts(value):
    """All keys in it as strings."""
    if isinstance(value, dict):
        return {name: texts(part) for name, part in value.items()}
    return [texts(part) for part in value] if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
