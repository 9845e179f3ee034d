"""Orders and their lines, as makemigrations has written them."""

import django.db.models.deletion
from django.db import migrations, models

from ..models import SnowflakeNextval


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigIntegerField(db_default=SnowflakeNextval(), primary_key=True, serialize=False)),
                ("customer", models.TextField()),
            ],
            options={"db_table": "orders"},
        ),
        migrations.CreateModel(
            name="Line",
            fields=[
                ("id", models.BigIntegerField(db_default=SnowflakeNextval(), primary_key=True, serialize=False)),
                ("product", models.TextField()),
                ("order", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="lines", to="shop.order")),
            ],
            options={"db_table": "lines"},
        ),
    )
