//! Who this node is, and where.
#![allow(unsafe_code)]

use super::high_water::{self, Failure, transaction};
use pgrx::prelude::*;
use snowflake_core::keeper::Home;
use snowflake_core::window::NodeName;
use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

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
    let data_directory = std::fs::canonicalize(&directory)
        .map_or(directory, |path| path.to_string_lossy().into_owned());
    let identity = match born(&data_directory) {
        Some(born) => born,
        None => elsewhere(&read("/etc/machine-id"), &host, &data_directory),
    };
    // Hashed, because whoever may see the status need not see the machine's id.
    let fingerprint = transaction(|| {
        let hash = "SELECT left(encode(sha256($1), 'hex'), 16)";
        Ok(Spi::get_one_with_args::<String>(hash, &[identity.as_bytes().into()])?)
    })?;
    let name =
        NodeName { cluster: cluster.to_string(), fingerprint: fingerprint.unwrap_or_default() };
    high_water::inherit(&name, &host)?;
    Ok(Home { name, host, data_directory, timeline })
}

/// What a copy does not have: when the file was made that a data directory has from its beginning, and
/// never writes again. Whatever makes a copy makes it then, also where path, host name, machine and
/// inode are the same; and no program can set that time. It stays what it is when the directory is
/// moved or mounted elsewhere, in another container or on another host.
///
/// `None` where the file system does not say (tmpfs of older kernels, NFS).
fn born(data_directory: &str) -> Option<String> {
    let file = std::fs::metadata(format!("{data_directory}/PG_VERSION")).ok()?;
    let born = file.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {}", born.as_nanos(), file.ino()))
}

/// There, a copy on the same machine has another path or at least another inode; one that keeps both is
/// on another machine.
fn elsewhere(machine_id: &str, host: &str, data_directory: &str) -> String {
    let inode = std::fs::metadata(data_directory).map_or(0, |metadata| metadata.ino());
    // Empty, missing or "uninitialized" it says nothing.
    let is_id = |id: &&str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let machine = Some(machine_id.trim()).filter(is_id).unwrap_or(host);
    format!("{machine}\n{data_directory}\n{inode}")
}
