//! The keeper: the one background worker of a node. It alone opens the allocator
//! for the node's worker id, when recovery has ended and whenever the
//! configuration is reloaded.
//!
//! That one process applies a changed worker id is what makes the change safe: backends
//! notice a reload one after the other, and datacenter and worker id change together.

use crate::settings;
use crate::shared::{Shared, State, shared};
use crate::time::WallClock;
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::prelude::*;
use snowflake_core::{Clock, Field, Layout, Lease};
use std::time::Duration;

/// A keeper that ended is started again after this time.
const RESTART_TIME: Duration = Duration::from_secs(1);

/// Has the postmaster start the keeper; for `_PG_init` while preloading.
pub(crate) fn register() {
    BackgroundWorkerBuilder::new("snowflake_id keeper")
        .set_type("snowflake_id keeper")
        .set_library("snowflake_id")
        .set_function("snowflake_id_keeper_main")
        .enable_shmem_access(None)
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(RESTART_TIME))
        .load();
}

/// Entry point of the background worker.
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub extern "C-unwind" fn snowflake_id_keeper_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // The postmaster made both before it started this process.
    let (Some(shared), Ok(layout)) = (shared(), settings::layout()) else { return };
    let mut applied = None;
    loop {
        applied = Some(apply(shared, layout, applied));
        if !BackgroundWorker::wait_latch(None) {
            break;
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: the context is that of a reload, as in PostgreSQL's own workers.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
    }
    // A background worker that returns, or exits with 0, is never started again: it
    // would be missed by a node that was told to end only this process.
    // SAFETY: ends the process, after PostgreSQL's own clean-up.
    unsafe { pg_sys::proc_exit(1) };
}

/// The numbers that the allocator was opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    datacenter_id: Option<u32>,
    worker_id: Option<u32>,
}

/// Opens the allocator for the configured node, or closes it and says why.
fn apply(shared: &Shared, layout: &Layout, applied: Option<Identity>) -> Identity {
    let identity =
        Identity { datacenter_id: settings::datacenter_id(), worker_id: settings::worker_id() };
    if applied == Some(identity) {
        return identity;
    }
    match node(layout, identity) {
        Ok(node) => {
            shared.set_state(State::Ready);
            let lease = Lease { node, floor: floor(layout), limit: u64::MAX };
            shared.allocator.change_lease(layout, lease);
            log!("snowflake_id: ids flow with {identity}");
        }
        Err(state) => {
            shared.allocator.close();
            shared.set_state(state);
            let setting = match state {
                State::NoDatacenterId => "datacenter_id",
                _ => "worker_id",
            };
            log!("snowflake_id: no ids, snowflake_id.{setting} is not set");
        }
    }
    identity
}

/// The node's number; why there is none.
fn node(layout: &Layout, identity: Identity) -> Result<u64, State> {
    let worker_id = identity.worker_id.ok_or(State::NoWorkerId)?;
    if identity.datacenter_id.is_none() && layout.bits(Field::Datacenter) > 0 {
        return Err(State::NoDatacenterId);
    }
    // A number for a field that the layout does not have is 0, and is not part of the id.
    let of = |field, id: Option<u32>| id.filter(|_| layout.bits(field) > 0);
    layout
        .node(of(Field::Datacenter, identity.datacenter_id), of(Field::Worker, Some(worker_id)))
        // The check hooks refuse numbers that do not fit.
        .map_err(|_| State::NoWorkerId)
}

/// Where a lease begins: behind the present tick, which this node, or the one that had
/// the number before, may have issued from.
fn floor(layout: &Layout) -> u64 {
    // Before the epoch nothing was issued; behind the end nothing will be.
    let tick = layout.tick_at(WallClock.now()).map_or(0, |tick| tick + 1);
    layout.first_slot(tick)
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(datacenter_id) = self.datacenter_id {
            write!(f, "datacenter id {datacenter_id}, ")?;
        }
        write!(f, "worker id {}", self.worker_id.unwrap_or_default())
    }
}
