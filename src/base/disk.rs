//! What the system says of the disk under a directory.

use std::path::Path;

/// The file system of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// 0 on file systems that report no blocks at all.
    pub bytes: u64,
    pub free_bytes: u64,
    pub read_only: bool,
}

impl Disk {
    /// `None` if the system does not report it.
    #[expect(unsafe_code, reason = "the standard library does not ask for this")]
    pub fn of(dir: &Path) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(if dir.as_os_str().is_empty() { b"." } else { dir.as_os_str().as_bytes() });
        let path = path.ok()?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends with a zero byte, and the structure is as large as the call expects.
        let stat = unsafe {
            if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
                return None;
            }
            stat.assume_init()
        };
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        Some(Self {
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: if stat.f_blocks > 0 { free_bytes } else { u64::MAX },
            read_only: stat.f_flag & libc::ST_RDONLY != 0,
        })
    }
}
