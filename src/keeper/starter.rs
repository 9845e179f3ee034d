//! How this process starts holders of leases: each in a thread of its own, which no signal reaches.
#![allow(unsafe_code)]

use crate::time::{shown, uptime};
use snowflake_core::tenancy::Asked;
use snowflake_registry::lease::Taker;
use snowflake_registry::{Address, Error, Holder, Start, TrustedTime};
use std::sync::Arc;

pub(super) struct Starter;

impl Start for Starter {
    fn start(&self, asked: &Asked, taker: Taker, time: Arc<TrustedTime>) -> Result<Holder, String> {
        let address = Address::parse(&asked.registry)?;
        let holder = without_signals(|| {
            let now = move || time.now(uptime());
            Holder::start(address.provider(asked.terms), taker, asked.terms, now)
        });
        holder.map_err(|error| error.to_string())
    }

    fn uptime(&self) -> i64 {
        uptime()
    }

    fn in_words(&self, error: &Error) -> String {
        match error {
            // The layout alone would not tell the two apart.
            Error::OtherLayout { epoch, .. } => {
                format!("{error} with epoch {}", shown(Some(*epoch)))
            }
            error => error.to_string(),
        }
    }
}

/// Starts threads that no signal reaches: PostgreSQL's handlers are for its own thread.
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are of our own; the mask of this thread is what it was when the function
    // returns. Threads inherit the mask of the one that starts them.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        let started = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        started
    }
}
