//! Looking ahead: the reads behind one that has to wait for the disk are asked for before it waits, so that the disk has as many to do as the client has sent.
//!
//! Invariant. Nothing is taken and nothing is decided here: each request still has its turn, at the gate and in order.

use crate::desk::Window;
use crate::wire::{Decoded, Header, CMD_READ, CMD_WRITE};

/// Requests looked at in one go, and bytes of reads asked for.
const REQUESTS_MAX: usize = 64;
const BYTES_MAX: u64 = 4 << 20;

/// Hands the reads that stand in the window to `prefetch` (offset, bytes), each once. `size`: bytes of the export.
pub(crate) fn foresee(window: &mut Window, extended: bool, size: u64, mut prefetch: impl FnMut(u64, u64)) {
    let mut bytes = 0;
    for _ in 0..REQUESTS_MAX {
        let Decoded::Header(header) = Header::decode(window.unforeseen(), extended) else { return };
        let is_inside = header.offset.checked_add(header.length).is_some_and(|end| end <= size);
        if header.command == CMD_READ && is_inside {
            bytes += header.length;
            if bytes > BYTES_MAX {
                return;
            }
            prefetch(header.offset, header.length);
        }
        let payload =
            if header.command == CMD_WRITE { usize::try_from(header.length).unwrap_or(usize::MAX) } else { 0 };
        window.foresee(payload.saturating_add(Header::bytes(extended)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u16, offset: u64, length: u64) -> Vec<u8> {
        Header { flags: 0, command, cookie: 1, offset, length }.encode(false)
    }

    fn seen(window: &mut Window) -> Vec<(u64, u64)> {
        let mut seen = Vec::new();
        foresee(window, false, 1 << 20, |offset, bytes| seen.push((offset, bytes)));
        seen
    }

    #[test]
    fn reads_are_foreseen_once_and_payloads_passed_over() {
        let mut window = Window::new();
        let write = [header(CMD_WRITE, 0, 4096), vec![0x25; 4096]].concat();
        let stream =
            [header(CMD_READ, 512, 4096), write, header(CMD_READ, 8192, 1), header(CMD_READ, 1 << 20, 1)].concat();
        // The stream stops in the payload of a write, and goes on.
        let cut = 28 + 28 + 100;
        window.load(&stream[..cut]);
        assert_eq!(seen(&mut window), [(512, 4096)]);
        window.room(usize::MAX)[..stream.len() - cut].copy_from_slice(&stream[cut..]);
        window.filled(stream.len() - cut);
        assert_eq!(seen(&mut window), [(8192, 1)], "and none beyond the end");
        assert_eq!(seen(&mut window), []);
        window.advance(28);
        assert_eq!(seen(&mut window), []);
        window.forget_foreseen();
        assert_eq!(seen(&mut window), [(8192, 1)]);
    }

    #[test]
    fn what_is_asked_for_at_once_is_bounded() {
        let mut window = Window::new();
        window.load(&header(CMD_READ, 0, 4096).repeat(REQUESTS_MAX + 1));
        assert_eq!(seen(&mut window).len(), REQUESTS_MAX);
        assert_eq!(seen(&mut window).len(), 1);
        let large = u32::try_from(BYTES_MAX).unwrap() / 2 + 1;
        let mut window = Window::new();
        window.load(&header(CMD_READ, 0, u64::from(large)).repeat(2));
        let mut count = 0;
        foresee(&mut window, false, u64::MAX, |_, _| count += 1);
        assert_eq!(count, 1);
    }
}
