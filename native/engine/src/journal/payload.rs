//! A payload: up to 64 KiB of a write, LZ4 where that shrinks it, behind its checksum.

use crate::codec::{crc, crc_payload, put_u32, u32_at};
use crate::error::{Error, Result};
use crate::lz4;
use crate::units::SECTOR;

/// Sectors in one payload at most: a read of one block decodes no more than this.
pub const SECTORS_MAX: u32 = 128;
/// Bytes of the checksum in front.
pub const CRC_BYTES: usize = 4;
/// Stored bytes of a data payload at most.
pub const STORED_MAX: usize = SECTORS_MAX as usize * SECTOR as usize + CRC_BYTES;

/// Appends room for the checksum and `content`, compressed where that shrinks it. Returns the CRC of the stored bytes, to be finished by [`seal`]
/// when LSN and segment are known.
pub fn encode(content: &[u8], out: &mut Vec<u8>) -> u32 {
    out.extend_from_slice(&[0; CRC_BYTES]);
    let begin = out.len();
    if !lz4::compress(content, out) {
        out.extend_from_slice(content);
    }
    crc(&out[begin..])
}

/// The same without compressing.
pub fn encode_raw(content: &[u8], out: &mut Vec<u8>) -> u32 {
    out.extend_from_slice(&[0; CRC_BYTES]);
    out.extend_from_slice(content);
    crc(content)
}

/// Writes the checksum that binds a payload to its place.
pub fn seal(stored: &mut [u8], bytes_crc: u32, nonce: u64, lsn: u64, start: u64) {
    put_u32(stored, 0, crc_payload(bytes_crc, nonce, lsn, start));
}

/// True if the checksum fits bytes and place.
pub fn is_intact(stored: &[u8], nonce: u64, lsn: u64, start: u64) -> bool {
    stored.len() >= CRC_BYTES && u32_at(stored, 0) == crc_payload(crc(&stored[CRC_BYTES..]), nonce, lsn, start)
}

/// Checks a payload that is stored as it is, read apart from the checksum in front. Corrupt on a mismatch.
pub fn check_raw(sum: [u8; CRC_BYTES], content: &[u8], nonce: u64, lsn: u64, start: u64) -> Result<()> {
    if u32::from_le_bytes(sum) != crc_payload(crc(content), nonce, lsn, start) {
        return Err(Error::corrupt("the payload's checksum does not fit"));
    }
    Ok(())
}

/// Checks `stored` and decodes it into `content`, whose length is the record's. Corrupt on any mismatch.
pub fn decode(stored: &[u8], nonce: u64, lsn: u64, start: u64, content: &mut [u8]) -> Result<()> {
    if !is_intact(stored, nonce, lsn, start) {
        return Err(Error::corrupt("the payload's checksum does not fit"));
    }
    let bytes = &stored[CRC_BYTES..];
    if bytes.len() == content.len() {
        content.copy_from_slice(bytes);
        return Ok(());
    }
    if !lz4::decompress(bytes, content) {
        return Err(Error::corrupt("the payload does not decode to its length"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_fits_only_its_own_place() {
        for content in [vec![9u8; 4096], (0..512u32).map(|i| (i * i % 251) as u8).collect()] {
            let mut stored = Vec::new();
            let bytes_crc = encode(&content, &mut stored);
            seal(&mut stored, bytes_crc, 7, 8, 9);
            let mut back = vec![0; content.len()];
            decode(&stored, 7, 8, 9, &mut back).unwrap();
            assert_eq!(back, content);
            for (nonce, lsn, start) in [(6, 8, 9), (7, 7, 9), (7, 8, 8)] {
                assert!(decode(&stored, nonce, lsn, start, &mut back).is_err());
            }
            let mut raw = Vec::new();
            let bytes_crc = encode_raw(&content, &mut raw);
            seal(&mut raw, bytes_crc, 7, 8, 9);
            let (sum, body) = raw.split_first_chunk::<CRC_BYTES>().unwrap();
            check_raw(*sum, body, 7, 8, 9).unwrap();
            assert!(check_raw(*sum, body, 7, 8, 8).is_err());
            assert!(check_raw(*sum, &body[1..], 7, 8, 9).is_err());
            for i in 0..stored.len() {
                stored[i] ^= 4;
                assert!(decode(&stored, 7, 8, 9, &mut back).is_err(), "byte {i}");
                stored[i] ^= 4;
            }
        }
    }
}
