//! When samples are written down, and old ones deleted.

use super::high_water::Failure;
use super::samples;
use crate::encoding;
use crate::report::State;
use crate::settings;
use crate::shared::Shared;
use crate::statistics::Counter;
use crate::time::uptime;
use pgrx::prelude::*;
use snowflake_core::Layout;
use snowflake_core::keeper::Reading;

/// Samples are written no more often than this, and old ones deleted; in microseconds.
const SAMPLING: i64 = 100_000;
const FORGETTING: i64 = 10_000_000;

/// Takes what backends have sent. Times are the machine's uptime.
pub(super) struct Sampler {
    shared: &'static Shared,
    layout: &'static Layout,
    sampled_at: i64,
    forgot_at: i64,
    /// Up to which id they have been deleted.
    forgotten: i64,
    /// Whether that failed the last time.
    failed: bool,
}

impl Sampler {
    pub(super) const fn new(shared: &'static Shared, layout: &'static Layout) -> Self {
        let (sampled_at, forgot_at, forgotten) = (0, -FORGETTING, i64::MIN);
        Self { shared, layout, sampled_at, forgot_at, forgotten, failed: false }
    }

    /// Writes down the samples that backends have sent. Those of a failure are lost, and counted.
    pub(super) fn write(&mut self, reading: &Reading) {
        if uptime() - self.sampled_at < SAMPLING {
            return;
        }
        let samples: Vec<_> = self.shared.take_samples().collect();
        if samples.is_empty() {
            return;
        }
        self.sampled_at = uptime();
        let failed = samples::write(&samples).err();
        if failed.is_some() {
            self.shared.count(Counter::SamplesDropped, samples.len() as u64);
        }
        let failed = failed.or_else(|| self.forget(reading).err());
        if let Some(failure) = failed.as_ref().filter(|_| !self.failed) {
            let text = format!("snowflake_id: samples cannot be written or deleted: {failure}");
            encoding::say(PgLogLevel::WARNING, &text);
        }
        self.failed = failed.is_some();
    }

    /// Deletes old samples, now and then.
    fn forget(&mut self, reading: &Reading) -> Result<(), Failure> {
        // A clock that is not believed deletes nothing.
        let ready = self.shared.report().verdict().state == State::Ready;
        let due = ready && uptime() - self.forgot_at >= FORGETTING;
        let oldest = settings::sample_retention()
            .filter(|_| due)
            .and_then(|retention| reading.now.checked_sub_unsigned(retention));
        if let Some(oldest) = oldest {
            self.forgot_at = uptime();
            let bound = self.layout.lower_bound(oldest);
            self.forgotten = samples::forget(self.forgotten, bound)?;
        }
        Ok(())
    }
}
