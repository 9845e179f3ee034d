//! Where the extension's objects are: wherever the administrator wants them.

use pgrx::prelude::*;
use pgrx::spi;

/// The schema's name as it is written in a statement; `None` where the extension is missing.
pub(crate) fn find() -> Result<Option<String>, spi::Error> {
    // Not by `Spi::get_one`: that asks for a transaction id, which a standby has not.
    Spi::connect(|client| {
        let query = "SELECT quote_ident(n.nspname)
             FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
             WHERE e.extname = 'snowflake_id'";
        let rows = client.select(query, Some(1), &[])?;
        Ok(rows.map(|row| row.get::<String>(1)).next().transpose()?.flatten())
    })
}
