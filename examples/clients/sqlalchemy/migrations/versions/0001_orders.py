"""Orders and their lines."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    key = {"primary_key": True, "server_default": sa.text("snowflake_nextval()")}
    op.create_table("orders", sa.Column("id", sa.BigInteger, **key), sa.Column("customer", sa.Text, nullable=False))
    op.create_table(
        "lines",
        sa.Column("id", sa.BigInteger, **key),
        sa.Column("order_id", sa.BigInteger, sa.ForeignKey("orders.id"), nullable=False, index=True),
        sa.Column("product", sa.Text, nullable=False),
    )


def downgrade():
    op.drop_table("lines")
    op.drop_table("orders")
