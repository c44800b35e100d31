//! The figures of `cdp log` against a plain list of what was written, with a clock of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use cdp_engine::storage::{Disk, File, Lock, Storage};
use cdp_engine::timeline::Interval;
use cdp_engine::{Lsn, Maintenance, Options, Stamp, Volume, Zeroing};

const SIZE: u64 = 4 << 20;
const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_037 * SECOND;

/// A disk whose clock the test sets.
struct Clocked {
    disk: Disk,
    now: AtomicU64,
}

impl Storage for Clocked {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        self.disk.open(name, write)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.disk.lock()
    }
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }
}

struct Written {
    lsn: u64,
    stamp: u64,
    zero: bool,
    start: u64,
    sectors: u64,
}

struct Story {
    storage: Arc<Clocked>,
    volume: Arc<Volume>,
    seed: u64,
    written: Vec<Written>,
    flushed: BTreeSet<u64>,
}

fn options() -> Options {
    options_for(1 << 20)
}

fn options_for(overwrite_entries: u64) -> Options {
    Options {
        segment_bytes: 256 << 10,
        segment_entries: 300,
        checkpoint_segments: 2,
        overwrite_entries,
        maintenance: Maintenance::Inline,
        ..Options::default()
    }
}

impl Story {
    fn new(folder: &Path) -> Story {
        let storage = Arc::new(Clocked { disk: Disk::new(folder).unwrap(), now: AtomicU64::new(START) });
        Volume::create(storage.clone(), [3; 16], SIZE, Stamp(START)).unwrap();
        let volume = Volume::open(storage.clone(), None, options()).unwrap();
        Story { storage, volume, seed: 11, written: Vec::new(), flushed: BTreeSet::new() }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % below
    }

    fn step(&mut self) {
        let pause = [0, 1, 10_000_000, 700_000_000, 40 * SECOND][self.random(5) as usize];
        let later = self.storage.now.load(Ordering::Relaxed) + pause;
        // Now and then a border between intervals, to the nanosecond.
        let stamp = if self.random(6) == 0 { later.next_multiple_of(10 * SECOND) } else { later };
        self.storage.now.store(stamp, Ordering::Relaxed);
        let longest = [8, 8, 300][self.random(3) as usize];
        let sectors = 1 + self.random(longest);
        let start = self.random(SIZE / 512 - sectors);
        let zero = self.random(4) == 0;
        let lsn = match zero {
            true => self.volume.zero(start * 512, sectors * 512, Zeroing::Trim),
            false => self.volume.write(start * 512, &content(self.seed, sectors)),
        };
        let lsn = lsn.unwrap();
        self.volume.commit(lsn).unwrap();
        self.written.push(Written { lsn: lsn.0, stamp, zero, start, sectors });
        if self.random(9) == 0 {
            self.volume.flush().unwrap();
            self.flushed.insert(lsn.0);
            if self.random(2) == 0 {
                self.volume.tick().unwrap();
            }
        }
    }

    /// What `timeline` is to say, but for the stored bytes.
    fn expected(&self, since: u64, until: u64, length: u64) -> Vec<Interval> {
        let mut rows: BTreeMap<u64, (Interval, BTreeSet<u64>)> = BTreeMap::new();
        for it in self.written.iter().filter(|it| since < it.lsn && it.lsn <= until) {
            let (row, sectors) = rows.entry(it.stamp / length * length).or_default();
            if it.zero {
                row.zero_records += 1;
            } else {
                row.data_records += 1;
                row.raw_bytes += it.sectors * 512;
                sectors.extend(it.start..it.start + it.sectors);
            }
            if self.flushed.contains(&it.lsn) {
                row.flush_points += 1;
                row.last_flush = Some(Lsn(it.lsn));
            }
        }
        let finish = |(stamp, (row, sectors)): (u64, (Interval, BTreeSet<u64>))| Interval {
            stamp,
            distinct_bytes: Some(sectors.len() as u64 * 512),
            ..row
        };
        rows.into_iter().map(finish).collect()
    }

    fn check(&self, volume: &Arc<Volume>, detailed: bool) {
        let lsns: Vec<u64> = self.written.iter().map(|it| it.lsn).collect();
        let last = *lsns.last().unwrap();
        let flushed = *self.flushed.first().unwrap();
        let mut ranges = vec![(0, last), (flushed, last), (lsns[400], lsns[900]), (lsns[700], lsns[701]), (last, last)];
        ranges.extend(lsns.windows(40).step_by(211).map(|window| (window[0], window[39])));
        ranges.extend(self.flushed.iter().step_by(29).map(|&lsn| (lsns[0], lsn)));
        for (since, until) in ranges {
            let mut stored = None;
            for length in [SECOND / 4, 10 * SECOND, 60 * SECOND, 3600 * SECOND, 86400 * SECOND] {
                let told = volume.timeline(Lsn(since), Lsn(until), length).unwrap().intervals;
                let sum: u64 = told.iter().map(|row| row.stored_bytes).sum();
                assert_eq!(*stored.get_or_insert(sum), sum, "the same bytes, however they are cut");
                let mut told = told;
                told.iter_mut().for_each(|row| row.stored_bytes = 0);
                let mut expected = self.expected(since, until, length);
                expected.iter_mut().filter(|_| !detailed).for_each(|row| row.distinct_bytes = None);
                assert_eq!(told.len(), expected.len(), "{since}..={until} by {length}");
                for (told, expected) in told.iter().zip(&expected) {
                    assert_eq!(told, expected, "{since}..={until} by {length}");
                }
            }
        }
        let stamps = volume.stamps(&lsns.iter().map(|&lsn| Lsn(lsn)).collect::<Vec<_>>()).unwrap();
        let known: Vec<(Lsn, Stamp)> = self.written.iter().map(|it| (Lsn(it.lsn), Stamp(it.stamp))).collect();
        assert_eq!(stamps, known);
    }
}

/// Bytes of which a half compresses.
fn content(seed: u64, sectors: u64) -> Vec<u8> {
    let noise = |i: u64| (seed ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(seed | 1);
    (0..sectors * 64).flat_map(|i| if i % 128 < 64 { noise(i) } else { seed }.to_le_bytes()).collect()
}

#[test]
fn every_interval_equals_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::new(folder.path());
    (0..1000).for_each(|_| story.step());
    story.check(&story.volume.clone(), true);
    story.volume.close().unwrap();
    story.volume = Volume::open(story.storage.clone(), None, options()).unwrap();
    (0..300).for_each(|_| story.step());
    story.check(&story.volume.clone(), true);
    let looking = Volume::open_read_only(story.storage.clone(), None, options()).unwrap();
    story.check(&looking, true);
    let quick = Volume::open_read_only(story.storage.clone(), None, options_for(0)).unwrap();
    story.check(&quick, false);
}

#[test]
fn the_same_without_footers() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::new(folder.path());
    (0..1200).for_each(|_| story.step());
    story.volume.close().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("segment-") {
            let mut bytes = std::fs::read(&path).unwrap();
            let trailer = bytes.len() - 50;
            bytes[trailer] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    for (entries, detailed) in [(1 << 20, true), (0, false)] {
        let looking = Volume::open_read_only(story.storage.clone(), None, options_for(entries)).unwrap();
        story.check(&looking, detailed);
    }
}

#[test]
fn too_many_intervals_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::new(folder.path());
    (0..1000).for_each(|_| story.step());
    let last = Lsn(story.written.last().unwrap().lsn);
    assert!(story.volume.timeline(Lsn::ZERO, last, 1_000_000).is_err());
    assert!(story.volume.timeline(Lsn::ZERO, last, 0).is_err());
}

#[test]
fn what_was_compacted_keeps_its_figures_by_the_minute() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Story::new(folder.path());
    (0..1200).for_each(|_| story.step());
    story.volume.flush().unwrap();
    let last = Lsn(story.written.last().unwrap().lsn);
    let figures = |length: u64| {
        let told = story.volume.timeline(Lsn::ZERO, last, length).unwrap();
        let rows = told.intervals.iter().filter(|it| it.data_records + it.zero_records > 0);
        let rows: Vec<_> =
            rows.map(|it| (it.stamp, it.data_records, it.zero_records, it.raw_bytes, it.stored_bytes)).collect();
        (told.length, rows)
    };
    let lengths = [60 * SECOND, 600 * SECOND, 86400 * SECOND];
    let before: Vec<_> = lengths.iter().map(|&length| figures(length)).collect();
    story.volume.retain(Lsn(story.written[900].lsn), &[]).unwrap();
    assert!(story.volume.compact(1 << 40, &mut |_| Ok(())).unwrap().segments_in > 4);
    let after: Vec<_> = lengths.iter().map(|&length| figures(length)).collect();
    assert_eq!(after, before);
    assert_eq!(figures(10 * SECOND), before[0], "where some was compacted an interval is a minute at least");
    // A part that begins at the horizon has what it had, and its overwrite share.
    let horizon = story.volume.reachable().0;
    let part = story.volume.timeline(horizon.lsn, last, 10 * SECOND).unwrap();
    assert_eq!(part.length, 10 * SECOND);
    let raw: u64 = part.intervals.iter().map(|it| it.raw_bytes).sum();
    let expected = story.expected(horizon.lsn.0, last.0, 10 * SECOND);
    assert_eq!(raw, expected.iter().map(|it| it.raw_bytes).sum::<u64>());
    assert!(part.intervals.iter().all(|it| it.distinct_bytes.is_some()));
}
