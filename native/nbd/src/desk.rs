//! What a worker lends to the session whose turn it is: the window, spare buffers, the batch, and what it counts.

use crate::batch::Batch;
use crate::memory::WINDOW;
use crate::outbox::Spares;
use crate::tally::Step;

/// Received bytes that nobody has taken yet.
pub(crate) struct Window {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes from `start` on whose requests were foreseen; it may reach beyond `end`, into a payload that is still to come.
    foreseen: usize,
}

impl Window {
    pub(crate) fn new() -> Window {
        Window { buffer: vec![0; WINDOW].into_boxed_slice(), start: 0, end: 0, foreseen: 0 }
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// What nobody has looked ahead at yet.
    pub(crate) fn unforeseen(&self) -> &[u8] {
        self.unread().get(self.foreseen..).unwrap_or_default()
    }

    pub(crate) fn foresee(&mut self, bytes: usize) {
        self.foreseen = self.foreseen.saturating_add(bytes);
    }

    /// The next unread byte begins a request, whatever came between.
    pub(crate) fn forget_foreseen(&mut self) {
        self.foreseen = 0;
    }

    /// Takes the first `bytes` away.
    pub(crate) fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.start);
        self.start += bytes;
        self.foreseen = self.foreseen.saturating_sub(bytes);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Begins a turn with what the session kept, at most WINDOW bytes.
    pub(crate) fn load(&mut self, kept: &[u8]) {
        self.buffer[..kept.len()].copy_from_slice(kept);
        (self.start, self.end, self.foreseen) = (0, kept.len(), 0);
    }

    /// Room for at most `most` more bytes, behind what is unread.
    pub(crate) fn room(&mut self, most: usize) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let end = self.buffer.len().min(self.end.saturating_add(most));
        &mut self.buffer[self.end..end]
    }

    /// Says that `bytes` of the room were filled.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        debug_assert!(self.end <= self.buffer.len());
    }
}

pub(crate) struct Desk {
    pub(crate) window: Window,
    pub(crate) spares: Spares,
    pub(crate) batch: Batch,
    pub(crate) step: Step,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { window: Window::new(), spares: Spares::default(), batch: Batch::default(), step: Step::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_keeps_what_is_unread_and_makes_room() {
        let mut window = Window::new();
        window.load(b"abcdef");
        window.advance(2);
        assert_eq!(window.unread(), b"cdef");
        let room = window.room(3);
        assert_eq!(room.len(), 3);
        room[..2].copy_from_slice(b"gh");
        window.filled(2);
        assert_eq!(window.unread(), b"cdefgh");
        assert_eq!(window.room(usize::MAX).len(), WINDOW - 6);
        window.advance(6);
        assert_eq!(window.room(usize::MAX).len(), WINDOW);
    }
}
