-- The load of both: a shard's customers write tickets, and get replies.
--
--   psql -v shard=1 -v rows=1000 -f fill.sql

WITH ticket AS (
    INSERT INTO tickets (customer) SELECT 'shard ' || :shard || ', customer ' || n FROM generate_series(1, :rows) AS n
    RETURNING id, customer
)
INSERT INTO replies (ticket_id, note) SELECT id, 'to ' || customer FROM ticket;
