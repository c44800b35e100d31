//! Little-endian fields, varints and checksums: what every on-disk structure is made of (docs/format.md).
//!
//! Readers take fields of a length that was checked before; a short slice is a bug in the caller, except in [`Varints`],
//! which reads outside data and returns None at its end.

pub fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

pub fn u24_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], 0])
}

pub fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub fn u48_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u16_at(b, at + 4)) << 32
}

pub fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

pub fn put_u16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_le_bytes());
}

pub fn put_u24(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 3].copy_from_slice(&v.to_le_bytes()[..3]);
}

pub fn put_u32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

pub fn put_u48(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 6].copy_from_slice(&v.to_le_bytes()[..6]);
}

pub fn put_u64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

/// From here on carry-less multiplication over wide registers is faster than the processor's instruction for this checksum.
const WIDE: usize = 1024;

/// CRC-32C of the bytes.
pub fn crc(bytes: &[u8]) -> u32 {
    if bytes.len() < WIDE {
        return crc32c::crc32c(bytes);
    }
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C of the bytes and a nonce behind them.
pub fn crc_nonce(bytes: &[u8], nonce: u64) -> u32 {
    crc32c::crc32c_append(crc(bytes), &nonce.to_le_bytes())
}

/// CRC-32C of a header that holds its own checksum at 12..16.
pub fn crc_around(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc(&bytes[..12]), &bytes[16..])
}

/// The checksum of a payload: its bytes' CRC continued over where it belongs.
pub fn crc_payload(bytes_crc: u32, nonce: u64, lsn: u64, start: u64) -> u32 {
    let mut tail = [0u8; 24];
    put_u64(&mut tail, 0, nonce);
    put_u64(&mut tail, 8, lsn);
    put_u64(&mut tail, 16, start);
    crc32c::crc32c_append(bytes_crc, &tail)
}

/// Appends `v` as LEB128: seven bits a byte, low first.
pub fn push_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Reads LEB128 numbers one after the other.
pub struct Varints<'a> {
    bytes: &'a [u8],
}

impl<'a> Varints<'a> {
    pub fn new(bytes: &'a [u8]) -> Varints<'a> {
        Varints { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next number; None at the end or where it exceeds 64 bits.
    pub fn next(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (i, &byte) in self.bytes.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if i == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[i + 1..];
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_castagnoli() {
        assert_eq!(crc(b"123456789"), 0xE306_9283);
        assert_eq!(crc_nonce(b"12345678", u64::from_le_bytes(*b"9abcdefg")), crc(b"123456789abcdefg"));
    }

    #[test]
    fn long_and_short_checksums_are_the_same_function() {
        let bytes: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) % 253) as u8).collect();
        for length in [0, 1, 63, WIDE - 1, WIDE, WIDE + 1, 4096, 4099, 65_536, 70_000] {
            // Any alignment, and any cut.
            for from in [0, 1, 7] {
                let part = &bytes[from.min(length)..length];
                assert_eq!(crc(part), crc32c::crc32c(part), "{from} to {length}");
                let (head, tail) = part.split_at(part.len() / 3);
                assert_eq!(crc(part), crc32c::crc32c_append(crc(head), tail));
            }
        }
    }

    #[test]
    fn varints_round_trip_at_every_width() {
        let numbers: Vec<u64> = (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1]).chain([u64::MAX]).collect();
        let mut bytes = Vec::new();
        numbers.iter().for_each(|&n| push_varint(&mut bytes, n));
        let mut reader = Varints::new(&bytes);
        assert!(numbers.iter().all(|&n| reader.next() == Some(n)));
        assert!(reader.is_empty() && reader.next().is_none());
    }

    #[test]
    fn a_varint_beyond_64_bits_is_refused() {
        assert_eq!(Varints::new(&[0xff; 10]).next(), None);
        assert_eq!(Varints::new(&[0x80, 0x80]).next(), None);
    }
}
