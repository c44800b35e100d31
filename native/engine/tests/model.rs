//! The engine against a plain vector of bytes: every instant, across rolls, clean stops and kills.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::journal::manifest::Manifest;
use cdp_engine::storage::Disk;
use cdp_engine::{Lsn, Maintenance, Options, Stamp, Volume, Zeroing};

const SIZE: u64 = 9 << 20;

struct Model {
    seed: u64,
    now: Vec<u8>,
    /// (LSN, the bytes after it).
    instants: Vec<(Lsn, Vec<u8>)>,
    given_up: Vec<Lsn>,
    compacted: usize,
}

impl Model {
    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % below
    }

    fn range(&mut self) -> (u64, u64) {
        let longest = [1, 511, 4096, 70_000, 300_000][self.random(5) as usize];
        let bytes = 1 + self.random(longest);
        let mut offset = self.random(SIZE - bytes);
        if self.random(2) == 0 {
            offset &= !511;
        }
        (offset, bytes)
    }

    fn step(&mut self, volume: &Volume) -> Lsn {
        let (offset, bytes) = self.range();
        let target = offset as usize..(offset + bytes) as usize;
        let lsn = match self.random(5) {
            0 => {
                self.now[target].fill(0);
                volume.zero(offset, bytes, if bytes % 2 == 0 { Zeroing::Trim } else { Zeroing::Zero })
            }
            kind => {
                let step = if kind == 1 { 1 } else { self.random(1 << 30) | 1 };
                let data: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(step) >> 3) as u8).collect();
                self.now[target].copy_from_slice(&data);
                volume.write(offset, &data)
            }
        };
        let lsn = lsn.unwrap();
        if self.random(24) == 0 {
            self.instants.push((lsn, self.now.clone()));
        }
        lsn
    }

    /// Goes back to any instant; the rollback is an instant too.
    fn roll_back(&mut self, volume: &Volume) {
        if self.instants.is_empty() {
            return;
        }
        let chosen = self.random(self.instants.len() as u64) as usize;
        let (to, bytes) = self.instants[chosen].clone();
        let lsn = volume.rollback(to).unwrap();
        self.now = bytes.clone();
        self.instants.push((lsn, bytes));
    }

    /// Moves the horizon and keeps some of the points below it.
    fn give_up(&mut self, volume: &Volume) {
        volume.flush().unwrap();
        let chosen = self.random(self.instants.len() as u64 + 1) as usize;
        let wanted = self.instants.get(chosen);
        let Some(horizon) = wanted.map(|(lsn, _)| (*lsn).max(volume.reachable().0.lsn)) else { return };
        let below: Vec<Lsn> = self.instants.iter().map(|i| i.0).filter(|&lsn| lsn < horizon).collect();
        let points: Vec<Lsn> = below.into_iter().filter(|_| self.random(2) == 0).collect();
        volume.retain(horizon, &points).unwrap();
        let gone = |lsn: Lsn| lsn < horizon && !points.contains(&lsn);
        self.given_up.extend(self.instants.iter().map(|i| i.0).filter(|&lsn| gone(lsn)));
        self.instants.retain(|(lsn, _)| !gone(*lsn));
    }

    fn compact(&mut self, volume: &Volume) {
        let need = if self.random(2) == 0 { 0 } else { 1 << 40 };
        let done = volume.compact(need, &mut |_| Ok(())).unwrap();
        self.compacted += done.segments_in;
    }

    fn check(&self, volume: &Arc<Volume>) {
        for &lsn in &self.given_up {
            assert_eq!(volume.view(lsn).err().map(|e| e.kind), Some(cdp_engine::Kind::NotFound), "LSN {lsn}");
        }
        let mut buffer = vec![1u8; SIZE as usize];
        for (lsn, bytes) in &self.instants {
            let view = volume.view(*lsn).unwrap();
            assert!(view.read(0, &mut buffer).unwrap().is_empty());
            assert!(&buffer == bytes, "at LSN {lsn}");
        }
        assert!(volume.live().read(0, &mut buffer).unwrap().is_empty());
        assert!(buffer == self.now, "live");
        for (offset, bytes) in [(1, 1), (511, 2), (4_194_303, 70_000), (SIZE - 1, 1)] {
            let part = &mut buffer[..bytes as usize];
            volume.live().read(offset, part).unwrap();
            assert!(part == &self.now[offset as usize..(offset + bytes) as usize]);
        }
        check_extents(volume, &self.now);
    }
}

fn check_extents(volume: &Arc<Volume>, now: &[u8]) {
    let extents = volume.live().extents(0, SIZE, usize::MAX).unwrap();
    assert_eq!(extents.iter().map(|e| e.bytes).sum::<u64>(), SIZE);
    assert!(extents.windows(2).all(|w| w[0].zero != w[1].zero));
    let mut at = 0;
    for extent in extents {
        let end = at + extent.bytes as usize;
        assert!(!extent.zero || now[at..end].iter().all(|&b| b == 0));
        at = end;
    }
}

fn options(maintenance: Maintenance) -> Options {
    Options {
        segment_bytes: 1 << 20,
        segment_entries: 2000,
        cache_bytes: 20_000,
        checkpoint_segments: 2,
        merge_fan: 3,
        maintenance,
        ..Options::default()
    }
}

fn open(folder: &Path, maintenance: Maintenance) -> Arc<Volume> {
    Volume::open(Arc::new(Disk::new(folder).unwrap()), None, options(maintenance)).unwrap()
}

/// True if checkpoints and runs were written on the way.
fn run(seed: u64, maintenance: Maintenance) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::new(folder.path()).unwrap());
    Volume::create(disk.clone(), [7; 16], SIZE, Stamp(1)).unwrap();
    let mut model =
        Model { seed, now: vec![0; SIZE as usize], instants: Vec::new(), given_up: Vec::new(), compacted: 0 };
    let mut volume = open(folder.path(), maintenance);
    for round in 0..4 {
        for _ in 0..60 {
            let batch: Vec<Lsn> = (0..1 + model.random(6)).map(|_| model.step(&volume)).collect();
            batch.iter().for_each(|&lsn| assert_eq!(volume.commit(lsn).unwrap(), lsn));
            if model.random(6) == 0 {
                volume.flush().unwrap();
            }
            if model.random(20) == 0 {
                volume.tick().unwrap();
            }
            if model.random(12) == 0 {
                model.roll_back(&volume);
            }
            if model.random(15) == 0 {
                model.give_up(&volume);
            }
            if model.random(8) == 0 {
                model.compact(&volume);
            }
        }
        model.check(&volume);
        let looker = Volume::open_read_only(disk.clone(), None, options(Maintenance::Inline)).unwrap();
        model.check(&looker);
        assert_eq!(looker.verify(&mut |_, _| Ok(())).unwrap(), []);
        assert_eq!(looker.faults(), Vec::<String>::new());
        assert!(Volume::open(disk.clone(), None, Options::default()).is_err(), "the lock holds");
        if round % 2 == 0 {
            volume.close().unwrap();
        }
        drop(volume);
        volume = open(folder.path(), maintenance);
        assert_eq!(volume.faults(), Vec::<String>::new());
        model.check(&volume);
        assert_eq!(volume.verify(&mut |_, _| Ok(())).unwrap(), []);
    }
    // Compaction may have left none of them.
    let (manifest, _) = Manifest::load(disk, None).unwrap();
    volume.close().unwrap();
    manifest.content.state.next_checkpoint > 1 && manifest.content.state.next_run > 1
}

#[test]
fn every_instant_equals_the_model() {
    let indexed = (1..4).filter(|&seed| run(seed, Maintenance::Inline)).count();
    assert!(indexed > 0, "nothing was indexed");
}

#[test]
fn with_a_maintenance_thread() {
    let _ = run(10, Maintenance::Thread);
}

#[test]
fn writers_race_and_all_is_there() {
    let folder = tempfile::tempdir().unwrap();
    Volume::create(Arc::new(Disk::new(folder.path()).unwrap()), [7; 16], SIZE, Stamp(1)).unwrap();
    let volume = open(folder.path(), Maintenance::Thread);
    let part = SIZE / 8;
    std::thread::scope(|scope| {
        for t in 0..8u64 {
            let volume = &volume;
            scope.spawn(move || {
                // Every byte twice, in odd pieces that share sectors with the neighbours.
                for round in 1..3u8 {
                    let mut at = t * part;
                    while at < (t + 1) * part {
                        let n = 3001.min((t + 1) * part - at);
                        let lsn = volume.write(at, &vec![t as u8 * 8 + round; n as usize]).unwrap();
                        volume.commit(lsn).unwrap();
                        at += n;
                    }
                    volume.flush().unwrap();
                }
            });
        }
    });
    let mut buffer = vec![0u8; SIZE as usize];
    volume.live().read(0, &mut buffer).unwrap();
    assert!((0..SIZE).all(|i| buffer[i as usize] == (i / part) as u8 * 8 + 2));
    volume.close().unwrap();
}
