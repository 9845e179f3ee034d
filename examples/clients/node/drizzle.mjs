// Snowflake ids with Drizzle. DATABASE_URL names a database with ../schema.sql in it.
//
//     node drizzle.mjs tour     what docs/COOKBOOK.md shows; prints what it got
//     node drizzle.mjs retry    one order, however often it takes; prints why it tried again
import { and, desc, eq, gt, lt, max, sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import { bigint, pgTable, text } from 'drizzle-orm/pg-core';
import pg from 'pg';
import { GREATEST, withRetries } from './clients.mjs';

// Mode 'number' would round keys.
const key = (name) => bigint(name, { mode: 'bigint' });
const orders = pgTable('orders', {
  id: key('id').primaryKey().default(sql`snowflake_nextval()`),
  customer: text('customer').notNull(),
});
const lines = pgTable('lines', {
  id: key('id').primaryKey().default(sql`snowflake_nextval()`),
  orderId: key('order_id').notNull().references(() => orders.id),
  product: text('product').notNull(),
});

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
pool.on('error', () => {});
const db = drizzle({ client: pool });

// The server makes the key, and RETURNING brings it.
async function one(db) {
  const [row] = await db.insert(orders).values({ customer: 'Ada' }).returning({ id: orders.id });
  return row.id;
}

// Many rows in one statement, with their keys.
async function bulk(db) {
  const rows = Array.from({ length: 1000 }, (_, number) => ({ customer: `customer ${number}` }));
  return (await db.insert(orders).values(rows).returning({ id: orders.id })).map((row) => row.id);
}

async function keys(db, count) {
  const { rows } = await db.execute(sql`SELECT snowflake_batch(${count}) AS key`);
  return rows.map((row) => BigInt(row.key));
}

// A block of keys ahead: all objects refer to each other before a row is written.
async function graph(db) {
  const [order, ...others] = await keys(db, 4);
  await db.transaction(async (tx) => {
    await tx.insert(orders).values({ id: order, customer: 'Grace' });
    await tx.insert(lines).values(others.map((id) => ({ id, orderId: order, product: `product ${id}` })));
  });
  return [order, ...others];
}

// The newest first; the last key of a page is where the next one begins.
async function* pages(db, size) {
  for (let last = BigInt(GREATEST); ; ) {
    const page = await db.select().from(orders).where(lt(orders.id, last)).orderBy(desc(orders.id)).limit(size);
    if (page.length === 0) return;
    yield page;
    last = page.at(-1).id;
  }
}

// What has come behind a key, but for what is so new that a smaller key may yet be committed.
async function follow(db, last, settled = '1 minute') {
  const bound = sql`snowflake_lower_bound(now() - ${settled}::interval)`;
  const query = db.select({ id: orders.id }).from(orders).where(and(gt(orders.id, last), sql`${orders.id} < ${bound}`));
  return (await query.orderBy(orders.id).limit(1000)).map((row) => row.id);
}

// What a reader misses who asks for all keys behind the last one, and who waits does not.
async function late(db) {
  const [{ begin }] = await db.select({ begin: max(orders.id) }).from(orders);
  const naive = async (last) =>
    (await db.select({ id: orders.id }).from(orders).where(gt(orders.id, last)).orderBy(orders.id)).map((row) => row.id);
  const result = await db.transaction(async (tx) => {
    const slow = await one(tx);
    const fast = await one(db);
    return { keys: [slow, fast], naive: await naive(begin), waited: await follow(db, begin) };
  });
  result.naive.push(...(await naive(result.naive.at(-1))));
  result.followed = [];
  // Nobody else writes here: all has settled as soon as its time is over.
  while (!result.followed.includes(result.keys[1])) result.followed = await follow(db, begin, '0');
  return result;
}

// JSON.stringify does not take a bigint. As strings: JavaScript would round the numbers.
const asStrings = (_, value) => (typeof value === 'bigint' ? value.toString() : value);

async function asJson(db, id) {
  const [order] = await db.select().from(orders).where(eq(orders.id, id));
  return JSON.stringify(order, asStrings);
}

// With the key made first, a commit whose answer was lost is found instead of made twice.
async function retry(db) {
  const [id] = await withRetries(() => keys(db, 1));
  await withRetries(() => db.insert(orders).values({ id, customer: 'Barbara' }).onConflictDoNothing());
  return id;
}

if (process.argv[2] === 'retry') {
  console.log(JSON.stringify({ key: await retry(db) }, asStrings));
} else {
  const result = { one: await one(db), bulk: await bulk(db), graph: await graph(db), pages: [] };
  for await (const page of pages(db, 500)) result.pages.push(page.map((row) => row.id));
  result.late = await late(db);
  result.json = await asJson(db, result.one);
  console.log(JSON.stringify(result, asStrings));
}
await pool.end();
