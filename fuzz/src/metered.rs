//! What a call allocates at its peak.
//!
//! The fuzz programs count every allocation of Rust code, by thread. Among the tests nothing is counted, and no bound is
//! ever reached.

use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Calls `run`, which may hold this many bytes more at any time than when it began.
pub fn within<T>(bytes_max: usize, run: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    PEAK.set(before);
    let done = run();
    let peak = PEAK.get().saturating_sub(before).cast_unsigned();
    assert!(peak <= bytes_max, "{peak} bytes were held, and no more than {bytes_max} may be");
    done
}

#[cfg(not(test))]
mod allocator {
    use std::alloc::{GlobalAlloc, Layout, System};

    use super::{HELD, PEAK};

    struct Counting;

    fn count(bytes: isize) {
        let held = HELD.get() + bytes;
        HELD.set(held);
        if held > PEAK.get() {
            PEAK.set(held);
        }
    }

    // SAFETY: all that is asked is asked of the system's allocator. Counting does not allocate.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size().cast_signed());
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            count(layout.size().cast_signed());
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            count(-layout.size().cast_signed());
            unsafe { System.dealloc(at, layout) }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // It may be copied: both are held then.
            count(size.cast_signed());
            count(-layout.size().cast_signed());
            unsafe { System.realloc(at, layout, size) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;
}
