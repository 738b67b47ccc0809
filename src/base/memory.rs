//! How the process takes memory from the system and gives it back. The allocator itself is chosen by each binary.

/// Freed memory goes back to the system after this long. The allocator's own second keeps more resident under
/// load and saves few page faults.
const PURGE_DELAY_MS: i64 = 100;
/// `mi_option_purge_delay` in mimalloc.h; the bindings do not name it.
const PURGE_DELAY: i32 = 15;

/// To be called at the start of a process whose allocator is mimalloc.
///
/// Huge pages are off: each one is cleared and stays resident as a whole, a third more memory under load, and
/// nothing is faster with them.
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
