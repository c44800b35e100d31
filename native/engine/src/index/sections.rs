//! Tagged, checked sections behind the blocks of a footer or checkpoint (docs/format.md, "Footer").

use super::activity::Activity;
use super::memtable::Control;
use super::run::Fence;
use crate::codec::*;

pub const SEGS: &[u8; 4] = b"SEGS";
pub const FENC: &[u8; 4] = b"FENC";
pub const CTRL: &[u8; 4] = b"CTRL";
pub const STMP: &[u8; 4] = b"STMP";
pub const FLSH: &[u8; 4] = b"FLSH";
pub const STAT: &[u8; 4] = b"STAT";
pub const SHRD: &[u8; 4] = b"SHRD";
pub const TOPF: &[u8; 4] = b"TOPF";
const HEADER_BYTES: usize = 16;

/// Where a stamp can be looked up in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StampFence {
    pub first_lsn: u64,
    pub base_stamp: u64,
    pub offset: u64,
}

/// Appends a section, padded to a multiple of 8.
pub fn push(out: &mut Vec<u8>, tag: &[u8; 4], body: &[u8], nonce: u64) {
    let mut head = [0u8; HEADER_BYTES];
    head[..4].copy_from_slice(tag);
    put_u64(&mut head, 8, body.len() as u64);
    let sum = section_crc(tag, body, nonce);
    put_u32(&mut head, 4, sum);
    out.extend_from_slice(&head);
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(8), 0);
}

fn section_crc(tag: &[u8; 4], body: &[u8], nonce: u64) -> u32 {
    let mut head = [0u8; 12];
    head[..4].copy_from_slice(tag);
    put_u64(&mut head, 4, body.len() as u64);
    crc32c::crc32c_append(crc32c::crc32c_append(crc(&head), body), &nonce.to_le_bytes())
}

/// Takes the next section, which must have this tag, off the front of `rest`; None if it is damaged or another.
pub fn take<'a>(rest: &mut &'a [u8], tag: &[u8; 4], nonce: u64) -> Option<&'a [u8]> {
    let head = rest.get(..HEADER_BYTES)?;
    let length = usize::try_from(u64_at(head, 8)).ok()?;
    let body = rest.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?;
    if &head[..4] != tag || u32_at(head, 4) != section_crc(tag, body, nonce) {
        return None;
    }
    *rest = rest.get((HEADER_BYTES + length).next_multiple_of(8)..)?;
    Some(body)
}

/// Rows of `N` words each; None where the body is not a whole number of rows.
pub fn rows<const N: usize>(body: &[u8]) -> Option<impl Iterator<Item = [u64; N]> + '_> {
    (body.len() % (8 * N) == 0).then(|| body.chunks_exact(8 * N).map(|row| std::array::from_fn(|i| u64_at(row, 8 * i))))
}

pub fn encode_rows<const N: usize>(rows: impl Iterator<Item = [u64; N]>) -> Vec<u8> {
    rows.flatten().flat_map(u64::to_le_bytes).collect()
}

pub fn decode_segments(body: &[u8]) -> Option<Vec<u32>> {
    rows::<1>(body)?.map(|[id]| u32::try_from(id).ok()).collect()
}

pub fn decode_fences(body: &[u8]) -> Option<Vec<Fence>> {
    let fences =
        rows::<3>(body)?.map(|[start, end, lsn]| (start <= end && end <= 1 << 48).then_some(Fence { start, end, lsn }));
    fences.collect()
}

pub fn encode_fences(fences: &[Fence]) -> Vec<u8> {
    encode_rows(fences.iter().map(|f| [f.start, f.end, f.lsn]))
}

pub fn decode_stamps(body: &[u8]) -> Option<Vec<StampFence>> {
    Some(rows::<3>(body)?.map(|[first_lsn, base_stamp, offset]| StampFence { first_lsn, base_stamp, offset }).collect())
}

pub fn encode_stamps(stamps: &[StampFence]) -> Vec<u8> {
    encode_rows(stamps.iter().map(|s| [s.first_lsn, s.base_stamp, s.offset]))
}

pub fn decode_activity(body: &[u8]) -> Option<Vec<Activity>> {
    let activity = rows::<5>(body)?.map(|[minute, data_records, zero_records, raw_bytes, stored_bytes]| Activity {
        minute,
        data_records,
        zero_records,
        raw_bytes,
        stored_bytes,
    });
    Some(activity.collect())
}

pub fn encode_activity(activity: impl Iterator<Item = Activity>) -> Vec<u8> {
    encode_rows(activity.map(|a| [a.minute, a.data_records, a.zero_records, a.raw_bytes, a.stored_bytes]))
}

pub fn decode_flush_points(body: &[u8]) -> Option<Vec<u64>> {
    let mut numbers = Varints::new(body);
    let mut points = Vec::new();
    let mut last = 0u64;
    while !numbers.is_empty() {
        last = last.checked_add(numbers.next()?)?;
        points.push(last);
    }
    Some(points)
}

pub fn encode_flush_points(points: &[u64]) -> Vec<u8> {
    let mut body = Vec::new();
    points.iter().fold(0, |last, &point| {
        push_varint(&mut body, point - last);
        point
    });
    body
}

pub fn decode_controls(body: &[u8]) -> Option<Vec<Control>> {
    let mut rest = body;
    let mut controls = Vec::new();
    while !rest.is_empty() {
        let head = rest.get(..20)?;
        let length = u32_at(head, 16) as usize;
        let document = rest.get(20..20usize.checked_add(length)?)?.to_vec();
        rest = &rest[20 + length..];
        controls.push(Control { lsn: u64_at(head, 0), stamp: u64_at(head, 8), document });
    }
    Some(controls)
}

pub fn encode_controls(controls: &[Control]) -> Vec<u8> {
    let mut body = Vec::new();
    for control in controls {
        body.extend_from_slice(&control.lsn.to_le_bytes());
        body.extend_from_slice(&control.stamp.to_le_bytes());
        body.extend_from_slice(&(control.document.len() as u32).to_le_bytes());
        body.extend_from_slice(&control.document);
    }
    body
}
