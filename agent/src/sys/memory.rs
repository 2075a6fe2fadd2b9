//! The allocator of the C library.

/// Arenas of glibc: one for each thread that has ever allocated would keep tens of megabytes that nobody uses, because blocks of a blob pass
/// through many threads.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Keeps the allocator from holding on to memory for every thread. To be called before there are threads.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn share_arenas() {
    // SAFETY: mallopt only sets a number of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Other C libraries have no arenas.
#[cfg(not(target_env = "gnu"))]
pub fn share_arenas() {}
