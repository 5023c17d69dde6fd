//! Keeps threads out of the library while the process ends: its destructors run then, and are not meant for company.

use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard};

static INSIDE: RwLock<()> = RwLock::new(());

/// To be held around calls into the library. Never returns once the process is ending.
pub(crate) fn inside() -> RwLockReadGuard<'static, ()> {
    INSIDE.read().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the end of the process waits for calls under way, and lets no more in. To be called when the library
/// has loaded its parts: what is registered later is done earlier.
pub(crate) fn stay_out_at_the_end() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the function may run at any time after `main`. A refusal leaves things as they were.
        let _ = unsafe { libc::atexit(close) };
    });
}

extern "C" fn close() {
    // Never given back. Calls take a second at most, so this waits no longer.
    std::mem::forget(INSIDE.write().unwrap_or_else(PoisonError::into_inner));
}
