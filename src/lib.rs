//! `snowflake_id`: the PostgreSQL side. It is thin: layouts, the allocator and the
//! text forms live in `snowflake-core`; this crate attaches them to shared memory,
//! settings, waits and errors, and gives them SQL names.
//!
//! docs/ARCHITECTURE.md is the map.

// Every use of `unsafe` in this crate touches PostgreSQL's C interface and says
// why it holds. Most are in `shared.rs`, `settings.rs` and `row.rs`.

// Whatever it is called in Cargo.toml, it is pgrx to this crate and to pgrx's macros.
#[cfg(any(feature = "pg19", feature = "pgrx_next"))]
extern crate pgrx_next as pgrx;

mod audit;
mod encoding;
mod error;
mod functions;
mod generator;
mod keeper;
mod migrate;
mod report;
mod rights;
mod row;
mod settings;
mod shared;
mod statistics;
mod status;
mod tables;
mod time;
mod versions;
mod wait;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

/// Called by PostgreSQL when it loads the library: once in the postmaster if the
/// library is preloaded, else in every session that calls one of its functions. Ids
/// can be made only in the first case; reading them works in both.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    if settings::preloading() {
        shared::request();
        // pg_upgrade works on databases that nobody else may be connected to.
        // SAFETY: reads a flag of the command line.
        #[allow(unsafe_code)]
        if !unsafe { pg_sys::IsBinaryUpgrade } {
            keeper::register();
        }
    }
}

// The SQL of the extensions is written by hand, in src/sql, in the order in which it is read: what a
// function is called, takes and promises stands beside its COMMENT. The C symbol of a function is
// its Rust name with `_wrapper` behind it; renaming one would break every installed schema.
