-- A shard behind PL/Proxy: the tables, and the functions that the router calls. See plproxy.sql.

CREATE EXTENSION IF NOT EXISTS snowflake_id;

CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL);
-- Every shard has all countries, by the same id.
CREATE TABLE countries (id bigint PRIMARY KEY DEFAULT snowflake_nextval(), name text NOT NULL);

CREATE FUNCTION add_customer(id bigint, name text) RETURNS bigint
LANGUAGE sql AS 'INSERT INTO customers VALUES ($1, $2) RETURNING customers.id';

CREATE FUNCTION customer_name(id bigint) RETURNS text STABLE
LANGUAGE sql AS 'SELECT c.name FROM customers AS c WHERE c.id = $1';

CREATE FUNCTION customers_since(at timestamptz) RETURNS TABLE (id bigint, name text) STABLE
LANGUAGE sql AS 'SELECT c.id, c.name FROM customers AS c WHERE c.id >= snowflake_lower_bound($1)';

CREATE FUNCTION add_country(id bigint, name text) RETURNS SETOF bigint
LANGUAGE sql AS 'INSERT INTO countries VALUES (COALESCE($1, snowflake_nextval()), $2) RETURNING countries.id';
