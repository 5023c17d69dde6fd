//! The kernels in this build. `build.rs` writes what is included here.

include!(concat!(env!("OUT_DIR"), "/images.rs"));
