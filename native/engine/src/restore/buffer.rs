//! Memory that begins at a page, so that a read or write of it may bypass the page cache.

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::ptr::NonNull;

use crate::units::{round_up, PAGE};

/// Bytes of the machine's large pages: memory that is touched all over costs one fault each.
const HUGE_PAGE: usize = 2 << 20;

/// A buffer that grows and never shrinks.
pub(super) struct Buffer {
    memory: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory belongs to the value alone.
unsafe impl Send for Buffer {}

impl Buffer {
    pub fn new() -> Buffer {
        Buffer { memory: NonNull::dangling(), bytes: 0 }
    }

    /// `bytes` of it; the content is whatever was there.
    pub fn of(&mut self, bytes: usize) -> &mut [u8] {
        if bytes > self.bytes {
            self.replace(bytes);
        }
        // SAFETY: the memory has at least `bytes`, was initialised with zeros, and is borrowed with `self`. A dangling pointer is used for no bytes only.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), bytes) }
    }

    fn replace(&mut self, bytes: usize) {
        self.free();
        let align = if bytes < HUGE_PAGE { PAGE as usize } else { HUGE_PAGE };
        let bytes = round_up(bytes as u64, align as u64) as usize;
        let layout = layout(bytes);
        // SAFETY: the layout has a size above zero.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        if align == HUGE_PAGE {
            // SAFETY: advice on memory that is ours; it may be ignored.
            unsafe { libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        *self = Buffer { memory, bytes };
    }

    fn free(&mut self) {
        if self.bytes > 0 {
            // SAFETY: allocated in `replace` with this layout, and forgotten here.
            unsafe { dealloc(self.memory.as_ptr(), layout(self.bytes)) };
        }
        self.bytes = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.free();
    }
}

fn layout(bytes: usize) -> Layout {
    let align = if bytes < HUGE_PAGE { PAGE as usize } else { HUGE_PAGE };
    Layout::from_size_align(bytes, align).expect("a size of this process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_and_grows() {
        let mut buffer = Buffer::new();
        assert!(buffer.of(0).is_empty());
        for bytes in [1, 4096, 5000, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 1, 7] {
            let part = buffer.of(bytes);
            assert_eq!(part.len(), bytes);
            assert_eq!(part.as_ptr() as usize % PAGE as usize, 0);
            part.fill(7);
        }
    }
}
