//! What a manifest's frames are made of: items of 96 bytes (docs/format.md, "manifest.0, manifest.1").

use crate::codec::*;
use crate::units::{Lsn, SegmentId};

pub(super) const ITEM_BYTES: usize = 96;

/// A segment as the manifest knows it. Of an open one only id, nonce and epoch count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentItem {
    pub sealed: bool,
    /// Written by compaction: each record has its own LSN and stamp.
    pub compacted: bool,
    pub id: SegmentId,
    pub nonce: u64,
    pub epoch: u64,
    pub clock_epoch: u32,
    pub entries: u32,
    pub first_lsn: Lsn,
    pub last_lsn: Lsn,
    pub first_stamp: u64,
    pub last_stamp: u64,
    pub footer_offset: u64,
    pub file_bytes: u64,
    pub previous_lsn: Lsn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointItem {
    pub id: u32,
    pub nonce: u64,
    pub lsn: Lsn,
    pub file_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateItem {
    pub clean: bool,
    pub epoch: u64,
    pub next_lsn: Lsn,
    pub next_segment: u32,
    pub next_checkpoint: u32,
    pub last_stamp: u64,
    pub clock_epoch: u32,
    pub next_run: u32,
}

/// A merged run of index entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunItem {
    pub id: u32,
    pub nonce: u64,
    /// 1: merged from footers; n + 1: from runs of level n.
    pub level: u32,
    pub first_lsn: Lsn,
    pub last_lsn: Lsn,
    pub file_bytes: u64,
}

/// An instant that can be reached: the horizon, or a point below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointItem {
    pub lsn: Lsn,
    pub stamp: u64,
    pub clock_epoch: u32,
}

/// Whose timeline this one was cloned from. Records up to `floor` are bound to that volume's id; those in `(base, floor]` do not exist here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AncestorItem {
    pub id: [u8; 16],
    pub base: Lsn,
    pub floor: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    SetSegment(SegmentItem),
    DropSegment(SegmentId),
    SetCheckpoint(CheckpointItem),
    DropCheckpoint(u32),
    State(StateItem),
    Horizon(PointItem),
    SetPoint(PointItem),
    DropPoint(Lsn),
    SetRun(RunItem),
    DropRun(u32),
    SetAncestor(AncestorItem),
}

impl Edit {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; ITEM_BYTES];
        match self {
            Edit::SetSegment(s) => {
                b[0] = 1;
                b[1] = u8::from(s.sealed) | u8::from(s.compacted) << 1;
                put_u32(&mut b, 4, s.id.0);
                put_u64(&mut b, 8, s.nonce);
                put_u64(&mut b, 16, s.epoch);
                put_u32(&mut b, 24, s.clock_epoch);
                put_u32(&mut b, 28, s.entries);
                let words = [
                    s.first_lsn.0,
                    s.last_lsn.0,
                    s.first_stamp,
                    s.last_stamp,
                    s.footer_offset,
                    s.file_bytes,
                    s.previous_lsn.0,
                ];
                words.iter().enumerate().for_each(|(i, &w)| put_u64(&mut b, 32 + 8 * i, w));
            }
            Edit::DropSegment(id) => {
                b[0] = 2;
                put_u32(&mut b, 4, id.0);
            }
            Edit::SetCheckpoint(c) => {
                b[0] = 3;
                put_u32(&mut b, 4, c.id);
                put_u64(&mut b, 8, c.nonce);
                put_u64(&mut b, 16, c.lsn.0);
                put_u64(&mut b, 32, c.file_bytes);
            }
            Edit::DropCheckpoint(id) => {
                b[0] = 4;
                put_u32(&mut b, 4, *id);
            }
            Edit::State(s) => {
                b[0] = 5;
                b[1] = u8::from(s.clean);
                put_u64(&mut b, 8, s.epoch);
                put_u64(&mut b, 16, s.next_lsn.0);
                put_u32(&mut b, 24, s.next_segment);
                put_u32(&mut b, 28, s.next_checkpoint);
                put_u64(&mut b, 32, s.last_stamp);
                put_u64(&mut b, 40, u64::from(s.clock_epoch));
                put_u32(&mut b, 48, s.next_run);
            }
            Edit::Horizon(point) => encode_point(&mut b, 6, point),
            Edit::SetPoint(point) => encode_point(&mut b, 7, point),
            Edit::DropPoint(lsn) => {
                b[0] = 8;
                put_u64(&mut b, 8, lsn.0);
            }
            Edit::SetRun(run) => {
                b[0] = 9;
                put_u32(&mut b, 4, run.id);
                put_u64(&mut b, 8, run.nonce);
                put_u32(&mut b, 24, run.level);
                put_u64(&mut b, 32, run.first_lsn.0);
                put_u64(&mut b, 40, run.last_lsn.0);
                put_u64(&mut b, 72, run.file_bytes);
            }
            Edit::DropRun(id) => {
                b[0] = 10;
                put_u32(&mut b, 4, *id);
            }
            Edit::SetAncestor(ancestor) => {
                b[0] = 11;
                put_u64(&mut b, 8, ancestor.base.0);
                put_u64(&mut b, 16, ancestor.floor.0);
                b[24..40].copy_from_slice(&ancestor.id);
            }
        }
        out.extend_from_slice(&b);
    }

    pub(super) fn parse(b: &[u8]) -> Option<Edit> {
        let id = u32_at(b, 4);
        Some(match b[0] {
            1 => Edit::SetSegment(SegmentItem {
                sealed: b[1] & 1 == 1,
                compacted: b[1] & 2 == 2,
                id: SegmentId(id),
                nonce: u64_at(b, 8),
                epoch: u64_at(b, 16),
                clock_epoch: u32_at(b, 24),
                entries: u32_at(b, 28),
                first_lsn: Lsn(u64_at(b, 32)),
                last_lsn: Lsn(u64_at(b, 40)),
                first_stamp: u64_at(b, 48),
                last_stamp: u64_at(b, 56),
                footer_offset: u64_at(b, 64),
                file_bytes: u64_at(b, 72),
                previous_lsn: Lsn(u64_at(b, 80)),
            }),
            2 => Edit::DropSegment(SegmentId(id)),
            3 => Edit::SetCheckpoint(CheckpointItem {
                id,
                nonce: u64_at(b, 8),
                lsn: Lsn(u64_at(b, 16)),
                file_bytes: u64_at(b, 32),
            }),
            4 => Edit::DropCheckpoint(id),
            5 => Edit::State(StateItem {
                clean: b[1] & 1 == 1,
                epoch: u64_at(b, 8),
                next_lsn: Lsn(u64_at(b, 16)),
                next_segment: u32_at(b, 24),
                next_checkpoint: u32_at(b, 28),
                last_stamp: u64_at(b, 32),
                clock_epoch: u32::try_from(u64_at(b, 40)).ok()?,
                next_run: u32_at(b, 48).max(1),
            }),
            6 => Edit::Horizon(decode_point(b)),
            7 => Edit::SetPoint(decode_point(b)),
            8 => Edit::DropPoint(Lsn(u64_at(b, 8))),
            9 => Edit::SetRun(RunItem {
                id,
                nonce: u64_at(b, 8),
                level: u32_at(b, 24),
                first_lsn: Lsn(u64_at(b, 32)),
                last_lsn: Lsn(u64_at(b, 40)),
                file_bytes: u64_at(b, 72),
            }),
            10 => Edit::DropRun(id),
            11 => {
                let mut ancestor =
                    AncestorItem { base: Lsn(u64_at(b, 8)), floor: Lsn(u64_at(b, 16)), ..AncestorItem::default() };
                ancestor.id.copy_from_slice(&b[24..40]);
                Edit::SetAncestor(ancestor)
            }
            _ => return None,
        })
    }
}

fn encode_point(b: &mut [u8], tag: u8, point: &PointItem) {
    b[0] = tag;
    put_u64(b, 8, point.lsn.0);
    put_u64(b, 16, point.stamp);
    put_u32(b, 24, point.clock_epoch);
}

fn decode_point(b: &[u8]) -> PointItem {
    PointItem { lsn: Lsn(u64_at(b, 8)), stamp: u64_at(b, 16), clock_epoch: u32_at(b, 24) }
}
