//! A volume that grows: the size belongs to the instant, across rollbacks, clones, kills, checkpoints and compaction.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Kind, Lsn, Maintenance, Options, Stamp, Volume};

const MIB: u64 = 1 << 20;
const FIRST: u64 = MIB;
/// Beyond one leaf of the index, and beyond what the volume had.
const LARGEST: u64 = 9 * MIB;

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        segment_entries: 500,
        cache_bytes: 20_000,
        checkpoint_segments: 2,
        merge_fan: 3,
        maintenance: Maintenance::Inline,
        ..Options::default()
    }
}

fn disk(folder: &Path) -> Arc<Disk> {
    Arc::new(Disk::new(folder).unwrap())
}

fn create(folder: &Path) -> Arc<Volume> {
    Volume::create(disk(folder), [7; 16], FIRST, Stamp(1)).unwrap();
    open(folder)
}

fn open(folder: &Path) -> Arc<Volume> {
    Volume::open(disk(folder), None, options()).unwrap()
}

fn write(volume: &Volume, offset: u64, data: &[u8]) -> Lsn {
    volume.commit(volume.write(offset, data).unwrap()).unwrap()
}

fn content(volume: &Arc<Volume>, lsn: Option<Lsn>) -> Vec<u8> {
    let view = lsn.map_or_else(|| volume.live(), |lsn| volume.view(lsn).unwrap());
    let mut bytes = vec![0xaa; view.size() as usize];
    assert!(view.read(0, &mut bytes).unwrap().is_empty());
    let mut beyond = [0; 1];
    assert_eq!(view.read(view.size(), &mut beyond).map_err(|e| e.kind).unwrap_err(), Kind::Invalid);
    bytes
}

#[test]
fn growing_shows_zeros_at_once_and_older_instants_keep_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    let before = write(&volume, FIRST - 512, &[1; 512]);
    assert_eq!(volume.write(FIRST, &[2; 512]).unwrap_err().kind, Kind::Invalid);
    let live = volume.live();
    let grown = volume.resize(3 * FIRST).unwrap().unwrap();
    assert_eq!((volume.size(), live.size()), (3 * FIRST, 3 * FIRST), "for views of the live volume, too");
    assert_eq!(content(&volume, None)[FIRST as usize..], vec![0; 2 * FIRST as usize]);
    let after = write(&volume, 3 * FIRST - 512, &[3; 512]);
    assert_eq!(volume.view(before).unwrap().size(), FIRST);
    assert_eq!(volume.view(Lsn(0)).unwrap().size(), FIRST);
    assert_eq!(volume.view(grown).unwrap().size(), 3 * FIRST);
    assert_eq!(content(&volume, Some(after)).last(), Some(&3));
    assert_eq!(content(&volume, Some(grown)).last(), Some(&0));
    // What one of two instants does not have is a change.
    let changes = volume.view(after).unwrap().changed(&volume.view(before).unwrap(), 0, 3 * FIRST, 9).unwrap();
    assert_eq!(changes.iter().map(|c| (c.offset, c.bytes)).collect::<Vec<_>>(), [(FIRST, 2 * FIRST)]);
    volume.close().unwrap();
}

#[test]
fn what_cannot_be_is_refused_and_the_same_size_is_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    let latest = volume.latest();
    for bytes in [0, FIRST - 512, FIRST + 1, 1 << 57, u64::MAX] {
        assert_eq!(volume.resize(bytes).unwrap_err().kind, Kind::Invalid, "{bytes}");
    }
    assert_eq!(volume.resize(FIRST).unwrap(), None);
    assert_eq!((volume.latest(), volume.size()), (latest, FIRST));
    volume.close().unwrap();
    let looking = Volume::open_read_only(disk(folder.path()), None, options()).unwrap();
    assert_eq!(looking.resize(2 * FIRST).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn the_largest_volume_works_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    let most = ((1 << 48) - 1) * 512;
    volume.resize(most).unwrap();
    write(&volume, most - 4096, &[5; 4096]);
    volume.close().unwrap();
    let volume = open(folder.path());
    let mut end = [0; 8192];
    volume.live().read(most - 8192, &mut end).unwrap();
    assert_eq!((volume.size(), &end[..4096], &end[4096..]), (most, &[0; 4096][..], &[5; 4096][..]));
    volume.close().unwrap();
}

#[test]
fn a_rollback_brings_the_old_size_back_and_what_lay_beyond_does_not_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let volume = create(folder.path());
    let small = write(&volume, 0, &[1; 512]);
    volume.resize(2 * FIRST).unwrap();
    let large = write(&volume, FIRST, &[2; 512]);
    let back = volume.rollback(small).unwrap();
    assert_eq!((volume.size(), volume.view(back).unwrap().size()), (FIRST, FIRST));
    assert_eq!(volume.write(FIRST, &[3; 512]).unwrap_err().kind, Kind::Invalid);
    volume.resize(2 * FIRST).unwrap();
    assert_eq!(content(&volume, None)[FIRST as usize..][..512], [0; 512]);
    let undone = volume.rollback(large).unwrap();
    assert_eq!(content(&volume, Some(undone))[FIRST as usize..][..512], [2; 512]);
    volume.close().unwrap();
    let volume = open(folder.path());
    assert_eq!((volume.size(), volume.view(back).unwrap().size()), (2 * FIRST, FIRST));
    volume.close().unwrap();
}

#[test]
fn clones_begin_with_the_size_of_their_instant_and_grow_on_their_own() {
    let (folder, nested) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let volume = create(folder.path());
    let mut bases = vec![(write(&volume, 0, &[1; 512]), FIRST)];
    for factor in [2, 4] {
        volume.resize(factor * FIRST).unwrap();
        bases.push((write(&volume, factor * FIRST - 512, &[factor as u8; 512]), factor * FIRST));
    }
    for (number, (base, size)) in bases.into_iter().enumerate() {
        let place = nested.path().join(number.to_string());
        std::fs::create_dir(&place).unwrap();
        let link = |name: &str| std::fs::hard_link(folder.path().join(name), place.join(name));
        let id = [number as u8 + 20; 16];
        let fork = cdp_engine::Fork { id, created: Stamp(9), target: disk(&place), link: &link };
        volume.fork(base, &fork).unwrap();
        for round in 1..3 {
            let clone = open(&place);
            assert_eq!(clone.size(), size * round);
            assert_eq!(clone.view(base).unwrap().size(), size);
            assert!(content(&clone, Some(base)) == content(&volume, Some(base)));
            clone.resize(size * (round + 1)).unwrap();
            clone.close().unwrap();
        }
    }
    assert_eq!(volume.size(), 4 * FIRST);
    volume.close().unwrap();
}

/// The volume, and each instant's bytes, as long as they are.
struct Model {
    seed: u64,
    now: Vec<u8>,
    instants: Vec<(Lsn, Vec<u8>)>,
}

impl Model {
    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % below
    }

    fn step(&mut self, volume: &Arc<Volume>) {
        let lsn = match self.random(12) {
            0 if (self.now.len() as u64) < LARGEST => {
                let size = (self.now.len() as u64 + 512 * (1 + self.random(3000))).min(LARGEST);
                self.now.resize(size as usize, 0);
                volume.resize(size).unwrap().unwrap()
            }
            1 if !self.instants.is_empty() => {
                let chosen = self.random(self.instants.len() as u64) as usize;
                let to = self.instants[chosen].0;
                self.now = self.instants[chosen].1.clone();
                volume.rollback(to).unwrap()
            }
            _ => self.write(volume),
        };
        if self.random(5) == 0 {
            self.instants.push((lsn, self.now.clone()));
        }
    }

    fn write(&mut self, volume: &Volume) -> Lsn {
        let bytes = 1 + self.random(100_000);
        // Often across the end of an earlier size.
        let offset = (self.now.len() as u64 - bytes) / (1 + self.random(3));
        let byte = self.random(256) as u8;
        self.now[offset as usize..(offset + bytes) as usize].fill(byte);
        write(volume, offset, &vec![byte; bytes as usize])
    }

    fn give_up(&mut self, volume: &Volume) {
        volume.flush().unwrap();
        let chosen = self.random(self.instants.len() as u64 + 1) as usize;
        let Some(horizon) = self.instants.get(chosen).map(|i| i.0.max(volume.reachable().0.lsn)) else { return };
        let below: Vec<Lsn> = self.instants.iter().map(|i| i.0).filter(|&lsn| lsn < horizon).collect();
        let points: Vec<Lsn> = below.into_iter().filter(|_| self.random(2) == 0).collect();
        volume.retain(horizon, &points).unwrap();
        self.instants.retain(|(lsn, _)| *lsn >= horizon || points.contains(lsn));
        volume.compact(1 << 40, &mut |_| Ok(())).unwrap();
    }

    fn check(&self, volume: &Arc<Volume>) {
        for (lsn, bytes) in &self.instants {
            assert!(&content(volume, Some(*lsn)) == bytes, "at {lsn}");
        }
        assert_eq!(volume.size(), self.now.len() as u64);
        assert!(content(volume, None) == self.now);
    }
}

#[test]
fn every_instant_has_its_bytes_and_its_size() {
    for seed in 1..5 {
        let folder = tempfile::tempdir().unwrap();
        let mut volume = create(folder.path());
        let mut model = Model { seed, now: vec![0; FIRST as usize], instants: Vec::new() };
        for round in 0..6 {
            for _ in 0..40 {
                model.step(&volume);
            }
            if round > 1 {
                model.give_up(&volume);
            }
            model.check(&volume);
            if model.random(2) == 0 {
                volume.close().unwrap();
            }
            // Else what a kill leaves: all that was replied to is there.
            drop(volume);
            let looking = Volume::open_read_only(disk(folder.path()), None, options()).unwrap();
            model.check(&looking);
            drop(looking);
            volume = open(folder.path());
            model.check(&volume);
            assert!(volume.verify(&mut |_, _| Ok(())).unwrap().is_empty(), "seed {seed}");
        }
        volume.close().unwrap();
    }
}
