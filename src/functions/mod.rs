//! The SQL functions. Each is a few lines: arguments in, `snowflake-core` or the generator
//! called, the result or an error out. How they are declared stands in `src/sql`.

mod admin;
mod audit;
mod decode;
mod generate;
mod layouts;
mod migrate;
mod node;
mod registry;
mod search;
mod statistics;
mod text;
