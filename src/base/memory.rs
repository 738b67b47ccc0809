//! Tunes the allocator. Each binary chooses the allocator itself.

/// How long the allocator keeps freed memory before it returns it to the system. The default of one second keeps more
/// memory resident under load and saves few page faults.
const PURGE_DELAY_MS: i64 = 100;
/// `mi_option_purge_delay` in mimalloc.h; the bindings do not name it.
const PURGE_DELAY: i32 = 15;

/// Call this at the start of a process whose allocator is mimalloc.
///
/// Turns huge pages off: each one is cleared and stays resident as a whole. They cost a third more memory under load and
/// make nothing faster.
#[expect(unsafe_code, reason = "neither the allocator's options nor the process's have a safe interface")]
pub fn tune() {
    // SAFETY: stores a number in the allocator's table of options, which any thread may do.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
    // SAFETY: sets a flag of this process; a kernel without it answers an error, which changes nothing.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}
