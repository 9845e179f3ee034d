-- What psycopg, node-postgres, Drizzle, Prisma, JDBC and tokio-postgres are shown with. SQLAlchemy, Django and
-- Rails make the same tables by migrations of their own.
CREATE TABLE orders (
    id       bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    customer text NOT NULL
);
CREATE TABLE lines (
    id       bigint PRIMARY KEY DEFAULT snowflake_nextval(),
    order_id bigint NOT NULL REFERENCES orders,
    product  text NOT NULL
);
CREATE INDEX ON lines (order_id);
