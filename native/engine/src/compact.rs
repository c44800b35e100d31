//! Compaction: sealed segments below the horizon are written anew with what an instant still sees.
//!
//! Mark (what is dead in each segment, from the index alone), choose (pure), rewrite, one manifest commit, then the old files go. Before the commit a failure
//! throws the output away; after it the old files are leftovers that any opening removes. Views find moved payloads by LSN and start (`index/map.rs`).

pub(crate) mod background;
mod choose;
mod cut;
mod remove;
mod rewrite;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::compact::choose::{choose, Candidate};
use crate::compact::remove::Remover;
use crate::error::Result;
use crate::index::reachable::{branches, Branch, Mask, Walk};
use crate::index::sealed::{Sealed, SealedSet};
use crate::journal::segment::file_name;
use crate::units::SegmentId;
use crate::volume::Volume;

pub use crate::compact::choose::ALL;

/// What one commit's outputs hold, and what its inputs do, in segments: both are there besides what counts as used, and the reserve has to hold them.
const KEPT_SEGMENTS: u64 = 1;
const GONE_SEGMENTS: u64 = 2;
/// A cycle under pressure frees this part of what is dead, if not more: each looks at the whole index.
const PART_MIN: f64 = 1.0 / 6.0;
/// The same where nearly all is dead. The larger the dead part of what is used, the less it matters which segments go first.
const PART_MAX: f64 = 0.5;
/// Entries of whose names a walk keeps a list for all segments; beyond that a second walk asks for the chosen ones.
const NAMES_MAX: u64 = 2_000_000;

/// What one cycle did, in bytes of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    pub segments_in: usize,
    pub segments_out: usize,
    pub written: u64,
    pub freed: u64,
    /// What rewriting everything that may be rewritten would still free.
    pub dead: u64,
}

impl Compacted {
    fn add(&mut self, part: &Compacted) {
        self.segments_in += part.segments_in;
        self.segments_out += part.segments_out;
        self.written += part.written;
        self.freed += part.freed;
        self.dead = self.dead.saturating_sub(part.freed);
    }
}

/// (LSN, start) of an entry.
type Name = (u64, u64);

/// Neighbouring segments that are written anew as one.
struct Unit {
    inputs: Vec<Arc<Sealed>>,
    /// What stays, ascending.
    names: Vec<Name>,
    /// Of these, what stays in part.
    cuts: HashMap<Name, Mask>,
    kept: u64,
}

impl Unit {
    fn of(ids: &[u32], sealed: &SealedSet, kept: &mut HashMap<u32, Kept>) -> Unit {
        let inputs = ids.iter().filter_map(|&id| sealed.with_id(id).cloned()).collect();
        let mut unit = Unit { inputs, names: Vec::new(), cuts: HashMap::new(), kept: 0 };
        for of_segment in ids.iter().filter_map(|id| kept.remove(id)) {
            unit.names.extend(of_segment.names);
            unit.cuts.extend(of_segment.cuts);
            unit.kept += of_segment.bytes;
        }
        unit.names.sort_unstable();
        unit
    }

    /// Of the files that it replaces.
    fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.item.file_bytes).sum()
    }
}

/// The entries of one segment that stay, and their bytes.
#[derive(Default)]
struct Kept {
    bytes: u64,
    names: Vec<Name>,
    cuts: HashMap<Name, Mask>,
}

/// Called with each megabyte or so of work; an error of its ends the cycle.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

impl Volume {
    /// One cycle: rewrites the segments that give back most, until `need` bytes, and a part of all that is dead, are free; with 0, those that are at least half dead; with [`ALL`],
    /// all that may be rewritten, also where that frees nothing.
    ///
    /// One cycle runs at a time. It changes nothing that an instant shows.
    pub fn compact(&self, need: u64, pace: Pace<'_>) -> Result<Compacted> {
        let _one_at_a_time = self.compaction.lock();
        self.check_writable()?;
        let sealed = self.index.sealed();
        let (horizon, points, branches) = self.stops(&sealed);
        // The newest too: recovery of open segments begins at its last LSN, and what replaces it has the same.
        let eligible: HashSet<u32> =
            sealed.iter().filter(|s| s.item.last_lsn.0 <= horizon).map(|s| s.item.id.0).collect();
        if eligible.is_empty() {
            self.gate.meter.looked(0, horizon, points);
            return Ok(Compacted::default());
        }
        let entries: u64 =
            sealed.iter().filter(|s| eligible.contains(&s.item.id.0)).map(|s| u64::from(s.item.entries)).sum();
        let few = entries <= NAMES_MAX;
        let mut kept = self.mark(&sealed, horizon, &branches, |id| few && eligible.contains(&id))?;
        let candidates = self.candidates(&sealed, &eligible, &kept);
        let dead: u64 = candidates.iter().map(Candidate::dead).sum();
        // A look at the whole index is worth more than the last few bytes.
        let part = (dead as f64 / self.gate.meter.used().max(1) as f64).clamp(PART_MIN, PART_MAX);
        let need = if need > 0 { need.max((dead as f64 * part) as u64) } else { 0 };
        let mut units = choose(&candidates, need, self.gate.meter.segment_bytes());
        if !few && !units.is_empty() {
            let chosen: HashSet<u32> = units.iter().flatten().copied().collect();
            kept = self.mark(&sealed, horizon, &branches, |id| chosen.contains(&id))?;
        }
        let mut done = Compacted { dead, ..Compacted::default() };
        // At once: what has to be given up besides is decided by it.
        self.gate.meter.looked(done.dead, horizon, points);
        if !units.is_empty() && self.gate.meter.is_disk_full() {
            // What the cycle frees is worth more than it takes meanwhile; what takes least comes first.
            self.give_reserve_up();
            let bytes: HashMap<u32, u64> = candidates.iter().map(|c| (c.id, c.kept)).collect();
            units.sort_by_key(|unit| unit.iter().filter_map(|id| bytes.get(id)).sum::<u64>());
        }
        let mut together: Vec<Unit> = Vec::new();
        let mut remover = Remover::of(self);
        let mut rewrite =
            |units: &[Unit]| self.rewrite(units, &mut remover, pace).inspect_err(|e| self.no_room_to_compact(e));
        for ids in units {
            let unit = Unit::of(&ids, &sealed, &mut kept);
            let kept: u64 = together.iter().chain([&unit]).map(|unit| unit.kept).sum();
            let gone: u64 = together.iter().chain([&unit]).map(Unit::bytes).sum();
            let segment = self.gate.meter.segment_bytes();
            if !together.is_empty() && (kept > KEPT_SEGMENTS * segment || gone > GONE_SEGMENTS * segment) {
                done.add(&rewrite(&together)?);
                self.gate.meter.looked(done.dead, horizon, points);
                together.clear();
            }
            together.push(unit);
        }
        done.add(&rewrite(&together)?);
        self.gate.meter.looked(done.dead, horizon, points);
        Ok(done)
    }

    /// The horizon, the number of points, and where the walk has to look.
    fn stops(&self, sealed: &SealedSet) -> (u64, usize, Vec<Branch>) {
        let (horizon, points) = self.reachable();
        let points: Vec<u64> = points.iter().map(|p| p.lsn.0).collect();
        let newest = sealed.last().map_or(0, |s| s.item.last_lsn.0);
        (horizon.lsn.0, points.len(), branches(&self.index.lineage(), horizon.lsn.0, &points, newest))
    }

    /// What stays of each segment that has records at or below the horizon; with names where `named`.
    fn mark(
        &self,
        sealed: &SealedSet,
        horizon: u64,
        branches: &[Branch],
        named: impl Fn(u32) -> bool,
    ) -> Result<HashMap<u32, Kept>> {
        let named: Vec<bool> = sealed.iter().map(|s| named(s.item.id.0)).collect();
        let mut kept: Vec<Kept> = sealed.iter().map(|_| Kept::default()).collect();
        let walk = Walk::begin(&self.index.files, sealed, horizon, branches)?;
        walk.run(&mut |holder, version, mask| {
            if mask == 0 {
                return Ok(());
            }
            let of_segment = &mut kept[holder];
            let (bytes, cut) = cut::kept(version, mask);
            of_segment.bytes += bytes;
            if named[holder] {
                let name = (version.lsn, version.start);
                of_segment.names.push(name);
                of_segment.cuts.extend(cut.map(|mask| (name, mask)));
            }
            Ok(())
        })?;
        Ok(sealed.iter().map(|s| s.item.id.0).zip(kept).collect())
    }

    fn candidates(&self, sealed: &SealedSet, eligible: &HashSet<u32>, kept: &HashMap<u32, Kept>) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (place, segment) in sealed.iter().enumerate() {
            let item = &segment.item;
            if !eligible.contains(&item.id.0) {
                continue;
            }
            let links = self.storage.links(&file_name(SegmentId(item.id.0))).unwrap_or(1);
            candidates.push(Candidate {
                id: item.id.0,
                place,
                clock_epoch: item.clock_epoch,
                writer: *self.facts.writer_of(item.first_lsn.0),
                span: (item.first_lsn.0, item.last_lsn.0),
                bytes: item.file_bytes,
                kept: kept.get(&item.id.0).map_or(0, |k| k.bytes),
                shared: links > 1,
            });
        }
        candidates
    }
}
