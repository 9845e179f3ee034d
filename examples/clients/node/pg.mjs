// Snowflake ids with node-postgres. DATABASE_URL names a database with ../schema.sql in it.
//
//     node pg.mjs tour     what docs/COOKBOOK.md shows; prints what it got
//     node pg.mjs retry    one order, however often it takes; prints why it tried again
//
// node-postgres reads bigint as a string, and JSON has the key as it is.
import pg from 'pg';
import { GREATEST, withRetries } from './clients.mjs';

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
// An error of a connection that is idle is nobody's else.
pool.on('error', () => {});

// The server makes the key, and RETURNING brings it.
async function one(client) {
  const { rows } = await client.query('INSERT INTO orders (customer) VALUES ($1) RETURNING id', ['Ada']);
  return rows[0].id;
}

// Many rows in one round trip, with their keys.
async function bulk(client) {
  const customers = Array.from({ length: 1000 }, (_, number) => `customer ${number}`);
  const query = 'INSERT INTO orders (customer) SELECT unnest($1::text[]) RETURNING id';
  const { rows } = await client.query(query, [customers]);
  return rows.map((row) => row.id);
}

async function keys(client, count) {
  const { rows } = await client.query('SELECT snowflake_batch($1) AS key', [count]);
  return rows.map((row) => row.key);
}

// A block of keys ahead: all objects refer to each other before a row is written.
async function graph() {
  const client = await pool.connect();
  try {
    const [order, ...lines] = await keys(client, 4);
    await client.query('BEGIN');
    await client.query('INSERT INTO orders VALUES ($1, $2)', [order, 'Grace']);
    await client.query(
      'INSERT INTO lines SELECT key, $2, product FROM unnest($1::bigint[], $3::text[]) AS l (key, product)',
      [lines, order, lines.map((key) => `product ${key}`)],
    );
    await client.query('COMMIT');
    return [order, ...lines];
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

// The newest first; the last key of a page is where the next one begins.
async function* pages(client, size) {
  const query = 'SELECT id, customer FROM orders WHERE id < $1 ORDER BY id DESC LIMIT $2';
  for (let last = GREATEST; ; ) {
    const { rows } = await client.query(query, [last, size]);
    if (rows.length === 0) return;
    yield rows;
    last = rows.at(-1).id;
  }
}

// What has come behind a key, but for what is so new that a smaller key may yet be committed.
async function follow(client, last, settled = '1 minute') {
  const query = `SELECT id FROM orders
    WHERE id > $1 AND id < snowflake_lower_bound(now() - $2::interval) ORDER BY id LIMIT 1000`;
  const { rows } = await client.query(query, [last, settled]);
  return rows.map((row) => row.id);
}

// What a reader misses who asks for all keys behind the last one, and who waits does not.
async function late() {
  const begin = (await pool.query('SELECT max(id) AS id FROM orders')).rows[0].id;
  const naive = async (last) => (await pool.query('SELECT id FROM orders WHERE id > $1 ORDER BY id', [last])).rows.map((row) => row.id);
  const other = await pool.connect();
  await other.query('BEGIN');
  const slow = await one(other);
  const fast = await one(pool);
  const seen = await naive(begin);
  const waited = await follow(pool, begin);
  await other.query('COMMIT');
  other.release();
  seen.push(...(await naive(seen.at(-1))));
  let followed = [];
  // Nobody else writes here: all has settled as soon as its time is over.
  while (!followed.includes(fast)) followed = await follow(pool, begin, '0');
  return { keys: [slow, fast], naive: seen, waited, followed };
}

async function asJson(client, key) {
  const { rows } = await client.query('SELECT id, customer FROM orders WHERE id = $1', [key]);
  return JSON.stringify(rows[0]);
}

// With the key made first, a commit whose answer was lost is found instead of made twice.
async function retry() {
  const [key] = await withRetries(() => keys(pool, 1));
  await withRetries(() => pool.query('INSERT INTO orders VALUES ($1, $2) ON CONFLICT (id) DO NOTHING', [key, 'Barbara']));
  return key;
}

if (process.argv[2] === 'retry') {
  console.log(JSON.stringify({ key: await retry() }));
} else {
  const result = { one: await one(pool), bulk: await bulk(pool), graph: await graph(), pages: [] };
  for await (const page of pages(pool, 500)) result.pages.push(page.map((row) => row.id));
  result.late = await late();
  result.json = await asJson(pool, result.one);
  console.log(JSON.stringify(result));
}
await pool.end();
