//! LZ4 blocks through the reference implementation, with the compressor's table kept between calls: clearing a
//! fresh one for each 4 KiB costs as much as the compression.

use std::cell::RefCell;
use std::os::raw::{c_char, c_int, c_void};

// Keeps the crate's static library linked; the two state functions below are in it but not in its bindings.
use lz4_sys::LZ4_decompress_safe;

extern "C" {
    fn LZ4_sizeofState() -> c_int;
    fn LZ4_initStream(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_compress_fast_extState_fastReset(
        state: *mut c_void,
        source: *const c_char,
        target: *mut c_char,
        source_size: c_int,
        target_capacity: c_int,
        acceleration: c_int,
    ) -> c_int;
}

/// A compressor's table, initialised once; 8-byte aligned as LZ4_stream_t demands.
struct State(Vec<u64>);

impl State {
    fn new() -> State {
        // SAFETY: a pure function of the library.
        let bytes = unsafe { LZ4_sizeofState() } as usize;
        let mut words = vec![0u64; bytes.div_ceil(8)];
        // SAFETY: the buffer is aligned and as large as sizeofState asks.
        let stream = unsafe { LZ4_initStream(words.as_mut_ptr().cast(), words.len() * 8) };
        assert!(!stream.is_null(), "LZ4_initStream refused an aligned buffer of its own size");
        State(words)
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::new());
}

/// Appends `source` as one LZ4 block to `out` and returns true, or leaves `out` alone and returns false where that is not
/// smaller than `source`. At most 64 KiB.
pub fn compress(source: &[u8], out: &mut Vec<u8>) -> bool {
    debug_assert!(source.len() <= 65536);
    if source.len() < 16 {
        return false;
    }
    let begin = out.len();
    let room = source.len() - 1;
    out.reserve(room);
    let written = STATE.with(|state| {
        let state = &mut state.borrow_mut().0;
        // SAFETY: `state` was initialised by LZ4_initStream and is only used here; `out` has `room` bytes of spare capacity behind
        // `begin`; the call writes at most that many and keeps no pointer.
        unsafe {
            LZ4_compress_fast_extState_fastReset(
                state.as_mut_ptr().cast(),
                source.as_ptr().cast(),
                out.as_mut_ptr().add(begin).cast(),
                source.len() as c_int,
                room as c_int,
                1,
            )
        }
    });
    if written <= 0 {
        return false;
    }
    // SAFETY: LZ4 initialised `written` bytes, at most `room`, behind `begin`.
    unsafe { out.set_len(begin + written as usize) };
    true
}

/// Decodes one block into exactly `target`; false if the block is malformed or has another length.
pub fn decompress(block: &[u8], target: &mut [u8]) -> bool {
    let (Ok(from), Ok(to)) = (c_int::try_from(block.len()), c_int::try_from(target.len())) else {
        return false;
    };
    // SAFETY: both slices are valid for the lengths given; LZ4_decompress_safe never reads or writes beyond them.
    let written = unsafe { LZ4_decompress_safe(block.as_ptr().cast(), target.as_mut_ptr().cast(), from, to) };
    written == to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        let text: Vec<u8> = (0..65536u32).map(|i| (i / 97) as u8).collect();
        for n in [16, 512, 4096, 65536] {
            let mut block = b"kept".to_vec();
            assert!(compress(&text[..n], &mut block), "{n}");
            let mut back = vec![0; n];
            assert!(decompress(&block[4..], &mut back));
            assert_eq!(back, &text[..n]);
            assert!(!decompress(&block[4..], &mut vec![0; n - 1]));
            assert!(!decompress(&block[4..block.len() - 1], &mut back));
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut seed = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 56) as u8
        })
        .take(4096)
        .collect();
        let mut out = vec![7];
        assert!(!compress(&noise, &mut out));
        assert_eq!(out, [7]);
    }
}
