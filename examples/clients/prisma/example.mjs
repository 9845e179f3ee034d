// Snowflake ids with Prisma. DATABASE_URL names a database with ../schema.sql in it.
//
//     node example.mjs tour     what docs/COOKBOOK.md shows; prints what it got
//     node example.mjs retry    one order, however often it takes; prints why it tried again
import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from '@prisma/client';
import { GREATEST, withRetries } from '../node/clients.mjs';

const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL }) });

// The server makes the key, and RETURNING brings it.
async function one(prisma) {
  const { id } = await prisma.order.create({ data: { customer: 'Ada' } });
  return id;
}

// Many rows in one statement, with their keys.
async function bulk(prisma) {
  const data = Array.from({ length: 1000 }, (_, number) => ({ customer: `customer ${number}` }));
  return (await prisma.order.createManyAndReturn({ data, select: { id: true } })).map((row) => row.id);
}

async function keys(prisma, count) {
  return (await prisma.$queryRaw`SELECT snowflake_batch(${count}::int) AS key`).map((row) => row.key);
}

// A block of keys ahead: all objects refer to each other before a row is written.
async function graph(prisma) {
  const [order, ...others] = await keys(prisma, 4);
  await prisma.$transaction([
    prisma.order.create({ data: { id: order, customer: 'Grace' } }),
    prisma.line.createMany({ data: others.map((id) => ({ id, orderId: order, product: `product ${id}` })) }),
  ]);
  return [order, ...others];
}

// The newest first; the last key of a page is where the next one begins.
async function* pages(prisma, size) {
  for (let last = BigInt(GREATEST); ; ) {
    const page = await prisma.order.findMany({ where: { id: { lt: last } }, orderBy: { id: 'desc' }, take: size });
    if (page.length === 0) return;
    yield page;
    last = page.at(-1).id;
  }
}

// What has come behind a key, but for what is so new that a smaller key may yet be committed.
async function follow(prisma, last, settled = '1 minute') {
  const rows = await prisma.$queryRaw`SELECT id FROM orders
    WHERE id > ${last} AND id < snowflake_lower_bound(now() - ${settled}::text::interval) ORDER BY id LIMIT 1000`;
  return rows.map((row) => row.id);
}

// What a reader misses who asks for all keys behind the last one, and who waits does not.
async function late(prisma) {
  const { id: begin } = await prisma.order.findFirst({ orderBy: { id: 'desc' } });
  const naive = async (last) =>
    (await prisma.order.findMany({ where: { id: { gt: last } }, orderBy: { id: 'asc' } })).map((row) => row.id);
  const result = await prisma.$transaction(async (tx) => {
    const slow = await one(tx);
    const fast = await one(prisma);
    return { keys: [slow, fast], naive: await naive(begin), waited: await follow(prisma, begin) };
  });
  result.naive.push(...(await naive(result.naive.at(-1))));
  result.followed = [];
  // Nobody else writes here: all has settled as soon as its time is over.
  while (!result.followed.includes(result.keys[1])) result.followed = await follow(prisma, begin, '0');
  return result;
}

// JSON.stringify does not take a bigint. As strings: JavaScript would round the numbers.
const asStrings = (_, value) => (typeof value === 'bigint' ? value.toString() : value);

async function asJson(prisma, id) {
  return JSON.stringify(await prisma.order.findUnique({ where: { id } }), asStrings);
}

// With the key made first, a commit whose answer was lost is found instead of made twice.
async function retry(prisma) {
  const [id] = await withRetries(() => keys(prisma, 1));
  await withRetries(() => prisma.order.createMany({ data: [{ id, customer: 'Barbara' }], skipDuplicates: true }));
  return id;
}

if (process.argv[2] === 'retry') {
  console.log(JSON.stringify({ key: await retry(prisma) }, asStrings));
} else {
  const result = { one: await one(prisma), bulk: await bulk(prisma), graph: await graph(prisma), pages: [] };
  for await (const page of pages(prisma, 500)) result.pages.push(page.map((row) => row.id));
  result.late = await late(prisma);
  result.json = await asJson(prisma, result.one);
  console.log(JSON.stringify(result, asStrings));
}
await prisma.$disconnect();
