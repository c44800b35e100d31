//! What a stretch of the target needs: which payloads, in the order in which they lie, and where each goes in memory.
//!
//! Invariants: a window's runs are whole blocks, ascending and apart; every byte of a run is a piece's, the origin's or a blank; every byte of the
//! window outside its runs reads as zeros. Memory of a window is bounded by `DATA_MAX` and `PIECES_MAX`, and a leaf more.

use std::ops::Range;

use crate::error::Result;
use crate::index::leaf::Mapped;
use crate::index::{Place, LEAF_SECTORS};
use crate::units::{round_up, SECTOR};
use crate::view::View;

/// Grain of runs in bytes: what file systems allocate, and what a write past the page cache needs.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of data after which a window ends, if its payloads lie together.
const DATA_MIN: usize = 32 << 20;
/// Bytes of data after which it ends anyway. Payloads of a history of scattered writes lie the closer together the larger the window is.
const DATA_MAX: usize = 256 << 20;
/// Pieces after which it ends: 48 bytes each.
const PIECES_MAX: usize = 512 << 10;
/// Bytes of address space after which it ends, so that progress is told on holes too.
const SPAN_MAX: u64 = 1 << 30;
/// Bytes between two payloads up to which one read of both is cheaper than two.
const GAP_MAX: u64 = 64 << 10;
/// Bytes that one read spans.
pub(super) const BATCH_BYTES: u64 = 1 << 20;
/// Bytes of the origin in one piece.
const ORIGIN_BYTES: u64 = 1 << 20;

const LEAF_BYTES: u64 = LEAF_SECTORS * SECTOR;

/// Sectors that one payload provides, and their offset in the window's buffer.
pub(super) struct Piece {
    pub mapped: Mapped,
    pub at: usize,
}

impl Piece {
    /// (segment, offset of the payload, its stored bytes).
    pub fn stored(&self) -> (u32, u64, u64) {
        match self.mapped.place {
            Place::Data { segment, offset, stored, .. } => (segment, u64::from(offset), u64::from(stored)),
            Place::Zero | Place::Damaged => (0, 0, 0),
        }
    }
}

/// Blocks of data: where they go in the target, and where they are in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub offset: u64,
    pub bytes: usize,
    pub at: usize,
}

impl Run {
    pub fn end(&self) -> u64 {
        self.offset + self.bytes as u64
    }
}

/// A stretch of the target.
#[derive(Default)]
pub(super) struct Window {
    /// Parts of the target that the window is about, ascending; more than one where only some ranges are wanted.
    pub spans: Vec<(u64, u64)>,
    /// By the place of their payloads, after `arrange`.
    pub pieces: Vec<Piece>,
    /// Damaged places; their bytes are blank.
    pub lost: Vec<Mapped>,
    /// (offset in the origin, offset in the buffer, bytes).
    pub origin: Vec<(u64, usize, usize)>,
    pub runs: Vec<Run>,
    /// Parts of the buffer that are zeros.
    pub blanks: Vec<Range<usize>>,
    /// Of the buffer.
    pub bytes: usize,
    /// End in the target of what is placed so far.
    covered: u64,
}

impl Window {
    pub fn start(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.0)
    }

    pub fn end(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.1)
    }

    /// The parts between the runs: they read as zeros.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut runs = self.runs.iter().peekable();
        for &(start, end) in &self.spans {
            let mut at = start;
            while let Some(run) = runs.next_if(|run| run.offset < end) {
                if run.offset > at {
                    gaps.push((at, run.offset));
                }
                at = run.end();
            }
            if at < end {
                gaps.push((at, end));
            }
        }
        gaps
    }

    fn add_span(&mut self, start: u64, end: u64) {
        match self.spans.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.spans.push((start, end)),
        }
    }

    fn add(&mut self, mapped: &Mapped) {
        let (from, to) = (mapped.start * SECTOR, (mapped.start + mapped.sectors) * SECTOR);
        match mapped.place {
            Place::Zero => {}
            Place::Damaged => {
                let at = self.place(from, to);
                self.blanks.push(at..at + (to - from) as usize);
                self.lost.push(*mapped);
            }
            Place::Data { .. } => {
                let at = self.place(from, to);
                self.pieces.push(Piece { mapped: *mapped, at });
            }
        }
    }

    fn add_origin(&mut self, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let bytes = ORIGIN_BYTES.min(to - at);
            let place = self.place(at, at + bytes);
            self.origin.push((at, place, bytes as usize));
            at += bytes;
        }
    }

    /// Makes room for `from..to`, which lies behind all that was placed; its offset in the buffer.
    fn place(&mut self, from: u64, to: u64) -> usize {
        let first = from / BLOCK * BLOCK;
        if self.runs.last().is_none_or(|run| run.end() < first) {
            self.blank_rest();
            self.runs.push(Run { offset: first, bytes: 0, at: self.bytes });
            self.covered = first;
        }
        let Some(run) = self.runs.last_mut() else { return 0 };
        run.bytes = (round_up(to, BLOCK) - run.offset) as usize;
        self.bytes = run.at + run.bytes;
        let at = |offset: u64| run.at + (offset - run.offset) as usize;
        if self.covered < from {
            self.blanks.push(at(self.covered)..at(from));
        }
        self.covered = to;
        at(from)
    }

    /// The last run's block is filled up with zeros.
    fn blank_rest(&mut self) {
        if let Some(run) = self.runs.last().filter(|run| self.covered < run.end()) {
            self.blanks.push(run.at + (self.covered - run.offset) as usize..self.bytes);
            self.covered = run.end();
        }
    }

    /// Puts the pieces into the order of their payloads; true if reading them needs few bytes more than they have.
    fn arrange(&mut self) -> bool {
        self.pieces.sort_unstable_by_key(Piece::stored);
        let (mut wanted, mut cost) = (0, 0);
        for batch in batches(&self.pieces) {
            wanted += batch.wanted;
            cost += batch.to - batch.from + GAP_MAX;
        }
        cost <= 2 * wanted
    }
}

/// Neighbouring payloads of one segment, to be read together.
pub(super) struct Batch {
    pub segment: u32,
    /// Of the segment's file.
    pub from: u64,
    pub to: u64,
    /// Bytes of payloads between them.
    pub wanted: u64,
    pub pieces: Range<usize>,
}

impl Batch {
    /// Most of what it spans is wanted: worth reading as a whole, and unlikely to be wanted again.
    pub fn is_dense(&self) -> bool {
        self.wanted * 2 >= self.to - self.from
    }
}

/// Batches of pieces that are in order.
pub(super) fn batches(pieces: &[Piece]) -> Vec<Batch> {
    let mut found: Vec<Batch> = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        let (segment, from, bytes) = piece.stored();
        let to = from + bytes;
        match found.last_mut() {
            Some(last) if last.segment == segment && from <= last.to + GAP_MAX && to - last.from <= BATCH_BYTES => {
                // Several pieces may be parts of one payload.
                last.wanted += to.saturating_sub(last.to.max(from));
                last.to = last.to.max(to);
                last.pieces.end = number + 1;
            }
            _ => found.push(Batch { segment, from, to, wanted: bytes, pieces: number..number + 1 }),
        }
    }
    found
}

/// Hands out a view's windows, ascending, without looking at any payload.
pub(super) struct Planner<'a> {
    view: &'a View,
    /// Whole blocks (or to the end of the view), ascending, apart.
    ranges: Vec<(u64, u64)>,
    /// Which of the ranges is next, and from where.
    next: (usize, u64),
    mapped: Vec<Mapped>,
}

impl<'a> Planner<'a> {
    /// `ranges`: what is wanted of the view, in any order; widened to whole blocks.
    pub fn new(view: &'a View, ranges: &[(u64, u64)]) -> Planner<'a> {
        let size = view.size();
        let mut wide: Vec<(u64, u64)> = ranges
            .iter()
            .map(|&(start, end)| (start.min(size) / BLOCK * BLOCK, round_up(end.min(size), BLOCK).min(size)))
            .filter(|(start, end)| start < end)
            .collect();
        wide.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(wide.len());
        for (start, end) in wide {
            match ranges.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => ranges.push((start, end)),
            }
        }
        let first = ranges.first().map_or(0, |range| range.0);
        Planner { view, ranges, next: (0, first), mapped: Vec::new() }
    }

    /// Bytes of all ranges.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// Where the next window begins.
    pub fn position(&self) -> u64 {
        self.next.1
    }

    /// The next window, None after the last; it ends at `stop` at the latest, if that lies ahead.
    pub fn next(&mut self, stop: u64) -> Result<Option<Window>> {
        let mut window = Window::default();
        let mut limit = DATA_MIN;
        while let Some(&(_, range_end)) = self.ranges.get(self.next.0) {
            let from = self.next.1;
            if !window.spans.is_empty() && window.start() < stop && from >= stop {
                break;
            }
            let mut to = range_end.min((from / LEAF_BYTES + 1) * LEAF_BYTES);
            if from < stop {
                to = to.min(stop);
            }
            self.add_leaf(&mut window, from, to)?;
            self.advance(to, range_end);
            if window.pieces.len() >= PIECES_MAX || window.end() - window.start() >= SPAN_MAX {
                break;
            }
            if window.bytes >= limit {
                if limit >= DATA_MAX || window.arrange() {
                    break;
                }
                limit *= 2;
            }
        }
        Ok(if window.spans.is_empty() { None } else { Some(self.complete(window)) })
    }

    /// The window of exactly these spans, looked up anew.
    pub fn again(&mut self, spans: &[(u64, u64)]) -> Result<Window> {
        let mut window = Window::default();
        for &(start, end) in spans {
            let mut from = start;
            while from < end {
                let to = end.min((from / LEAF_BYTES + 1) * LEAF_BYTES);
                self.add_leaf(&mut window, from, to)?;
                from = to;
            }
        }
        Ok(self.complete(window))
    }

    fn advance(&mut self, to: u64, range_end: u64) {
        self.next.1 = to;
        if to == range_end {
            let number = self.next.0 + 1;
            self.next = (number, self.ranges.get(number).map_or(to, |range| range.0));
        }
    }

    /// Adds `from..to`, which lies in one leaf.
    fn add_leaf(&mut self, window: &mut Window, from: u64, to: u64) -> Result<()> {
        window.add_span(from, to);
        self.mapped.clear();
        let volume = self.view.volume();
        volume.index.resolve(self.view.instant(), from / SECTOR, to.div_ceil(SECTOR), &mut self.mapped)?;
        let origin_end = volume.origin.as_ref().map_or(0, |origin| origin.size());
        let mut at = from;
        for mapped in &self.mapped {
            window.add_origin(at, (mapped.start * SECTOR).min(origin_end));
            window.add(mapped);
            at = (mapped.start + mapped.sectors) * SECTOR;
        }
        window.add_origin(at, to.min(origin_end));
        Ok(())
    }

    fn complete(&self, mut window: Window) -> Window {
        window.blank_rest();
        window.arrange();
        let size = self.view.size();
        if let Some(last) = window.runs.last_mut().filter(|run| run.end() > size) {
            last.bytes = (size - last.offset) as usize;
        }
        window
    }
}
