// Keys as JavaScript's numbers, from a node with `snowflake_id.layout = 'js53'`. DATABASE_URL names a
// database with ../schema.sql in it.
import pg from 'pg';

// Without it, node-postgres reads bigint as a string. It is for all of bigint: a number that is too large
// is an error here rather than another key.
pg.types.setTypeParser(pg.types.builtins.INT8, (text) => {
  const number = Number(text);
  if (!Number.isSafeInteger(number)) throw new RangeError(`${text} is no number of JavaScript's`);
  return number;
});

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
const { rows } = await client.query("INSERT INTO orders (customer) VALUES ('Ada') RETURNING id, id::text AS text");
console.log(JSON.stringify({ ...rows[0], back: JSON.parse(JSON.stringify(rows[0])).id }));
await client.end();
