//! Snowflake ids with tokio-postgres. `DATABASE_URL` names a database with `../schema.sql` in it.
//!
//!     snowflake-example tour     what docs/COOKBOOK.md shows; prints what it got
//!     snowflake-example retry    one order, however often it takes; prints why it tried again

use std::env;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, GenericClient, NoTls, Row};

/// What passes by itself: see ../psycopg/example.py.
const PASSES: [&str; 8] = ["40001", "40P01", "55P03", "58000", "25006", "57P01", "57P02", "57P03"];

async fn connect() -> Result<Client, Error> {
    let url = env::var("DATABASE_URL").unwrap_or_default();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    // It ends with the client; what went wrong, the client's calls say.
    tokio::spawn(connection);
    Ok(client)
}

fn key(row: &Row) -> i64 {
    row.get(0)
}

/// The server makes the key, and RETURNING brings it.
async fn one(client: &impl GenericClient) -> Result<i64, Error> {
    let insert = "INSERT INTO orders (customer) VALUES ($1) RETURNING id";
    client.query_one(insert, &[&"Ada"]).await.map(|row| key(&row))
}

/// Many rows in one round trip, with their keys.
async fn bulk(client: &Client) -> Result<Vec<i64>, Error> {
    let customers: Vec<String> = (0..1000).map(|number| format!("customer {number}")).collect();
    let insert = "INSERT INTO orders (customer) SELECT unnest($1::text[]) RETURNING id";
    Ok(client.query(insert, &[&customers]).await?.iter().map(key).collect())
}

/// A block of keys ahead.
async fn keys(client: &impl GenericClient, count: i32) -> Result<Vec<i64>, Error> {
    Ok(client.query("SELECT snowflake_batch($1)", &[&count]).await?.iter().map(key).collect())
}

/// All objects refer to each other before a row is written.
async fn graph(client: &mut Client) -> Result<Vec<i64>, Error> {
    let block = keys(client, 4).await?;
    let (order, lines) = (block[0], &block[1..]);
    let products: Vec<String> = lines.iter().map(|key| format!("product {key}")).collect();
    // Dropped without a commit, it is rolled back.
    let transaction = client.transaction().await?;
    transaction.execute("INSERT INTO orders VALUES ($1, $2)", &[&order, &"Grace"]).await?;
    let insert = "INSERT INTO lines
        SELECT key, $1, product FROM unnest($2::bigint[], $3::text[]) AS l (key, product)";
    transaction.execute(insert, &[&order, &lines, &products]).await?;
    transaction.commit().await?;
    Ok(block)
}

/// The newest first; the last key of a page is where the next one begins.
async fn pages(client: &Client, size: i64) -> Result<Vec<Vec<i64>>, Error> {
    let query = "SELECT id, customer FROM orders WHERE id < $1 ORDER BY id DESC LIMIT $2";
    let (mut pages, mut last) = (Vec::new(), i64::MAX);
    loop {
        let page: Vec<i64> = client.query(query, &[&last, &size]).await?.iter().map(key).collect();
        let Some(&next) = page.last() else { return Ok(pages) };
        last = next;
        pages.push(page);
    }
}

/// What has come behind a key, but for what is so new that a smaller key may yet be committed.
async fn follow(client: &Client, last: i64, settled: &str) -> Result<Vec<i64>, Error> {
    let query = "SELECT id FROM orders
        WHERE id > $1 AND id < snowflake_lower_bound(now() - $2::text::interval)
        ORDER BY id LIMIT 1000";
    Ok(client.query(query, &[&last, &settled]).await?.iter().map(key).collect())
}

async fn behind(client: &Client, last: i64) -> Result<Vec<i64>, Error> {
    let query = "SELECT id FROM orders WHERE id > $1 ORDER BY id";
    Ok(client.query(query, &[&last]).await?.iter().map(key).collect())
}

/// What a reader misses who asks for all keys behind the last one, and who waits does not.
async fn late(client: &Client) -> Result<String, Error> {
    let begin = key(&client.query_one("SELECT max(id) FROM orders", &[]).await?);
    let mut other = connect().await?;
    let transaction = other.transaction().await?;
    let slow = one(&transaction).await?;
    let fast = one(client).await?;
    let mut seen = behind(client, begin).await?;
    let waited = follow(client, begin, "1 minute").await?;
    transaction.commit().await?;
    seen.extend(behind(client, fast).await?);
    let mut followed = Vec::new();
    // Nobody else writes here: all has settled as soon as its time is over.
    while !followed.contains(&fast) {
        followed = follow(client, begin, "0").await?;
    }
    Ok(format!(
        r#"{{"keys": {}, "naive": {}, "waited": {}, "followed": {}}}"#,
        texts(&[slow, fast]),
        texts(&seen),
        texts(&waited),
        texts(&followed)
    ))
}

/// Whether what has stopped a transaction passes by itself.
fn passes(error: &Error) -> bool {
    // Without a SQLSTATE the connection was lost, or none was made.
    error.code().map(SqlState::code).is_none_or(|sqlstate| PASSES.contains(&sqlstate))
}

/// A whole transaction, and again where what has stopped it passes by itself.
async fn with_retries<T>(work: impl AsyncFn(&Client) -> Result<T, Error>) -> Result<T, Error> {
    let attempts = 10;
    for attempt in 1.. {
        let done = match connect().await {
            Ok(client) => work(&client).await,
            Err(error) => Err(error),
        };
        match done {
            Err(error) if passes(&error) && attempt < attempts => {
                println!(r#"{{"retry": "{}"}}"#, error.code().map_or("", SqlState::code));
            }
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis((50 << attempt).min(5000))).await;
    }
    unreachable!("the last attempt returns")
}

/// With the key made first, a commit whose answer was lost is found instead of made twice.
async fn retry() -> Result<i64, Error> {
    let key = with_retries(async |client| Ok(keys(client, 1).await?[0])).await?;
    let insert = "INSERT INTO orders VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
    with_retries(async |client| client.execute(insert, &[&key, &"Barbara"]).await).await?;
    Ok(key)
}

/// As strings: JavaScript would round the numbers.
fn texts(keys: &[i64]) -> String {
    let texts: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    format!("[{}]", texts.join(", "))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if env::args().nth(1).as_deref() == Some("retry") {
        println!(r#"{{"key": "{}"}}"#, retry().await?);
        return Ok(());
    }
    let mut client = connect().await?;
    let first = one(&client).await?;
    let bulk = texts(&bulk(&client).await?);
    let graph = texts(&graph(&mut client).await?);
    let pages: Vec<String> = pages(&client, 500).await?.iter().map(|page| texts(page)).collect();
    let late = late(&client).await?;
    let json = format!(r#"{{\"id\": \"{first}\", \"customer\": \"Ada\"}}"#);
    println!(
        r#"{{"one": "{first}", "bulk": {bulk}, "graph": {graph}, "pages": [{}], "late": {late}, "json": "{json}"}}"#,
        pages.join(", ")
    );
    Ok(())
}
