//! How often events were tried.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// How often each event was begun to be handled without an end that counts. A restart begins anew.
#[derive(Default)]
pub(crate) struct Tries(Mutex<HashMap<i64, u32>>);

impl Tries {
    /// One more; how many there are with it.
    pub(super) fn begin(&self, seq: i64) -> u32 {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = tries.entry(seq).or_default();
        *count += 1;
        *count
    }

    /// It ended: well, or for a reason that passes, which does not count; or it failed, which does.
    pub(super) fn end(&self, seq: i64, uncounted: bool) {
        if uncounted {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
        }
    }
}
