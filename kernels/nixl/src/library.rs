//! Loading the library.

use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;

use crate::functions::{Functions, SUCCESS, Status};

/// What the loader looks for, in its usual places and in LD_LIBRARY_PATH.
const NAME: &CStr = c"libnixl_capi.so";

/// The loaded library. It stays loaded: it starts threads of its own.
pub struct Library {
    pub(crate) functions: Functions,
}

/// Why there is no library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The system's loader does not find it, or something it needs.
    #[error("NIXL cannot be loaded ({reason}); install it and name its folder in LD_LIBRARY_PATH")]
    Absent {
        /// The loader's words.
        reason: String,
    },
    /// Another version, or something else of that name.
    #[error("the NIXL that was found lacks {symbol}; use version 1.5")]
    Strange {
        /// A function it should have.
        symbol: String,
    },
}

/// A call that the library refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NIXL cannot {what} (status {status})")]
pub struct Fault {
    /// What was asked of it.
    pub what: &'static str,
    /// Its answer; details are in its own log.
    pub status: i32,
}

impl Library {
    /// The library, loaded on the first call.
    ///
    /// # Errors
    /// When it is not there or is not what it should be; later calls say the same.
    pub fn load() -> Result<&'static Self, LoadError> {
        static LOADED: OnceLock<Result<Library, LoadError>> = OnceLock::new();
        LOADED
            .get_or_init(|| Self::open(NAME))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn open(name: &CStr) -> Result<Self, LoadError> {
        // SAFETY: loading runs the library's initialisers: the operator who put it there answers for them.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(LoadError::Absent { reason: last_error() });
        }
        let symbol = |name: &CStr| symbol(handle, name);
        // The library's own stand-in for a missing library ends the process when it is called.
        let stand_in = symbol(c"nixl_capi_is_stub");
        if stand_in.is_null() {
            let symbol = "nixl_capi_is_stub".to_owned();
            return Err(LoadError::Strange { symbol });
        }
        // SAFETY: the header declares it as a function of no arguments that returns a bool, and it stays loaded.
        let stand_in: extern "C" fn() -> bool = unsafe { std::mem::transmute(stand_in) };
        if stand_in() {
            let reason = "only a stand-in for it was found".to_owned();
            return Err(LoadError::Absent { reason });
        }
        // SAFETY: the names are those of the header that `Functions` was written from, and nothing is ever unloaded.
        let functions = unsafe { Functions::find(symbol) };
        functions
            .map(|functions| Self { functions })
            .map_err(|symbol| LoadError::Strange { symbol })
    }
}

fn symbol(handle: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: `open` has the handle from the loader and never closes it; the name ends with a zero.
    unsafe { libc::dlsym(handle, name.as_ptr()) }
}

fn last_error() -> String {
    // SAFETY: the loader's last error is a string, or null, that is good until its next call on this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: not null, and copied before the loader is called again.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// An answer as a result.
pub(crate) fn checked(what: &'static str, status: Status) -> Result<(), Fault> {
    match status {
        SUCCESS => Ok(()),
        status => Err(Fault { what, status }),
    }
}

/// Text for C.
pub(crate) fn text(what: &'static str, text: &str) -> Result<CString, Fault> {
    // A zero inside is an invalid argument, in the library's own number.
    CString::new(text).map_err(|_| Fault { what, status: -1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_told_in_one_line() {
        let error = Library::open(c"libnixl_capi_of_nobody.so").err().unwrap();
        let text = error.to_string();
        assert!(text.contains("libnixl_capi_of_nobody.so"), "{text}");
        assert!(text.contains("LD_LIBRARY_PATH") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn another_library_is_not_mistaken_for_it() {
        let error = Library::open(c"libc.so.6").err().unwrap();
        let symbol = "nixl_capi_is_stub".to_owned();
        assert_eq!(error, LoadError::Strange { symbol });
    }
}
