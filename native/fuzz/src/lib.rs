//! Little-endian fields and CRC-32C, written a second time: the targets make damaged bytes fit without the engine's help.

pub fn u32_at(b: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(field)
}

pub fn put_u16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_le_bytes());
}

pub fn put_u32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

pub fn put_u64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

/// CRC-32C of the parts, one behind the other.
pub fn crc(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part))
}

/// The checksum of a header that keeps it at 12..16.
pub fn crc_around(header: &[u8], behind: &[u8]) -> u32 {
    crc(&[&header[..12], &header[16..], behind])
}
