"""The tables, for Django."""

from django.db import models


class SnowflakeNextval(models.Func):
    """The next id, made by the server."""

    function = "snowflake_nextval"
    arity = 0
    output_field = models.BigIntegerField()


class Order(models.Model):
    """An order, whose key the server makes where none is given."""

    id = models.BigIntegerField(primary_key=True, db_default=SnowflakeNextval())
    customer = models.TextField()

    class Meta:
        db_table = "orders"


class Line(models.Model):
    """A line of it."""

    id = models.BigIntegerField(primary_key=True, db_default=SnowflakeNextval())
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.TextField()

    class Meta:
        db_table = "lines"
