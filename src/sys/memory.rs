//! The allocator: how much of what was freed it keeps.

/// One heap for all threads, where glibc gives each its own: nearly all work is done by one of them, and what another has
/// freed can be used again. To be called before the second thread.
#[cfg(target_env = "gnu")]
pub(crate) fn one_heap() {
    // SAFETY: mallopt(3) takes plain integers; that it refuses them (0) does no harm.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries have one heap.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn one_heap() {}
