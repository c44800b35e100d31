//! A journal at rest, part of it compacted, with what it must show at every instant, and which payload each sector is read from.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use cdp_engine::journal::batch::RecordKind;
use cdp_engine::journal::compacted;
use cdp_engine::journal::manifest::{Manifest, SegmentItem};
use cdp_engine::journal::recover;
use cdp_engine::journal::scan::scan;
use cdp_engine::journal::segment::{file_name, open, OpenSegment};
use cdp_engine::storage::Storage;
use cdp_engine::{Lsn, Volume, SECTOR};
use cdp_sim::oracle::compare;
use cdp_sim::scenario::{draw, Step};
use cdp_sim::story::{Story, VOLUME_BYTES};
use cdp_sim::Machine;

/// Where the payload of one directory entry lies, and which sectors it covers; of a control record none.
#[derive(Clone, Debug)]
pub struct Payload {
    pub file: String,
    pub compacted: bool,
    pub bytes: Range<u64>,
    pub lsn: u64,
    pub covers: Range<u64>,
}

/// What an instant shows: bytes, and by sector the LSN of the record that they are from.
pub struct Instant {
    pub lsn: u64,
    state: Vec<u8>,
    owners: Vec<u64>,
}

impl Instant {
    /// The sectors that are read from one of the payloads.
    pub fn shows(&self, payloads: &[Payload]) -> BTreeSet<u64> {
        let own = |p: &Payload| p.covers.clone().filter(|&s| self.owners[s as usize] == p.lsn).collect::<Vec<_>>();
        payloads.iter().flat_map(own).collect()
    }
}

pub struct Rest {
    pub machine: Machine,
    pub instants: Vec<Instant>,
    pub payloads: Vec<Payload>,
}

/// Checkpoints and merged runs were written before the compaction: they have hints for much of it.
pub fn rest(seed: u64) -> Rest {
    let mut story = compacted_story(seed, 6);
    story.run(&draw(seed + 1, 12, VOLUME_BYTES));
    story.settle_down();
    assert!(story.close());
    let lsns = story.oracle.instants(u64::MAX);
    let payloads = payloads_of(&story.machine.fork(), true);
    let moved = payloads.iter().filter(|p| p.compacted && !p.covers.is_empty()).count();
    assert!(moved > 10, "{moved} of {} payloads were compacted", payloads.len());
    for kind in ["checkpoint", "run"] {
        assert!(story.machine.files().iter().any(|(name, _)| name.starts_with(kind)), "there is no {kind}");
    }
    Rest::of(story, &lsns, payloads)
}

/// A volume that is open, whose older history, but for one instant in so many, was given up and compacted.
pub fn compacted_story(seed: u64, one_in: usize) -> Story {
    let mut story = Story::begin(seed);
    story.run(&draw(seed, 110, VOLUME_BYTES));
    story.settle_down();
    thin_out(&mut story, 80, one_in);
    story.run(&[Step::Compact { all: true }]);
    story
}

/// Gives up the older `percent` of the instants, but for one in so many.
pub fn thin_out(story: &mut Story, percent: usize, one_in: usize) {
    story.commit(true, 0);
    story.flush();
    let instants = story.oracle.instants(story.oracle.last_flushed());
    let (old, new) = instants.split_at(instants.len() * percent / 100);
    let horizon = new[0].max(story.oracle.horizon());
    let points: Vec<u64> = old.iter().step_by(one_in).copied().filter(|&lsn| lsn < horizon).collect();
    story.give_up(horizon, &points);
}

impl Rest {
    pub fn of(story: Story, lsns: &[u64], payloads: Vec<Payload>) -> Rest {
        let oracle = &story.oracle;
        let instant = |&lsn: &u64| Instant { lsn, state: oracle.state_at(lsn), owners: oracle.owners_at(lsn) };
        Rest { instants: lsns.iter().map(instant).collect(), machine: story.machine, payloads }
    }

    /// The payloads that are not as they were.
    pub fn hit(&self, machine: &Machine) -> Vec<Payload> {
        let mut hit = Vec::new();
        for (file, _) in self.machine.files() {
            let (old, new) = (self.machine.contents(&file).expect("listed"), machine.contents(&file));
            let changed = |p: &&Payload| {
                let bytes = p.bytes.start as usize..p.bytes.end as usize;
                p.file == file && new.as_ref().and_then(|new| new.get(bytes.clone())) != old.get(bytes)
            };
            if new.as_ref() != Some(&old) {
                hit.extend(self.payloads.iter().filter(changed).cloned());
            }
        }
        hit
    }

    /// At one in so many instants, the last one among them: the sectors that show a payload that was hit cannot be read, and all others are right.
    pub fn confined(&self, volume: &Arc<Volume>, hit: &[Payload], one_in: usize) {
        for instant in self.instants.iter().rev().step_by(one_in) {
            instant.is_confined(volume, hit);
        }
    }
}

impl Instant {
    pub fn is_confined(&self, volume: &Arc<Volume>, hit: &[Payload]) {
        let lsn = self.lsn;
        let view = volume.view(Lsn(lsn)).unwrap_or_else(|e| panic!("a view at LSN {lsn}: {e}"));
        let mut seen = vec![0xAA; self.state.len()];
        let mut want = self.state.clone();
        let mut unread = BTreeSet::new();
        for fault in view.read(0, &mut seen).unwrap_or_else(|e| panic!("read at LSN {lsn}: {e}")) {
            let (start, end) = (fault.offset, fault.offset + fault.bytes);
            for sector in start / SECTOR..end.div_ceil(SECTOR) {
                let owner = self.owners[sector as usize];
                assert_eq!(fault.lsn.0, owner, "LSN {lsn}: sector {sector} is another record's: {fault:?}");
                unread.insert(sector);
            }
            want[start as usize..end as usize].fill(0);
        }
        assert_eq!(unread, self.shows(hit), "LSN {lsn}: the sectors that cannot be read; hit: {hit:?}");
        compare(lsn, &want, &seen, "outside of the faults");
    }
}

/// Of the sealed segments, or of all.
pub fn payloads_of(machine: &Machine, sealed: bool) -> Vec<Payload> {
    let storage: Arc<dyn Storage> = machine.boot();
    let (manifest, _) = Manifest::load(storage.clone(), None).expect("a whole manifest");
    let volume = recover::Volume::new(&manifest.content);
    let mut payloads = Vec::new();
    for item in manifest.content.segments.values().filter(|item| item.sealed || !sealed) {
        let segment = open(&*storage, item.id, item.nonce, false).expect("a segment that the manifest names");
        match item.compacted {
            true => payloads_moved(&segment, item, &volume, &mut payloads),
            false => payloads_written(&segment, item, &mut payloads),
        }
    }
    assert!(payloads.len() > 20, "too small a journal to say anything");
    payloads
}

fn payloads_written(segment: &OpenSegment, item: &SegmentItem, payloads: &mut Vec<Payload>) {
    let found = scan(segment, item.sealed.then_some(item.footer_offset)).expect("a sound disk reads");
    for placed in found.metas.iter().flat_map(|meta| meta.placed()) {
        let entry = placed.entry;
        let place = (entry.kind, entry.start, entry.sectors);
        push(payloads, item, place, placed.lsn, placed.offset, entry.stored);
    }
}

fn payloads_moved(segment: &OpenSegment, item: &SegmentItem, volume: &recover::Volume, payloads: &mut Vec<Payload>) {
    let contents = compacted::read(segment, item, volume).expect("a sound disk reads");
    assert!(contents.damaged.is_empty());
    for row in &contents.rows {
        push(payloads, item, (row.kind, row.start, row.sectors), row.lsn, row.offset, row.stored);
    }
}

fn push(
    payloads: &mut Vec<Payload>,
    item: &SegmentItem,
    (kind, start, sectors): (RecordKind, u64, u64),
    lsn: u64,
    offset: u64,
    stored: u32,
) {
    let covers = match kind {
        RecordKind::Data => start..start + sectors,
        RecordKind::Control => 0..0,
        _ => return,
    };
    let bytes = offset..offset + u64::from(stored);
    payloads.push(Payload { file: file_name(item.id), compacted: item.compacted, bytes, lsn, covers });
}
