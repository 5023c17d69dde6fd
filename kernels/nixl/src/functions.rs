//! The functions of the library's C interface that are used here, as its header declares them.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// 0 is success, 1 is "in progress", what is negative is an error.
pub(crate) type Status = c_int;
pub(crate) const SUCCESS: Status = 0;
pub(crate) const IN_PROGRESS: Status = 1;
/// Memory of the processor.
pub(crate) const DRAM: c_uint = 0;
/// The remote side's bytes come here.
pub(crate) const READ: c_uint = 0;

/// Something of the library's own; only ever pointed at.
#[repr(C)]
pub(crate) struct Opaque {
    _bytes: [u8; 0],
}

pub(crate) type Handle = *mut Opaque;

/// How an agent works.
#[repr(C)]
pub(crate) struct AgentConfig {
    pub(crate) progress_thread: bool,
    pub(crate) listen_thread: bool,
    pub(crate) listen_port: c_int,
    pub(crate) thread_sync: c_uint,
    pub(crate) workers: c_uint,
    pub(crate) progress_delay_us: u64,
    pub(crate) listen_delay_us: u64,
    pub(crate) telemetry: bool,
}

/// Declares the table and how it is filled.
macro_rules! functions {
    ($($name:ident = $symbol:literal: fn($($argument:ty),*);)*) => {
        /// Every function that is used; all return a [`Status`].
        pub(crate) struct Functions {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            /// Looks all of them up.
            ///
            /// # Safety
            /// What `find` returns for a name is the function that the library's header declares under it, callable
            /// for the rest of the process's life, or null.
            pub(crate) unsafe fn find(find: impl Fn(&std::ffi::CStr) -> *mut c_void) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        let found = find($symbol);
                        if found.is_null() {
                            return Err($symbol.to_string_lossy().into_owned());
                        }
                        // SAFETY: not null, and of this type as the caller promises.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> Status>(found) }
                    },)*
                })
            }
        }
    };
}

functions! {
    create_agent = c"nixl_capi_create_configured_agent": fn(*const c_char, *const AgentConfig, *mut Handle);
    destroy_agent = c"nixl_capi_destroy_agent": fn(Handle);
    create_params = c"nixl_capi_create_params": fn(*mut Handle);
    add_param = c"nixl_capi_params_add": fn(Handle, *const c_char, *const c_char);
    destroy_params = c"nixl_capi_destroy_params": fn(Handle);
    create_backend = c"nixl_capi_create_backend": fn(Handle, *const c_char, Handle, *mut Handle);
    destroy_backend = c"nixl_capi_destroy_backend": fn(Handle);
    create_regions = c"nixl_capi_create_reg_dlist": fn(c_uint, *mut Handle);
    add_region = c"nixl_capi_reg_dlist_add_desc": fn(Handle, usize, usize, u64, *const c_void, usize);
    destroy_regions = c"nixl_capi_destroy_reg_dlist": fn(Handle);
    register = c"nixl_capi_register_mem": fn(Handle, Handle, Handle);
    deregister = c"nixl_capi_deregister_mem": fn(Handle, Handle, Handle);
    local_metadata = c"nixl_capi_get_local_md": fn(Handle, *mut *mut c_void, *mut usize);
    load_metadata = c"nixl_capi_load_remote_md": fn(Handle, *const c_void, usize, *mut *mut c_char);
    forget_metadata = c"nixl_capi_invalidate_remote_md": fn(Handle, *const c_char);
    create_ranges = c"nixl_capi_create_xfer_dlist": fn(c_uint, *mut Handle);
    add_range = c"nixl_capi_xfer_dlist_add_desc": fn(Handle, usize, usize, u64);
    destroy_ranges = c"nixl_capi_destroy_xfer_dlist": fn(Handle);
    create_request = c"nixl_capi_create_xfer_req": fn(Handle, c_uint, Handle, Handle, *const c_char, *mut Handle, Handle);
    post_request = c"nixl_capi_post_xfer_req": fn(Handle, Handle, Handle);
    request_status = c"nixl_capi_get_xfer_status": fn(Handle, Handle);
    release_request = c"nixl_capi_release_xfer_req": fn(Handle, Handle);
    destroy_request = c"nixl_capi_destroy_xfer_req": fn(Handle);
    create_notices = c"nixl_capi_create_notif_map": fn(*mut Handle);
    fetch_notices = c"nixl_capi_get_notifs": fn(Handle, Handle, Handle);
    clear_notices = c"nixl_capi_notif_map_clear": fn(Handle);
    destroy_notices = c"nixl_capi_destroy_notif_map": fn(Handle);
}
