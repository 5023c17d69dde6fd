//! Lists and texts of the library that live for a few calls.

use std::ffi::{c_char, c_void};

use crate::functions::{DRAM, Functions, Handle, Status};
use crate::library::{Fault, checked, text};

/// Something of the library's, destroyed when dropped.
pub(crate) struct Owned<'a> {
    pub(crate) handle: Handle,
    functions: &'a Functions,
    destroy: fn(&'a Functions) -> unsafe extern "C" fn(Handle) -> Status,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: the library made it, and nothing else destroys it. There is nothing to do about a refusal.
        unsafe { (self.destroy)(self.functions)(self.handle) };
    }
}

/// Ranges of a pool that a request reads or fills.
pub(crate) fn ranges(
    functions: &Functions,
    ranges: impl Iterator<Item = (usize, usize)>,
) -> Result<Owned<'_>, Fault> {
    let mut handle = std::ptr::null_mut();
    // SAFETY: `handle` is a place for the result.
    let status = unsafe { (functions.create_ranges)(DRAM, &raw mut handle) };
    checked("make a list of ranges", status)?;
    let list = Owned {
        handle,
        functions,
        destroy: |functions| functions.destroy_ranges,
    };
    for (address, bytes) in ranges {
        // SAFETY: the list is alive; the address is only noted.
        let status = unsafe { (functions.add_range)(list.handle, address, bytes, 0) };
        checked("take a range", status)?;
    }
    Ok(list)
}

/// The one region that is registered.
pub(crate) fn region(functions: &Functions, address: usize, bytes: usize) -> Result<Owned<'_>, Fault> {
    let mut handle = std::ptr::null_mut();
    // SAFETY: `handle` is a place for the result.
    let status = unsafe { (functions.create_regions)(DRAM, &raw mut handle) };
    checked("make a list of regions", status)?;
    let list = Owned {
        handle,
        functions,
        destroy: |functions| functions.destroy_regions,
    };
    // SAFETY: the list is alive; the address is only noted, and no further bytes are given.
    let status = unsafe { (functions.add_region)(list.handle, address, bytes, 0, std::ptr::null(), 0) };
    checked("take a region", status)?;
    Ok(list)
}

/// Settings by name.
pub(crate) fn settings<'a>(functions: &'a Functions, settings: &[(&str, &str)]) -> Result<Owned<'a>, Fault> {
    const WHAT: &str = "take its settings";
    let mut handle = std::ptr::null_mut();
    // SAFETY: `handle` is a place for the result.
    let status = unsafe { (functions.create_params)(&raw mut handle) };
    checked(WHAT, status)?;
    let list = Owned {
        handle,
        functions,
        destroy: |functions| functions.destroy_params,
    };
    for (name, value) in settings {
        let (name, value) = (text(WHAT, name)?, text(WHAT, value)?);
        // SAFETY: the list is alive, and both texts are copied.
        let status = unsafe { (functions.add_param)(list.handle, name.as_ptr(), value.as_ptr()) };
        checked(WHAT, status)?;
    }
    Ok(list)
}

/// What others told the agent. Nobody tells it anything; asking makes it work.
pub(crate) fn notices(functions: &Functions) -> Result<Handle, Fault> {
    let mut handle = std::ptr::null_mut();
    // SAFETY: `handle` is a place for the result.
    let status = unsafe { (functions.create_notices)(&raw mut handle) };
    checked("make a list of notices", status)?;
    Ok(handle)
}

/// Bytes that the library allocated for us.
pub(crate) fn taken_bytes(start: *mut c_void, count: usize) -> Vec<u8> {
    if start.is_null() {
        return Vec::new();
    }
    // SAFETY: the library returned these `count` bytes.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), count) }.to_vec();
    // SAFETY: they came from `malloc`, as its header says, and are not used any more.
    unsafe { libc::free(start) };
    bytes
}

/// A text that the library allocated for us.
pub(crate) fn taken_text(start: *mut c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: the library returned a text that ends with a zero.
    let text = unsafe { std::ffi::CStr::from_ptr(start) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: it came from `malloc`, as its header says, and is not used any more.
    unsafe { libc::free(start.cast()) };
    text
}

/// No optional arguments.
pub(crate) const NO_OPTIONS: Handle = std::ptr::null_mut();
