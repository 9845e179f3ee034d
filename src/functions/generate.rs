//! Generating ids.

use crate::error::{Error, OrRaise};
use crate::generator::{Generator, generator, next_after_at_once, next_at_once};
use crate::settings;
use pgrx::array::FlatArray;
use pgrx::memcx;
use pgrx::palloc::PBox;
use pgrx::pgrx_extern_c_guard;
use pgrx::prelude::*;
use snowflake_core::Slots;
use std::panic::AssertUnwindSafe;

/// `snowflake_nextval()`, by hand: `pg_extern` would guard the whole call against panics,
/// which makes it a third dearer. Here a call that finds an id at once does without: nothing
/// in it panics, and what it calls of PostgreSQL, for an id that is sampled, raises no error.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub(super) extern "C-unwind" fn snowflake_nextval_wrapper(
    _fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    next_at_once().map_or_else(nextval_guarded, pg_sys::Datum::from)
}

/// Tells PostgreSQL how the function above is called.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub(super) extern "C" fn pg_finfo_snowflake_nextval_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

/// `snowflake_nextval_after(id)`, by hand as `snowflake_nextval()` is. Without an id there is
/// nothing to exceed.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub(super) unsafe extern "C-unwind" fn snowflake_nextval_after_wrapper(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it as it is declared: with one argument, a bigint.
    let seen = unsafe { (*fcinfo).args.as_slice(1)[0] };
    if seen.isnull {
        return next_at_once().map_or_else(nextval_guarded, pg_sys::Datum::from);
    }
    let seen = seen.value.value() as i64;
    next_after_at_once(seen).map_or_else(|| nextval_after_guarded(seen), pg_sys::Datum::from)
}

/// Tells PostgreSQL how the function above is called.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub(super) extern "C" fn pg_finfo_snowflake_nextval_after_wrapper()
-> &'static pg_sys::Pg_finfo_record {
    const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &VERSION_1
}

#[cold]
fn nextval_guarded() -> pg_sys::Datum {
    guarded(Generator::next)
}

#[cold]
fn nextval_after_guarded(seen: i64) -> pg_sys::Datum {
    guarded(|generator| generator.next_after(seen))
}

fn guarded(next: impl FnOnce(&Generator) -> Result<i64, Error>) -> pg_sys::Datum {
    // What is unwound is of this crate, and holds whatever became of it.
    let next = AssertUnwindSafe(next);
    // SAFETY: the closure takes nothing from the call, and what it raises becomes an
    // error of PostgreSQL at the guard.
    #[allow(unsafe_code)]
    unsafe {
        pgrx_extern_c_guard(AssertUnwindSafe(|| {
            let AssertUnwindSafe(next) = next;
            pg_sys::Datum::from(generator().and_then(next).or_raise())
        }))
    }
}

#[pg_extern(sql = false)]
fn snowflake_lastval() -> i64 {
    generator().and_then(|generator| generator.last_id().ok_or(Error::NoLastval)).or_raise()
}

#[pg_extern(sql = false)]
fn snowflake_batch(n: Option<i32>) -> SetOfIterator<'static, i64> {
    let left = batch_size(n).or_raise();
    if left == 0 {
        return SetOfIterator::empty();
    }
    let generator = generator().or_raise();
    generator.count_batch();
    SetOfIterator::new(Batch { generator, slots: Slots::default(), left })
}

/// Claims as many slots as the tick has left, and the next ones when those are spent: no
/// memory, whatever the length.
struct Batch {
    generator: &'static Generator,
    slots: Slots,
    left: u64,
}

impl Iterator for Batch {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        if self.slots.is_empty() {
            if self.left == 0 {
                return None;
            }
            self.slots = self.generator.some(self.left).or_raise();
            self.left -= self.slots.len();
        }
        let id = self.slots.next_id(self.generator.layout())?;
        self.generator.set_last_id(id);
        Some(id)
    }
}

#[pg_extern(sql = false)]
fn snowflake_batch_array(n: Option<i32>) -> PBox<'static, FlatArray<'static, i64>> {
    let n = batch_size(n).or_raise();
    memcx::current_context(|memory| {
        let array = if n == 0 {
            FlatArray::new_empty(memory)
        } else {
            FlatArray::new_zeroed_in([n as usize], false, memory)
        };
        // max_batch is below what an array can hold, so only memory can be missing.
        let mut array = array.map_err(|_| Error::OutOfMemory { n }).or_raise();
        if n > 0 {
            let generator = generator().or_raise();
            generator.count_batch();
            let mut rest = array.as_non_null_slice_mut().unwrap_or_default();
            while !rest.is_empty() {
                let mut slots = generator.some(rest.len() as u64).or_raise();
                generator.set_last_id(slots.last_id(generator.layout()));
                let filled = slots.fill(generator.layout(), rest);
                rest = &mut rest[filled..];
            }
        }
        array
    })
}

fn batch_size(n: Option<i32>) -> Result<u64, Error> {
    let n = n.ok_or(Error::BatchNull)?;
    let max = settings::max_batch();
    if n > max {
        return Err(Error::BatchTooLarge { n, max });
    }
    u64::try_from(n).map_err(|_| Error::BatchNegative { n })
}
