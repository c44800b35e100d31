//! Numbers and headers of the transmission phase, as they travel. Pure; big-endian.
//!
//! The specification is NBD's doc/proto.md, branch extension-ext-header; names are its names without `NBD_`.

pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

pub const CMD_READ: u16 = 0;
pub const CMD_WRITE: u16 = 1;
pub const CMD_DISC: u16 = 2;
pub const CMD_FLUSH: u16 = 3;
pub const CMD_TRIM: u16 = 4;
pub const CMD_CACHE: u16 = 5;
pub const CMD_WRITE_ZEROES: u16 = 6;
pub const CMD_BLOCK_STATUS: u16 = 7;

pub const FLAG_FUA: u16 = 1 << 0;
pub const FLAG_NO_HOLE: u16 = 1 << 1;
pub const FLAG_DF: u16 = 1 << 2;
pub const FLAG_REQ_ONE: u16 = 1 << 3;
pub const FLAG_FAST_ZERO: u16 = 1 << 4;
pub const FLAG_PAYLOAD_LEN: u16 = 1 << 5;

pub const REPLY_FLAG_DONE: u16 = 1 << 0;
pub const REPLY_NONE: u16 = 0;
pub const REPLY_OFFSET_DATA: u16 = 1;
pub const REPLY_OFFSET_HOLE: u16 = 2;
pub const REPLY_BLOCK_STATUS: u16 = 5;
pub const REPLY_BLOCK_STATUS_EXT: u16 = 6;
pub const REPLY_ERROR: u16 = (1 << 15) + 1;
pub const REPLY_ERROR_OFFSET: u16 = (1 << 15) + 2;

pub const STATE_HOLE: u32 = 1 << 0;
pub const STATE_ZERO: u32 = 1 << 1;
/// Of `x-cdp:changed-since:`: the first bit, as in QEMU's dirty bitmaps; the others are 0.
pub const STATE_CHANGED: u32 = 1 << 0;

/// Bytes of a request header.
pub const COMPACT_REQUEST: usize = 28;
pub const EXTENDED_REQUEST: usize = 32;
pub const LARGEST_REQUEST: usize = EXTENDED_REQUEST;

/// The error values that the specification allows in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    Perm = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSupported = 95,
    Shutdown = 108,
}

/// A request header; `length` is of payload or effect, as the command and flags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u64,
}

/// What stands at the beginning of `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Fewer bytes than a header.
    Short,
    /// Another number where the magic should be.
    Foreign(u32),
    Header(Header),
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(number(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(number(bytes, at))
}

impl Header {
    /// Bytes of a request header in this mode.
    pub const fn bytes(extended: bool) -> usize {
        if extended {
            EXTENDED_REQUEST
        } else {
            COMPACT_REQUEST
        }
    }

    pub fn decode(bytes: &[u8], extended: bool) -> Decoded {
        if bytes.len() < Header::bytes(extended) {
            return Decoded::Short;
        }
        let magic = u32_at(bytes, 0);
        let expected = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if magic != expected {
            return Decoded::Foreign(magic);
        }
        Decoded::Header(Header {
            flags: u16::from_be_bytes(number(bytes, 4)),
            command: u16::from_be_bytes(number(bytes, 6)),
            cookie: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            length: if extended { u64_at(bytes, 24) } else { u64::from(u32_at(bytes, 24)) },
        })
    }

    /// The client's side, for tests and fuzzing. A compact header keeps the low 32 bits of the length.
    pub fn encode(&self, extended: bool) -> Vec<u8> {
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        let mut bytes = Vec::with_capacity(LARGEST_REQUEST);
        bytes.extend(magic.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        if extended {
            bytes.extend(self.length.to_be_bytes());
        } else {
            bytes.extend((self.length as u32).to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        flags: 0x0102,
        command: 3,
        cookie: 0x1122_3344_5566_7788,
        offset: 0x99aa_bbcc_ddee_ff00,
        length: 0x0a0b_0c0d,
    };

    #[test]
    fn compact_header_has_the_specified_bytes() {
        let bytes = HEADER.encode(false);
        let expected = [
            0x25, 0x60, 0x95, 0x13, 1, 2, 0, 3, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
            0xdd, 0xee, 0xff, 0, 0x0a, 0x0b, 0x0c, 0x0d,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(Header::decode(&expected, false), Decoded::Header(HEADER));
    }

    #[test]
    fn extended_header_has_the_specified_bytes() {
        let header = Header { length: 0x0102_0304_0506_0708, ..HEADER };
        let bytes = header.encode(true);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..4], [0x21, 0xe4, 0x1c, 0x71]);
        assert_eq!(bytes[24..], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Header::decode(&bytes, true), Decoded::Header(header));
    }

    #[test]
    fn short_and_foreign_headers_are_told_apart() {
        let bytes = HEADER.encode(false);
        assert_eq!(Header::decode(&bytes[..27], false), Decoded::Short);
        assert_eq!(Header::decode(&bytes, true), Decoded::Short);
        let long = [bytes.clone(), vec![0; 4]].concat();
        assert_eq!(Header::decode(&long, true), Decoded::Foreign(REQUEST_MAGIC));
        assert_eq!(Header::decode(&[0; 28], false), Decoded::Foreign(0));
    }
}
