//! Who this node is, and where.
#![allow(unsafe_code)]

use super::high_water::{Failure, transaction};
use pgrx::prelude::*;
use snowflake_core::keeper::Home;
use snowflake_core::window::NodeName;
use std::ffi::CStr;

pub(super) fn find() -> Result<Home, Failure> {
    // SAFETY: no arguments; recovery has ended, and both are known from then on. The data
    // directory is a C string that is set before any process is started.
    let (cluster, timeline, directory) = unsafe {
        (
            pg_sys::GetSystemIdentifier(),
            pg_sys::GetWALInsertionTimeLine(),
            CStr::from_ptr(pg_sys::DataDir).to_string_lossy().into_owned(),
        )
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let host = read("/proc/sys/kernel/hostname").trim().to_owned();
    // A copy on the same machine has another path or at least another inode; one that
    // keeps both, by a snapshot of the disk, is on another machine.
    let data_directory = std::fs::canonicalize(&directory)
        .map_or(directory, |path| path.to_string_lossy().into_owned());
    let inode = std::fs::metadata(&data_directory)
        .map_or(0, |metadata| std::os::unix::fs::MetadataExt::ino(&metadata));
    let machine = read("/etc/machine-id");
    let machine = if machine.trim().is_empty() { &host } else { machine.trim() };
    // Hashed, because whoever may see the status need not see the machine's id.
    let identity = format!("{machine}\n{data_directory}\n{inode}");
    let fingerprint = transaction(|| {
        let hash = "SELECT left(encode(sha256($1), 'hex'), 16)";
        Ok(Spi::get_one_with_args::<String>(hash, &[identity.as_bytes().into()])?)
    })?;
    let name =
        NodeName { cluster: cluster.to_string(), fingerprint: fingerprint.unwrap_or_default() };
    Ok(Home { name, past: Vec::new(), host, data_directory, timeline })
}
