//! A request on its way into the journal: encoded by its session without a lock, numbered by the ring, written by the leader.

use crate::error::{Error, Result};
use crate::gate::Permit;
use crate::journal::batch::RecordKind;
use crate::journal::payload;
use crate::options::{CONTROL_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::units::SECTOR;

/// A part of a request: one directory entry.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Whole sectors whose payload, `stored` bytes, lies in the request's buffer.
    Data {
        start: u64,
        sectors: u32,
        stored: u32,
        crc: u32,
    },
    /// Sectors that read as zeros (Zero, Trim).
    Zeros {
        start: u64,
        sectors: u64,
        kind: RecordKind,
    },
    /// Bytes `from..to` of one sector: the rest of it is read in the order of LSNs, by the leader.
    Edge {
        sector: u64,
        from: u16,
        bytes: Vec<u8>,
    },
    Control {
        stored: u32,
        crc: u32,
    },
    /// The state goes on from the one at this LSN.
    Rollback {
        to: u64,
    },
    Void,
}

#[derive(Debug)]
pub struct Request {
    pub lsn: u64,
    pub stamp: u64,
    pub clock_epoch: u32,
    pub pieces: Vec<Piece>,
    /// Stored payloads of the Data and Control pieces, in order, room for their checksums included.
    pub payload: Vec<u8>,
    /// The room that was promised to it.
    pub permit: Option<Permit>,
    /// What it was before its edges were filled up, if it may have to wait: then they are filled up anew.
    pub original: Option<Box<Request>>,
}

/// Sectors in one payload of a write that is stored as it is.
const RAW_SECTORS: u32 = 32;

impl Request {
    fn new(pieces: Vec<Piece>, payload: Vec<u8>) -> Request {
        Request { lsn: 0, stamp: 0, clock_epoch: 0, pieces, payload, permit: None, original: None }
    }

    /// A write of `data` at a byte offset inside the volume; with `raw` it is stored as it is.
    pub fn write(offset: u64, data: &[u8], raw: bool) -> Request {
        // What is not compressed loses nothing by being cut small, and a read of a block has less to check.
        let encode = if raw { payload::encode_raw } else { payload::encode };
        let chunk_bytes = (if raw { RAW_SECTORS } else { payload::SECTORS_MAX }) as usize * SECTOR as usize;
        let mut request = Request::new(Vec::with_capacity(1), Vec::new());
        let (head, body, tail) = split(offset, data.len() as u64);
        let (head_bytes, rest) = data.split_at(head as usize);
        let (body_bytes, tail_bytes) = rest.split_at(body as usize);
        request.push_edge(offset, head_bytes);
        let mut at = offset + head;
        request.payload.reserve(body_bytes.len() + body_bytes.len().div_ceil(chunk_bytes) * payload::CRC_BYTES);
        for chunk in body_bytes.chunks(chunk_bytes) {
            let before = request.payload.len();
            let crc = encode(chunk, &mut request.payload);
            let stored = (request.payload.len() - before) as u32;
            let sectors = (chunk.len() as u64 / SECTOR) as u32;
            request.pieces.push(Piece::Data { start: at / SECTOR, sectors, stored, crc });
            at += chunk.len() as u64;
        }
        debug_assert_eq!(tail as usize, tail_bytes.len());
        request.push_edge(at, tail_bytes);
        request
    }

    /// Zeros over a byte range inside the volume.
    pub fn zero(offset: u64, bytes: u64, kind: RecordKind) -> Request {
        let mut request = Request::new(Vec::with_capacity(1), Vec::new());
        let (head, body, tail) = split(offset, bytes);
        request.push_edge(offset, &vec![0; head as usize]);
        let at = offset + head;
        if body > 0 {
            request.pieces.push(Piece::Zeros { start: at / SECTOR, sectors: body / SECTOR, kind });
        }
        request.push_edge(at + body, &vec![0; tail as usize]);
        request
    }

    pub fn of_rollback(to: u64) -> Request {
        Request::new(vec![Piece::Rollback { to }], Vec::new())
    }

    pub fn control(document: &[u8]) -> Result<Request> {
        if crate::rollback::target(document).is_some() {
            return Err(Error::invalid("a rollback is not written as a control record"));
        }
        if document.len() > CONTROL_BYTES_MAX {
            return Err(Error::invalid(format!("a control record of {} bytes is too long", document.len())));
        }
        let mut stored = vec![0; payload::CRC_BYTES];
        stored.extend_from_slice(document);
        let piece = Piece::Control { stored: stored.len() as u32, crc: crate::codec::crc(document) };
        Ok(Request::new(vec![piece], stored))
    }

    fn push_edge(&mut self, offset: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.pieces.push(Piece::Edge {
                sector: offset / SECTOR,
                from: (offset % SECTOR) as u16,
                bytes: bytes.to_vec(),
            });
        }
    }

    /// Bytes that it takes in the ring: what is allocated, which compression leaves larger than what is used.
    pub fn bytes(&self) -> usize {
        self.payload.capacity() + self.pieces.len() * std::mem::size_of::<Piece>() + std::mem::size_of::<Request>()
    }

    /// Keeps what it is, before `merge_edges`.
    pub fn remember(&mut self) {
        self.original = Some(Box::new(Request::new(self.pieces.clone(), self.payload.clone())));
    }

    /// What is to be written later in place of this.
    pub fn again(mut self) -> Box<Request> {
        self.permit = None;
        self.original.take().unwrap_or_else(|| Box::new(self))
    }

    /// True for what a client wrote; control records and rollbacks do not wait.
    pub fn may_wait(&self) -> bool {
        !self.pieces.iter().any(|piece| matches!(piece, Piece::Control { .. } | Piece::Rollback { .. } | Piece::Void))
    }

    pub fn has_edges(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Edge { .. }))
    }

    /// Fills the edges up with what `read` says of their sectors, and makes them data. On an error the request becomes a void record.
    pub fn merge_edges(&mut self, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()> {
        let pieces = std::mem::take(&mut self.pieces);
        let old = std::mem::take(&mut self.payload);
        let mut at = 0;
        for piece in pieces {
            match piece {
                Piece::Edge { sector, from, bytes } => {
                    let mut content = [0u8; SECTOR as usize];
                    if let Err(e) = read(sector, &mut content) {
                        self.payload.clear();
                        self.pieces = vec![Piece::Void];
                        return Err(e);
                    }
                    let from = usize::from(from);
                    content[from..from + bytes.len()].copy_from_slice(&bytes);
                    let before = self.payload.len();
                    let crc = payload::encode(&content, &mut self.payload);
                    let stored = (self.payload.len() - before) as u32;
                    self.pieces.push(Piece::Data { start: sector, sectors: 1, stored, crc });
                }
                Piece::Data { stored, .. } | Piece::Control { stored, .. } => {
                    self.payload.extend_from_slice(&old[at..at + stored as usize]);
                    at += stored as usize;
                    self.pieces.push(piece);
                }
                other => self.pieces.push(other),
            }
        }
        Ok(())
    }
}

/// Bytes before the first whole sector, in whole sectors, behind the last. A range inside one sector is all head.
fn split(offset: u64, bytes: u64) -> (u64, u64, u64) {
    let end = offset + bytes;
    let first = offset.next_multiple_of(SECTOR);
    let last = end / SECTOR * SECTOR;
    if first > last {
        (bytes, 0, 0)
    } else {
        (first - offset, last - first, end - last)
    }
}

/// Checks a range before anything acts on it.
pub fn check_range(offset: u64, bytes: u64, size: u64, bounded: bool) -> Result<()> {
    if bytes == 0 {
        return Err(Error::invalid("the range is empty"));
    }
    if offset.checked_add(bytes).is_none_or(|end| end > size) {
        return Err(Error::invalid(format!("{bytes} bytes at {offset} reach beyond the volume's {size} bytes")));
    }
    if bounded && bytes > REQUEST_BYTES_MAX {
        return Err(Error::invalid(format!("a write of {bytes} bytes is longer than {REQUEST_BYTES_MAX}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_split_at_sectors() {
        assert_eq!(split(0, 512), (0, 512, 0));
        assert_eq!(split(10, 20), (20, 0, 0));
        assert_eq!(split(10, 502), (502, 0, 0));
        assert_eq!(split(10, 503), (502, 0, 1));
        assert_eq!(split(511, 1026), (1, 1024, 1));
        assert_eq!(split(512, 5), (0, 0, 5));
    }

    #[test]
    fn edges_are_merged_around_the_body() {
        let data: Vec<u8> = (0..1030u32).map(|i| i as u8).collect();
        let mut request = Request::write(510, &data, false);
        assert!(request.has_edges());
        request
            .merge_edges(|sector, content| {
                content.fill(sector as u8 + 200);
                Ok(())
            })
            .unwrap();
        let spans: Vec<_> = request
            .pieces
            .iter()
            .map(|p| match p {
                Piece::Data { start, sectors, .. } => (*start, *sectors),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(spans, [(0, 1), (1, 2), (3, 1)]);
    }

    #[test]
    fn a_failed_edge_voids_the_request() {
        let mut request = Request::write(1, &[7; 2000], true);
        assert!(request.merge_edges(|_, _| Err(Error::corrupt("gone"))).is_err());
        assert!(matches!(request.pieces[..], [Piece::Void]) && request.payload.is_empty());
    }

    #[test]
    fn what_is_stored_as_it_is_is_cut_small() {
        let sectors = |raw| {
            let request = Request::write(0, &[1; 72 << 10], raw);
            let of = |piece: &Piece| match *piece {
                Piece::Data { sectors, .. } => sectors,
                _ => 0,
            };
            request.pieces.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(sectors(true), [32, 32, 32, 32, 16]);
        assert_eq!(sectors(false), [128, 16]);
    }
}
