//! Where two instants differ, by history: every sector that a record of exactly one of their two paths covers.
//!
//! Two paths have a beginning in common, up to their *joint*, and nothing behind it. What the answer takes from the index is each record behind the joint.
//!
//! Nothing that differs is left out: if one instant shows another record of a sector than the other, at least one of the two lies behind the joint, or both would be the
//! newest of the same records. Compaction changes no answer between instants that can be reached: if a record behind the joint covers a sector, so does the newest one on that path, which lies behind the joint
//! too, and a version that a retained instant shows is kept; what else is kept behind the joint covered the same sectors before. This holds for each path by itself: on both sides of a rollback, where the one that
//! is left ends at an instant that is held, and for clone and parent, each with its own files. The instants are held while views of them are open; the live volume is asked at one moment, with the tables of that moment.
//!
//! What was written and is the same again counts as changed; so do zeros, trims, and what is damaged or lost. An index that cannot be read is rebuilt, else an error.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::index::map::{Index, Tables};
use crate::index::spans::Spans;
use crate::index::LEAF_SECTORS;
use crate::journal::recover;
use crate::path::Path;
use crate::units::{Lsn, SECTOR};
use crate::view::View;
use crate::volume::Volume;

/// Sectors of address space that are asked about at once, at first: 64 MiB. A short answer comes from there.
const WINDOW_SECTORS_FIRST: u64 = 16 * LEAF_SECTORS;
/// Each further window is so many times longer: few windows where little was written.
const WINDOW_GROWTH: u64 = 8;

/// Bytes that were written since two instants' histories parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub offset: u64,
    pub bytes: u64,
}

/// A part of the question that one volume's index answers.
struct Side<'a> {
    index: &'a Index,
    tables: Tables,
    path: Path,
}

impl Volume {
    /// What differs between two instants (`to` None: the live volume), inside `offset..offset + bytes`; see [`View::changed`]. NotFound, naming the range, if one of them cannot be reached.
    pub fn changed(
        self: &Arc<Volume>,
        from: Lsn,
        to: Option<Lsn>,
        offset: u64,
        bytes: u64,
        most: usize,
    ) -> Result<Vec<Change>> {
        let since = self.view(from)?;
        let now = to.map_or_else(|| Ok(self.live()), |to| self.view(to))?;
        now.changed(&since, offset, bytes, most)
    }
}

impl View {
    /// What differs between this view and another of the same volume, or of one that shares history with it, inside `offset..offset + bytes`: whole sectors, cut at the
    /// range's ends, ascending, neighbours merged. At most `most` (at least 1), each whole: fewer are all. What lies beyond the end of one of the two is changed.
    ///
    /// Costs index blocks of the range in the merged runs and segments behind the joint, up to the answer's end; memory of one block of each and 16 bytes for each entry that is not sealed.
    /// Invalid for volumes that have no history in common.
    pub fn changed(&self, since: &View, offset: u64, bytes: u64, most: usize) -> Result<Vec<Change>> {
        self.check(offset, bytes)?;
        let (start, end) = (offset / SECTOR, (offset + bytes).div_ceil(SECTOR));
        let beyond = (self.size().min(since.size()) / SECTOR).clamp(start, end);
        let mut found = Found { spans: Vec::new(), most: most.max(1) };
        let (mut at, mut window) = (start, WINDOW_SECTORS_FIRST);
        while at < beyond && !found.is_full() {
            let until = at.saturating_add(window).min(beyond);
            let known = (found.spans.len(), found.spans.last().copied());
            match self.changed_in(since, (at, until), &mut found) {
                Ok(()) => at = until,
                // The tables moved on, or a footer turned out to be damaged.
                Err(e) if e.kind == Kind::Gone => {
                    found.take_back(known);
                    continue;
                }
                Err(e) => return Err(e),
            }
            window = window.saturating_mul(WINDOW_GROWTH);
        }
        if beyond < end {
            found.push((beyond, end));
        }
        // Taken away meanwhile, an instant's records may be gone.
        self.check_held()?;
        since.check_held()?;
        Ok(found.clipped(offset, offset + bytes))
    }

    fn changed_in(&self, since: &View, range: (u64, u64), found: &mut Found) -> Result<()> {
        let mut streams = Vec::new();
        for side in self.sides(since)? {
            for stream in side.index.stream(&side.tables, range, &side.path)? {
                streams.push((side.index, stream));
            }
        }
        unite(streams, found)
    }

    /// Whose index to ask for what.
    fn sides<'a>(&'a self, since: &'a View) -> Result<Vec<Side<'a>>> {
        let (this, other) = (self.volume(), since.volume());
        let tables = this.index.tables();
        let path = tables.path(self.at);
        if Arc::ptr_eq(this, other) {
            let path = path.difference(&tables.path(since.at));
            return Ok(vec![Side { index: &this.index, tables, path }]);
        }
        let others = other.index.tables();
        let others_path = others.path(since.at);
        let Some(joint) = joint((&this.facts, &path), (&other.facts, &others_path)) else {
            return Err(Error::invalid("the two volumes have no history in common"));
        };
        Ok(vec![
            Side { index: &this.index, tables, path: path.above(joint) },
            Side { index: &other.index, tables: others, path: others_path.above(joint) },
        ])
    }
}

/// The largest LSN up to which both paths are the same records; None if no timeline of the one is one of the other.
fn joint(one: (&recover::Volume, &Path), other: (&recover::Volume, &Path)) -> Option<u64> {
    let mut writers = one.0.writers().zip(other.0.writers()).take_while(|(a, b)| a.1 == b.1).peekable();
    writers.peek()?;
    let mut common = 0;
    for ((a, _), (b, _)) in writers {
        common = a.min(b);
        if a != b {
            break;
        }
    }
    let mut upto = 0;
    for (a, b) in one.1.intervals().iter().zip(other.1.intervals()).take_while(|(a, b)| a.0 == b.0) {
        upto = a.1.min(b.1);
        if a.1 != b.1 {
            break;
        }
    }
    Some(upto.min(common))
}

/// Merges streams into what was found before their range.
fn unite(mut streams: Vec<(&Index, Spans)>, found: &mut Found) -> Result<()> {
    let mut next: BinaryHeap<Reverse<(u64, u64, usize)>> = BinaryHeap::new();
    for (number, (index, stream)) in streams.iter_mut().enumerate() {
        next.extend(stream.next_behind(index, 0)?.map(|(start, end)| Reverse((start, end, number))));
    }
    while let Some(Reverse((start, end, number))) = next.pop() {
        if !found.push((start, end)) {
            break;
        }
        let (index, stream) = &mut streams[number];
        let more = stream.next_behind(index, found.end())?;
        next.extend(more.map(|(start, end)| Reverse((start, end, number))));
    }
    Ok(())
}

/// Extents in sectors: disjoint, ascending, one more than `most` to know that the last wanted one is whole.
struct Found {
    spans: Vec<(u64, u64)>,
    most: usize,
}

impl Found {
    /// False once nothing more is wanted.
    fn push(&mut self, (start, end): (u64, u64)) -> bool {
        match self.spans.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => self.spans.push((start, end)),
        }
        !self.is_full()
    }

    /// Back to so many, of which the last one was this.
    fn take_back(&mut self, (count, last): (usize, Option<(u64, u64)>)) {
        self.spans.truncate(count);
        if let (Some(now), Some(last)) = (self.spans.last_mut(), last) {
            *now = last;
        }
    }

    fn is_full(&self) -> bool {
        self.spans.len() > self.most
    }

    fn end(&self) -> u64 {
        self.spans.last().map_or(0, |&(_, end)| end)
    }

    fn clipped(self, from: u64, to: u64) -> Vec<Change> {
        let clip = |&(start, end): &(u64, u64)| {
            let (start, end) = ((start * SECTOR).max(from), (end * SECTOR).min(to));
            Change { offset: start, bytes: end - start }
        };
        self.spans.iter().take(self.most).map(clip).collect()
    }
}
