//! The kernels in this build. `build.rs` writes what is included here.

/// Bytes that begin where any number may.
#[allow(
    dead_code,
    reason = "a build without a compiler and without prebuilt kernels has no images"
)]
#[repr(C, align(16))]
struct Aligned<T>(T);

include!(concat!(env!("OUT_DIR"), "/images.rs"));
