//! The limit of open files and connections of the process.

/// Raises the soft limit to the hard one, which many systems set a thousand times higher, and returns the result. The low
/// soft limit only protects programs that use `select`.
#[expect(unsafe_code, reason = "the process's limits have no safe interface")]
pub fn raise() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to the struct that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return u64::MAX;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: reads the struct that it is given. Where it is refused, the limit is what it was.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 { raised.rlim_cur } else { limit.rlim_cur }
}
