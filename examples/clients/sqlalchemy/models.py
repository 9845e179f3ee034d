"""The tables, for SQLAlchemy."""

from sqlalchemy import BigInteger, ForeignKey, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """What the models have in common."""


class Order(Base):
    """An order, whose key the server makes where none is given."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, server_default=text("snowflake_nextval()"))
    customer: Mapped[str] = mapped_column(Text)
    lines: Mapped[list["Line"]] = relationship(back_populates="order")


class Line(Base):
    """A line of it."""

    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, server_default=text("snowflake_nextval()"))
    order_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("orders.id"), index=True)
    product: Mapped[str] = mapped_column(Text)
    order: Mapped[Order] = relationship(back_populates="lines")
