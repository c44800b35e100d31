//! Replies as bytes: simple, structured or with extended headers, as the session negotiated. Pure.
//!
//! Invariants. A READ is answered in chunks whenever chunks were negotiated; other successes use the simple reply
//! until extended headers forbid it. Errors are chunks with a sentence where chunks were negotiated. Error values are
//! those that the specification lists.

use std::ops::Deref;

use cdp_engine::Kind;

use crate::tally;
use crate::wire::{self, Errno};

/// Bytes: the longest sentence in an error chunk (the specification allows 4096).
const MESSAGE_MAX: usize = 512;
/// Bytes of the longest head: extended header and the offset of a data chunk.
pub const HEAD_MAX: usize = 48;

/// The start of a reply, or the whole of a short one.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; HEAD_MAX],
    used: usize,
}

impl Head {
    fn new() -> Head {
        Head { bytes: [0; HEAD_MAX], used: 0 }
    }

    fn put<const N: usize>(mut self, field: [u8; N]) -> Head {
        self.bytes[self.used..self.used + N].copy_from_slice(&field);
        self.used += N;
        self
    }
}

impl Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

/// Which request a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    pub cookie: u64,
    /// The request's, which an extended reply repeats.
    pub offset: u64,
    /// Not on the wire: under what it is counted.
    pub kind: tally::Kind,
}

/// How replies look in a session.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    pub structured: bool,
    pub extended: bool,
}

fn simple(errno: u32, cookie: u64) -> Head {
    Head::new().put(wire::SIMPLE_REPLY_MAGIC.to_be_bytes()).put(errno.to_be_bytes()).put(cookie.to_be_bytes())
}

impl Voice {
    /// The header of a chunk with `length` bytes of payload.
    fn chunk(&self, to: To, kind: u16, last: bool, length: u64) -> Head {
        let flags = if last { wire::REPLY_FLAG_DONE } else { 0 };
        let magic = if self.extended { wire::EXTENDED_REPLY_MAGIC } else { wire::STRUCTURED_REPLY_MAGIC };
        let head = Head::new()
            .put(magic.to_be_bytes())
            .put(flags.to_be_bytes())
            .put(kind.to_be_bytes())
            .put(to.cookie.to_be_bytes());
        if self.extended {
            return head.put(to.offset.to_be_bytes()).put(length.to_be_bytes());
        }
        head.put((length as u32).to_be_bytes())
    }

    /// Success of anything but a READ or BLOCK_STATUS.
    pub fn success(&self, to: To) -> Head {
        if self.extended {
            return self.chunk(to, wire::REPLY_NONE, true, 0);
        }
        simple(0, to.cookie)
    }

    /// The end of a reply whose chunks were not the last ones.
    pub fn end(&self, to: To) -> Head {
        self.chunk(to, wire::REPLY_NONE, true, 0)
    }

    /// Failure of the whole request.
    pub fn error(&self, to: To, errno: Errno, message: &str) -> Vec<u8> {
        if !self.structured {
            return simple(errno as u32, to.cookie).to_vec();
        }
        let message = clip(message);
        let length = 6 + message.len() as u64;
        let mut bytes = self.chunk(to, wire::REPLY_ERROR, true, length).to_vec();
        put_error(&mut bytes, errno, message);
        bytes
    }

    /// Failure from `at` on; never the last chunk.
    pub fn error_at(&self, to: To, errno: Errno, message: &str, at: u64) -> Vec<u8> {
        let message = clip(message);
        let length = 14 + message.len() as u64;
        let mut bytes = self.chunk(to, wire::REPLY_ERROR_OFFSET, false, length).to_vec();
        put_error(&mut bytes, errno, message);
        bytes.extend(at.to_be_bytes());
        bytes
    }

    /// What stands before the data of a READ without chunks.
    pub fn simple_data(&self, to: To) -> Head {
        simple(0, to.cookie)
    }

    /// What stands before `length` bytes of data from `at` on.
    pub fn data(&self, to: To, at: u64, length: u64, last: bool) -> Head {
        self.chunk(to, wire::REPLY_OFFSET_DATA, last, 8 + length).put(at.to_be_bytes())
    }

    /// `length` zeros from `at` on.
    pub fn hole(&self, to: To, at: u64, length: u32, last: bool) -> Head {
        self.chunk(to, wire::REPLY_OFFSET_HOLE, last, 12).put(at.to_be_bytes()).put(length.to_be_bytes())
    }

    /// The extents of one context. In compact mode the lengths are below 2^32: they lie inside a compact request.
    pub fn status(&self, to: To, context: u32, extents: &[(u64, u32)], last: bool) -> Vec<u8> {
        let count = extents.len() as u64;
        let mut bytes;
        if self.extended {
            let head = self.chunk(to, wire::REPLY_BLOCK_STATUS_EXT, last, 8 + 16 * count);
            bytes = head.to_vec();
            bytes.extend(context.to_be_bytes());
            bytes.extend((count as u32).to_be_bytes());
            for (length, status) in extents {
                bytes.extend(length.to_be_bytes());
                bytes.extend(u64::from(*status).to_be_bytes());
            }
        } else {
            bytes = self.chunk(to, wire::REPLY_BLOCK_STATUS, last, 4 + 8 * count).to_vec();
            bytes.extend(context.to_be_bytes());
            for (length, status) in extents {
                bytes.extend((*length as u32).to_be_bytes());
                bytes.extend(status.to_be_bytes());
            }
        }
        bytes
    }
}

fn put_error(bytes: &mut Vec<u8>, errno: Errno, message: &str) {
    bytes.extend((errno as u32).to_be_bytes());
    bytes.extend((message.len() as u16).to_be_bytes());
    bytes.extend(message.as_bytes());
}

/// The longest beginning of whole characters that fits.
fn clip(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// The error value of an engine failure. ENOENT and EBUSY are not words of the protocol: kinds that no
/// request can meet become EIO.
pub fn errno_of(kind: Kind) -> Errno {
    match kind {
        Kind::Invalid => Errno::Invalid,
        Kind::NoSpace => Errno::NoSpace,
        Kind::Closed => Errno::Shutdown,
        Kind::NotFound | Kind::Busy | Kind::Corrupt | Kind::Gone | Kind::Io | Kind::Poisoned => Errno::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: To = To { cookie: 0x0102_0304_0506_0708, offset: 0x1000, kind: tally::Kind::Read };
    const SIMPLE: Voice = Voice { structured: false, extended: false };
    const CHUNKS: Voice = Voice { structured: true, extended: false };
    const EXTENDED: Voice = Voice { structured: true, extended: true };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn success_has_the_specified_bytes() {
        assert_eq!(hex(&SIMPLE.success(TO)), "67446698000000000102030405060708");
        assert_eq!(hex(&CHUNKS.success(TO)), "67446698000000000102030405060708");
        assert_eq!(hex(&EXTENDED.success(TO)), "6e8a278c00010000010203040506070800000000000010000000000000000000");
        assert_eq!(hex(&CHUNKS.end(TO)), "668e33ef00010000010203040506070800000000");
    }

    #[test]
    fn errors_have_the_specified_bytes() {
        assert_eq!(hex(&SIMPLE.error(TO, Errno::Perm, "no")), "67446698000000010102030405060708");
        assert_eq!(
            hex(&CHUNKS.error(TO, Errno::NoSpace, "no")),
            "668e33ef00018001010203040506070800000008".to_owned() + "0000001c" + "0002" + "6e6f"
        );
        assert_eq!(
            hex(&CHUNKS.error_at(TO, Errno::Io, "no", 0x1200)),
            "668e33ef00008002010203040506070800000010".to_owned() + "00000005" + "0002" + "6e6f" + "0000000000001200"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "ä".repeat(MESSAGE_MAX);
        let bytes = CHUNKS.error(TO, Errno::Io, &format!("x{long}"));
        let text = std::str::from_utf8(&bytes[26..]).unwrap();
        assert_eq!(text.len(), MESSAGE_MAX - 1);
        assert_eq!(wire::u32_at(&bytes, 16) as usize, 6 + text.len());
    }

    #[test]
    fn content_chunks_have_the_specified_bytes() {
        assert_eq!(
            hex(&CHUNKS.data(TO, 0x1200, 512, false)),
            "668e33ef00000001010203040506070800000208".to_owned() + "0000000000001200"
        );
        assert_eq!(
            hex(&EXTENDED.hole(TO, 0x1200, 512, true)),
            "6e8a278c00010002010203040506070800000000000010000000000000\
             00000c"
                .to_owned()
                + "0000000000001200"
                + "00000200"
        );
    }

    #[test]
    fn status_chunks_have_the_specified_bytes() {
        let extents = [(512, 0), (1024, 3)];
        assert_eq!(
            hex(&CHUNKS.status(TO, 7, &extents, true)),
            "668e33ef00010005010203040506070800000014".to_owned()
                + "00000007"
                + "0000020000000000"
                + "0000040000000003"
        );
        assert_eq!(
            hex(&EXTENDED.status(TO, 7, &extents, true)),
            "6e8a278c00010006010203040506070800000000000010000000000000000028".to_owned()
                + "0000000700000002"
                + "00000000000002000000000000000000"
                + "00000000000004000000000000000003"
        );
    }
}
