//! A family of timelines against plain vectors of bytes: clones of clones, rollbacks, kills, compaction and deletions in any order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Fork, Kind, Lsn, Maintenance, Options, Stamp, Volume, Zeroing};

const SIZE: u64 = 1 << 20;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// A volume, and every state of it that has to be there.
struct Timeline {
    folder: PathBuf,
    id: [u8; 16],
    volume: Arc<Volume>,
    now: Vec<u8>,
    instants: Vec<(Lsn, Vec<u8>)>,
    /// Instants of the parent that the clone must not have.
    foreign: Vec<Lsn>,
}

fn options(id: [u8; 16]) -> Options {
    Options {
        segment_bytes: 96 << 10,
        cache_bytes: 20_000,
        checkpoint_segments: 2,
        maintenance: Maintenance::Inline,
        volume_id: Some(id),
        ..Options::default()
    }
}

fn disk(folder: &Path) -> Arc<Disk> {
    Arc::new(Disk::new(folder).unwrap())
}

impl Timeline {
    fn create(folder: PathBuf, id: [u8; 16]) -> Timeline {
        std::fs::create_dir(&folder).unwrap();
        Volume::create(disk(&folder), id, SIZE, Stamp(1)).unwrap();
        let volume = Volume::open(disk(&folder), None, options(id)).unwrap();
        let now = vec![0; SIZE as usize];
        Timeline { folder, id, volume, now: now.clone(), instants: vec![(Lsn(0), now)], foreign: Vec::new() }
    }

    fn write(&mut self, chance: &mut Chance) {
        let longest = [512, 4096, 40_000][chance.below(3) as usize];
        let bytes = 1 + chance.below(longest);
        let offset = chance.below(SIZE - bytes) & if chance.below(2) == 0 { !511 } else { !0 };
        let target = offset as usize..(offset + bytes) as usize;
        let lsn = if chance.below(6) == 0 {
            self.now[target].fill(0);
            self.volume.zero(offset, bytes, Zeroing::Trim).unwrap()
        } else {
            let step = chance.below(1 << 30) | 1;
            let data: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(step) >> 3) as u8).collect();
            self.now[target].copy_from_slice(&data);
            self.volume.write(offset, &data).unwrap()
        };
        self.volume.commit(lsn).unwrap();
        if chance.below(8) == 0 {
            self.instants.push((lsn, self.now.clone()));
        }
    }

    fn roll_back(&mut self, chance: &mut Chance) {
        let (to, bytes) = self.instants[chance.below(self.instants.len() as u64) as usize].clone();
        let lsn = self.volume.rollback(to).unwrap();
        assert_eq!(self.volume.last_rollback().unwrap().0, lsn);
        self.now = bytes.clone();
        self.instants.push((lsn, bytes));
    }

    fn undo(&mut self) {
        let before = self.now.clone();
        let Ok((_, to)) = self.volume.last_rollback() else { return };
        let mut was = vec![0; SIZE as usize];
        // It may have been given up.
        let Ok(view) = self.volume.view(to) else { return };
        view.read(0, &mut was).unwrap();
        self.volume.rollback(to).unwrap();
        self.now.clone_from(&was);
        self.check_live();
        // What undoes an undo: the same again.
        let (_, to) = self.volume.last_rollback().unwrap();
        self.volume.rollback(to).unwrap();
        self.now = before;
        self.check_live();
    }

    /// Gives up some instants, and compacts.
    fn give_up(&mut self, chance: &mut Chance) {
        self.volume.flush().unwrap();
        let horizon = self.instants[chance.below(self.instants.len() as u64) as usize].0;
        let horizon = horizon.max(self.volume.reachable().0.lsn);
        let kept = |lsn: Lsn, chance: &mut Chance| lsn >= horizon || chance.below(2) == 0;
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.instants).into_iter().partition(|(lsn, _)| kept(*lsn, chance));
        let points: Vec<Lsn> = stay.iter().map(|(lsn, _)| *lsn).filter(|&lsn| lsn < horizon).collect();
        self.volume.retain(horizon, &points).unwrap();
        self.volume.compact(1 << 40, &mut |_| Ok(())).unwrap();
        self.instants = stay;
        self.foreign.extend(go.into_iter().map(|(lsn, _)| lsn));
    }

    fn clone_at(&self, chance: &mut Chance, folder: PathBuf, id: [u8; 16]) -> Timeline {
        let (base, bytes) = &self.instants[chance.below(self.instants.len() as u64) as usize];
        std::fs::create_dir(&folder).unwrap();
        fork(&self.volume, *base, &self.folder, &folder, id).unwrap();
        let volume = Volume::open(disk(&folder), None, options(id)).unwrap();
        let foreign = self.instants.iter().map(|(lsn, _)| *lsn).filter(|lsn| lsn != base).collect();
        let clone =
            Timeline { folder, id, volume, now: bytes.clone(), instants: vec![(*base, bytes.clone())], foreign };
        assert_eq!(clone.volume.latest().0, *base);
        assert_eq!(clone.volume.oldest().lsn, *base);
        assert!(clone.volume.latest().1 <= self.volume.latest().1);
        clone
    }

    fn check_live(&self) {
        let mut buffer = vec![1u8; SIZE as usize];
        assert!(self.volume.live().read(0, &mut buffer).unwrap().is_empty());
        assert!(buffer == self.now, "live of {:?}", self.folder);
    }

    fn check(&self, volume: &Arc<Volume>) {
        let mut buffer = vec![1u8; SIZE as usize];
        for (lsn, bytes) in &self.instants {
            assert!(volume.view(*lsn).unwrap().read(0, &mut buffer).unwrap().is_empty());
            assert!(&buffer == bytes, "{:?} at LSN {lsn}", self.folder);
        }
        assert!(volume.live().read(0, &mut buffer).unwrap().is_empty());
        assert!(buffer == self.now, "live of {:?}", self.folder);
        for &lsn in &self.foreign {
            assert_eq!(volume.view(lsn).err().map(|e| e.kind), Some(Kind::NotFound), "{:?} at {lsn}", self.folder);
        }
        assert_eq!(volume.verify(&mut |_, _| Ok(())).unwrap(), []);
        assert_eq!(volume.faults(), Vec::<String>::new());
    }

    fn reopen(&mut self, cleanly: bool) {
        if cleanly {
            self.volume.close().unwrap();
        }
        let looker = Volume::open_read_only(disk(&self.folder), None, options(self.id)).unwrap();
        self.check(&looker);
        // The lock goes with the last reference: a kill.
        let unused = tempfile::tempdir().unwrap();
        Volume::create(disk(unused.path()), [1; 16], SIZE, Stamp(1)).unwrap();
        self.volume = Volume::open(disk(unused.path()), None, Options::default()).unwrap();
        self.volume = Volume::open(disk(&self.folder), None, options(self.id)).unwrap();
        self.check(&self.volume);
    }
}

fn fork(volume: &Arc<Volume>, base: Lsn, from: &Path, to: &Path, id: [u8; 16]) -> cdp_engine::Result<()> {
    let link = |name: &str| std::fs::hard_link(from.join(name), to.join(name));
    volume.fork(base, &Fork { id, created: Stamp(u64::MAX >> 1), target: disk(to), link: &link })
}

fn run(seed: u64) {
    let store = tempfile::tempdir().unwrap();
    let mut chance = Chance(seed);
    let mut family = vec![Timeline::create(store.path().join("0"), [7; 16])];
    for step in 1..700u64 {
        let chosen = chance.below(family.len() as u64) as usize;
        let members = family.len();
        let timeline = &mut family[chosen];
        match chance.below(60) {
            0 | 1 if members < 6 => {
                let mut id = [step as u8; 16];
                id[8..].copy_from_slice(&step.to_le_bytes());
                let clone = family[chosen].clone_at(&mut chance, store.path().join(step.to_string()), id);
                clone.check(&clone.volume);
                family.push(clone);
            }
            2 | 3 => timeline.roll_back(&mut chance),
            4 => timeline.undo(),
            5 => timeline.reopen(chance.below(2) == 0),
            6 => timeline.volume.flush().unwrap(),
            7 => timeline.volume.tick().unwrap(),
            9 => timeline.give_up(&mut chance),
            8 if members > 3 => {
                let gone = family.remove(chosen);
                std::fs::remove_dir_all(&gone.folder).unwrap();
            }
            _ => timeline.write(&mut chance),
        }
    }
    for timeline in &mut family {
        timeline.check(&timeline.volume);
        timeline.reopen(true);
    }
}

#[test]
fn every_timeline_equals_its_model() {
    (1..6).for_each(run);
}

#[test]
fn a_clone_is_not_laid_over_a_volume_and_only_from_what_can_be_reached() {
    let store = tempfile::tempdir().unwrap();
    let mut parent = Timeline::create(store.path().join("parent"), [7; 16]);
    let taken = Timeline::create(store.path().join("taken"), [8; 16]);
    (0..10).for_each(|_| parent.write(&mut Chance(3)));
    let refused = fork(&parent.volume, Lsn(3), &parent.folder, &taken.folder, [9; 16]);
    assert_eq!(refused.unwrap_err().kind, Kind::Invalid);
    let empty = store.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let refused = fork(&parent.volume, Lsn(11), &parent.folder, &empty, [9; 16]);
    assert_eq!(refused.unwrap_err().kind, Kind::NotFound);
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
}

#[test]
fn what_a_crash_left_unsealed_needs_a_writer() {
    let store = tempfile::tempdir().unwrap();
    let mut parent = Timeline::create(store.path().join("parent"), [7; 16]);
    (0..10).for_each(|_| parent.write(&mut Chance(3)));
    let looker = Volume::open_read_only(disk(&parent.folder), None, options([7; 16])).unwrap();
    let folder = store.path().join("clone");
    std::fs::create_dir(&folder).unwrap();
    let refused = fork(&looker, Lsn(5), &parent.folder, &folder, [9; 16]);
    assert_eq!(refused.unwrap_err().kind, Kind::Invalid);
    parent.volume.close().unwrap();
    let looker = Volume::open_read_only(disk(&parent.folder), None, options([7; 16])).unwrap();
    fork(&looker, Lsn(5), &parent.folder, &folder, [9; 16]).unwrap();
    let clone = Volume::open(disk(&folder), None, options([9; 16])).unwrap();
    assert_eq!(clone.latest().0, Lsn(5));
}

#[test]
fn stamps_of_a_clone_go_on_above_the_base() {
    let store = tempfile::tempdir().unwrap();
    let mut parent = Timeline::create(store.path().join("parent"), [7; 16]);
    let told = parent.volume.control(b"{}").unwrap();
    parent.volume.commit(told).unwrap();
    (0..10).for_each(|_| parent.write(&mut Chance(3)));
    let base = parent.volume.instant_of(Lsn(4)).unwrap();
    let folder = store.path().join("clone");
    std::fs::create_dir(&folder).unwrap();
    fork(&parent.volume, Lsn(4), &parent.folder, &folder, [9; 16]).unwrap();
    let clone = Volume::open(disk(&folder), None, options([9; 16])).unwrap();
    let lsn = clone.write(0, &[1; 512]).unwrap();
    clone.commit(lsn).unwrap();
    assert!(clone.instant_of(lsn).unwrap().stamp > parent.volume.latest().1);
    // A time before the clone was made, and behind its base, is the base's.
    let parents = parent.volume.instant_of(Lsn(5)).unwrap();
    for stamp in [base.stamp, parents.stamp] {
        assert_eq!(clone.instant_at(stamp).unwrap().lsn, Lsn(4));
    }
    assert_eq!(clone.instant_at(Stamp(base.stamp.0 - 1)).unwrap_err().kind, Kind::NotFound);
    assert!(clone.controls().is_empty());
}
