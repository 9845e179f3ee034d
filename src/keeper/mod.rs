//! The keeper: the one background worker of a node. It alone opens the allocator, for a window
//! of id-time that it has reserved before, durably, for the node's worker id.
//!
//! What it decides, and why, is `snowflake_core::keeper`'s. Here are its hands: the loop, the signals,
//! the clocks, the table.
//!
//! That one process applies a changed worker id is what makes the change safe: backends notice
//! a reload one after the other, and datacenter and worker id change together.

mod high_water;
mod home;
mod reading;
mod sampler;
mod samples;
mod server;
mod signals;
mod starter;

use crate::report::{Report, State};
use crate::settings;
use crate::shared::{Shared, shared};
use crate::statistics;
use crate::time::uptime;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;
use sampler::Sampler;
use server::Server;
use snowflake_core::Layout;
use snowflake_core::keeper::{Keeper, Pause};
use snowflake_core::reserved::at_once;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A keeper that ended is started again after this time.
const RESTART_TIME: Duration = Duration::from_secs(1);
/// The longest time between two attempts to connect.
const LONGEST_PAUSE: u32 = 10;
/// In microseconds.
const SECOND: i64 = 1_000_000;

/// Has the postmaster start the keeper; for `_PG_init` while preloading.
pub(crate) fn register() {
    BackgroundWorkerBuilder::new("snowflake_id keeper")
        .set_type("snowflake_id keeper")
        .set_library("snowflake_id")
        .set_function("snowflake_id_keeper_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(RESTART_TIME))
        .load();
}

/// Entry point of the background worker.
#[pg_guard]
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub extern "C-unwind" fn snowflake_id_keeper_main(_argument: pg_sys::Datum) {
    signals::install();
    // The postmaster made both before it started this process.
    if let (Some(shared), Ok(layout)) = (shared(), settings::layout()) {
        connect(shared.report());
        if !signals::stop_requested() {
            run(shared, layout);
        }
        shared.report().pid.store(0, Ordering::Relaxed);
    }
    // A background worker that returns, or exits with 0, is never started again: it
    // would be missed by a node that was told to end only this process.
    // SAFETY: ends the process, after PostgreSQL's own clean-up.
    unsafe { pg_sys::proc_exit(1) };
}

/// Connects to the keeper's database. PostgreSQL ends the process where that fails, and starts
/// it again: here, after pauses that grow.
#[allow(unsafe_code)]
fn connect(report: &Report) {
    let failed = report.failed_connections.load(Ordering::Relaxed);
    report.set_verdict(&if failed > 0 { State::NoDatabase } else { State::Starting }.into());
    if failed > 1 {
        let pause = Duration::from_secs(failed.min(LONGEST_PAUSE).into()) - RESTART_TIME;
        signals::rest(pause, pause);
    }
    if signals::stop_requested() {
        return;
    }
    report.failed_connections.store(failed.saturating_add(1), Ordering::Relaxed);
    high_water::connect(&settings::database_name());
    report.failed_connections.store(0, Ordering::Relaxed);
    // SAFETY: both are set for the life of the process.
    let (pid, latch) = unsafe { (pg_sys::MyProcPid, pg_sys::MyLatch) };
    report.latch.store(latch, Ordering::Release);
    report.pid.store(pid, Ordering::Relaxed);
}

/// Looks, and rests, until the process is to end.
fn run(shared: &'static Shared, layout: &'static Layout) {
    let report = shared.report();
    let server = Server::new(shared, layout);
    let mut keeper = Keeper::new(server, *layout, reading::boot_id());
    let (mut sampler, mut rate) = (Sampler::new(shared, layout), Rate::default());
    // In the midst of its first look it may have opened a window already: it is not stuck then.
    report.heartbeat.store(uptime(), Ordering::Relaxed);
    while !signals::stop_requested() {
        if BackgroundWorker::sighup_received() {
            // SAFETY: the context is that of a reload, as in PostgreSQL's own workers.
            #[allow(unsafe_code)]
            unsafe {
                pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP)
            };
        }
        let asked = report.asked();
        let reading = reading::take();
        report.set_estimate(reading.estimate);
        rate.measure(shared);
        // Nothing in this process is waited for in the way of a future.
        let pause = at_once(keeper.look(&reading)).unwrap_or(Pause::NONE);
        report.looked_at.store(reading.now, Ordering::Relaxed);
        report.heartbeat.store(uptime(), Ordering::Relaxed);
        report.answer(asked);
        sampler.write(&reading);
        signals::rest(pause.at_least, pause.at_most);
    }
    at_once(keeper.close(&reading::take()));
}

/// How many ids are being issued, over the last second or so.
#[derive(Default)]
struct Rate {
    /// How many there had been, and when, by the machine's uptime.
    measured: Option<(u64, i64)>,
}

impl Rate {
    fn measure(&mut self, shared: &Shared) {
        let (ids, now) = (statistics::ids(&shared.totals()), uptime());
        let (before, then) = *self.measured.get_or_insert((ids, now));
        let micros = now - then;
        if micros >= SECOND {
            let rate = (ids - before) as f64 * SECOND as f64 / micros as f64;
            shared.report().rate.store(rate as i64, Ordering::Relaxed);
            self.measured = Some((ids, now));
        }
    }
}
