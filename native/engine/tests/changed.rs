//! What differs between two instants, against a list of records and a set of LSNs for each instant: across rollbacks, rolls of segments, stops and kills.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Change, Fork, Lsn, Maintenance, Options, Stamp, View, Volume, Zeroing};

const SIZE: u64 = 40 << 30;

#[derive(Default)]
struct Model {
    seed: u64,
    /// Which volume of a family this is: stands above the LSN in the names of its records.
    member: u64,
    /// (name, first byte, end), in bytes as they were asked for.
    records: Vec<(u64, u64, u64)>,
    live: BTreeSet<u64>,
    /// (LSN, what its state is made of).
    instants: Vec<(Lsn, BTreeSet<u64>)>,
    compacted: usize,
}

impl Model {
    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % below
    }

    /// Crowded in the first MiB, thin elsewhere; sometimes longer than a leaf, and longer than a window.
    fn range(&mut self) -> (u64, u64) {
        let longest = [512, 4096, 4096, 70_000, 6 << 20, 3 << 30][self.random(6) as usize];
        let bytes = 1 + self.random(longest);
        let room = [1 << 20, SIZE][self.random(2) as usize];
        let offset = self.random(SIZE - bytes) % room;
        (if self.random(3) == 0 { offset } else { offset & !4095 }, bytes)
    }

    fn step(&mut self, volume: &Volume) {
        let (offset, bytes) = self.range();
        let lsn = if bytes > 100_000 || self.random(4) == 0 {
            volume.zero(offset, bytes, [Zeroing::Trim, Zeroing::Zero][self.random(2) as usize])
        } else {
            volume.write(offset, &vec![self.seed as u8; bytes as usize])
        };
        let lsn = lsn.unwrap();
        volume.commit(lsn).unwrap();
        let name = self.member << 48 | lsn.0;
        self.records.push((name, offset, offset + bytes));
        self.live.insert(name);
        if self.random(6) == 0 {
            self.instants.push((lsn, self.live.clone()));
        }
    }

    fn roll_back(&mut self, volume: &Volume) {
        let (to, state) = self.any();
        let lsn = volume.rollback(to).unwrap();
        self.live = state.clone();
        self.instants.push((lsn, state));
    }

    /// Gives up instants below a new horizon, and lets compaction drop what nobody sees any more.
    fn retain(&mut self, volume: &Volume) {
        volume.flush().unwrap();
        let horizon = self.any().0;
        let mut points = Vec::new();
        for (lsn, state) in std::mem::take(&mut self.instants) {
            if lsn < volume.reachable().0.lsn.max(horizon) {
                if self.random(3) > 0 {
                    continue;
                }
                points.push(lsn);
            }
            self.instants.push((lsn, state));
        }
        volume.retain(horizon, &points).unwrap();
        self.compacted += volume.compact(u64::MAX, &mut |_| Ok(())).unwrap().segments_in;
    }

    fn any(&mut self) -> (Lsn, BTreeSet<u64>) {
        let chosen = self.random(self.instants.len() as u64) as usize;
        self.instants[chosen].clone()
    }

    /// What lies in `offset..end` of the records that only one of the two is made of.
    fn expected(&self, one: &BTreeSet<u64>, other: &BTreeSet<u64>, offset: u64, end: u64) -> Vec<Change> {
        let differing: BTreeSet<u64> = one.symmetric_difference(other).copied().collect();
        let mut ranges: Vec<(u64, u64)> = self
            .records
            .iter()
            .filter(|(name, ..)| differing.contains(name))
            .map(|&(_, from, to)| ((from & !511).max(offset), to.next_multiple_of(512).min(end)))
            .filter(|(from, to)| from < to)
            .collect();
        ranges.sort_unstable();
        let mut united: Vec<(u64, u64)> = Vec::new();
        for (from, to) in ranges {
            match united.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => united.push((from, to)),
            }
        }
        united.into_iter().map(|(from, to)| Change { offset: from, bytes: to - from }).collect()
    }

    fn check(&mut self, volume: &Arc<Volume>) {
        for _ in 0..12 {
            let ((from, before), (to, after)) = (self.any(), self.any());
            let (since, view) = (volume.view(from).unwrap(), volume.view(to).unwrap());
            let live = self.live.clone();
            self.check_between(&view, &after, &since, &before);
            self.check_between(&volume.live(), &live, &since, &before);
        }
    }

    fn check_between(&mut self, view: &View, after: &BTreeSet<u64>, since: &View, before: &BTreeSet<u64>) {
        let expected = self.expected(after, before, 0, SIZE);
        assert_eq!(
            view.changed(since, 0, SIZE, usize::MAX).unwrap(),
            expected,
            "{:?} to {:?}",
            since.lsn(),
            view.lsn()
        );
        let (offset, bytes) = self.range();
        let part = self.expected(after, before, offset, offset + bytes);
        assert_eq!(view.changed(since, offset, bytes, usize::MAX).unwrap(), part);
        let most = 1 + self.random(5) as usize;
        assert_eq!(view.changed(since, 0, SIZE, most).unwrap(), expected[..most.min(expected.len())]);
    }
}

fn options(maintenance: Maintenance) -> Options {
    Options { segment_entries: 40, checkpoint_segments: 2, merge_fan: 2, maintenance, ..Options::default() }
}

fn open(folder: &Path, maintenance: Maintenance) -> Arc<Volume> {
    Volume::open(Arc::new(Disk::new(folder).unwrap()), None, options(maintenance)).unwrap()
}

/// How many segments compaction rewrote.
fn run(seed: u64, maintenance: Maintenance) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::new(folder.path()).unwrap());
    Volume::create(disk.clone(), [7; 16], SIZE, Stamp(1)).unwrap();
    let mut model = Model { seed, instants: vec![(Lsn::ZERO, BTreeSet::new())], ..Model::default() };
    let mut volume = open(folder.path(), maintenance);
    for round in 0..4 {
        for _ in 0..80 {
            model.step(&volume);
            if model.random(10) == 0 {
                model.roll_back(&volume);
            }
            if model.random(20) == 0 {
                volume.tick().unwrap();
            }
            if model.random(30) == 0 {
                model.retain(&volume);
            }
        }
        model.check(&volume);
        let looker = Volume::open_read_only(disk.clone(), None, options(Maintenance::Inline)).unwrap();
        model.check(&looker);
        // A thread of its own lets go of the lock when it is over, which only `close` waits for.
        if round % 2 == 0 || maintenance == Maintenance::Thread {
            volume.close().unwrap();
        }
        drop(volume);
        volume = open(folder.path(), maintenance);
        model.check(&volume);
    }
    model.compacted
}

#[test]
fn changes_are_those_of_the_records_on_one_path_alone() {
    let compacted: usize = (1..=6).map(|seed| run(seed, Maintenance::Inline)).sum();
    assert!(compacted + run(99, Maintenance::Thread) > 20, "compaction had little to do: {compacted}");
}

/// A volume with three blocks in the middle that are written again and again.
fn hot(folder: &Path, writes: u64, options: Options) -> Arc<Volume> {
    let disk = Arc::new(Disk::new(folder).unwrap());
    Volume::create(disk.clone(), [7; 16], SIZE, Stamp(1)).unwrap();
    let volume = Volume::open(disk, None, options).unwrap();
    for n in 0..writes {
        let lsn = volume.write(SIZE / 2 + n % 3 * 8192, &[n as u8; 4096]).unwrap();
        volume.commit(lsn).unwrap();
    }
    volume
}

/// The paths of a volume's files with this prefix, ascending.
fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect();
    found.sort();
    found
}

fn flip(path: &Path, at: impl Fn(&[u8]) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at(&bytes);
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_footer_is_rebuilt_and_the_answer_stays() {
    let folder = tempfile::tempdir().unwrap();
    let alone = || Options { merge_fan: 1000, ..options(Maintenance::Inline) };
    let reopened = || Volume::open(Arc::new(Disk::new(folder.path()).unwrap()), None, alone()).unwrap();
    let volume = hot(folder.path(), 200, alone());
    let expected = volume.changed(Lsn(10), None, 0, SIZE, usize::MAX).unwrap();
    assert_eq!(expected.len(), 3);
    volume.close().unwrap();
    drop(volume);
    let segment = files(folder.path(), "segment-").remove(1);
    // An entry of the first index block, which is where the trailer says.
    flip(&segment, |b| u64::from_le_bytes(b[b.len() - 80..b.len() - 72].try_into().unwrap()) as usize + 30);
    let volume = reopened();
    assert_eq!(volume.changed(Lsn(10), None, 0, SIZE, usize::MAX).unwrap(), expected);
    assert!(volume.faults().iter().any(|fault| fault.contains("footer")), "{:?}", volume.faults());
    drop(volume);
    std::fs::remove_file(&segment).unwrap();
    let unknown = reopened().changed(Lsn(10), None, 0, SIZE, usize::MAX).unwrap();
    assert_eq!(unknown, [Change { offset: 0, bytes: SIZE }], "what is not known is changed");
}

#[test]
fn a_damaged_run_is_passed_over_and_the_answer_stays() {
    let folder = tempfile::tempdir().unwrap();
    let volume = hot(folder.path(), 200, options(Maintenance::Inline));
    let expected = volume.changed(Lsn(10), None, 0, SIZE, usize::MAX).unwrap();
    volume.close().unwrap();
    drop(volume);
    let runs = files(folder.path(), "run-");
    assert!(!runs.is_empty());
    runs.iter().for_each(|run| flip(run, |_| 4096 + 30));
    let volume = open(folder.path(), Maintenance::Inline);
    assert_eq!(volume.changed(Lsn(10), None, 0, SIZE, usize::MAX).unwrap(), expected);
    assert!(volume.faults().iter().any(|fault| fault.contains("run-")), "{:?}", volume.faults());
}

#[test]
fn an_instant_that_cannot_be_reached_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let volume = hot(folder.path(), 100, options(Maintenance::Inline));
    volume.flush().unwrap();
    let held = volume.view(Lsn(20)).unwrap();
    volume.retain(Lsn(50), &[Lsn(30)]).unwrap();
    for kept in [20, 30, 50, 60] {
        assert_eq!(volume.changed(Lsn(kept), None, 0, SIZE, usize::MAX).unwrap().len(), 3);
    }
    let refused = volume.changed(Lsn(40), None, 0, SIZE, 1).unwrap_err();
    assert_eq!(refused.kind, cdp_engine::Kind::NotFound, "{}", refused.message);
    volume.revoke(Lsn(20));
    assert!(volume.live().changed(&held, 0, SIZE, 1).is_err(), "an instant that was taken away");
    assert!(volume.changed(Lsn(50), None, 0, SIZE + 1, 1).is_err(), "beyond the end");
}

#[test]
fn answers_stay_while_compaction_takes_the_files_away() {
    let folder = tempfile::tempdir().unwrap();
    let volume = hot(folder.path(), 400, options(Maintenance::Inline));
    let (since, view) = (volume.view(Lsn(100)).unwrap(), volume.view(Lsn(300)).unwrap());
    let expected = view.changed(&since, 0, SIZE, usize::MAX).unwrap();
    assert_eq!(expected.len(), 3);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..40u64 {
                for n in 0..60 {
                    let lsn = volume.write(SIZE / 4 + (n + round) % 5 * 8192, &[round as u8; 4096]).unwrap();
                    volume.commit(lsn).unwrap();
                }
                volume.flush().unwrap();
                volume.retain(volume.latest().0, &[]).unwrap();
                assert!(volume.compact(u64::MAX, &mut |_| Ok(())).unwrap().segments_in > 0);
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            assert_eq!(view.changed(&since, 0, SIZE, usize::MAX).unwrap(), expected);
            let live = volume.live().changed(&since, 0, SIZE, usize::MAX).unwrap();
            assert_eq!(live[live.len() - 3..], expected, "what was written elsewhere comes before");
        }
    });
}

/// A clone of any instant, with a model that knows nothing but that instant.
fn clone_of(parent: &mut Model, volume: &Arc<Volume>, from: &Path, to: &Path, member: u64) -> (Arc<Volume>, Model) {
    let (base, state) = parent.any();
    let target = Arc::new(Disk::new(to).unwrap());
    let link = |name: &str| std::fs::hard_link(from.join(name), to.join(name));
    let fork = Fork { id: [member as u8; 16], created: Stamp(2), target, link: &link };
    volume.fork(base, &fork).unwrap();
    let seed = parent.random(1 << 30);
    let instants = vec![(base, state.clone())];
    (open(to, Maintenance::Inline), Model { seed, member, live: state, instants, ..Model::default() })
}

#[test]
fn clones_and_parents_differ_by_what_each_wrote_since_they_parted() {
    let folders: Vec<_> = (0..6).map(|_| tempfile::tempdir().unwrap()).collect();
    let folder = |member: usize| folders[member].path();
    Volume::create(Arc::new(Disk::new(folder(0)).unwrap()), [100; 16], SIZE, Stamp(1)).unwrap();
    let model = Model { seed: 5, member: 100, instants: vec![(Lsn::ZERO, BTreeSet::new())], ..Model::default() };
    let mut family = vec![(open(folder(0), Maintenance::Inline), model)];
    let mut chance = Model { seed: 77, ..Model::default() };
    for member in 1..6 {
        // The first two are twins: clones of the newest instant, whose own LSNs go on where the parent's do.
        let twin = member <= 2;
        for (volume, model) in family.iter_mut().filter(|_| member != 2) {
            for _ in 0..50 {
                model.step(volume);
                if model.random(10) == 0 {
                    model.roll_back(volume);
                }
            }
            if model.random(2) == 0 {
                model.retain(volume);
            }
        }
        let parent = if twin { 0 } else { chance.random(family.len() as u64) as usize };
        let (volume, model) = &mut family[parent];
        if twin {
            model.instants = vec![(volume.latest().0, model.live.clone())];
        }
        let clone = clone_of(model, volume, folder(parent), folder(member), 100 + member as u64);
        family.push(clone);
        let mut all = Model { seed: 9, ..Model::default() };
        all.records = family.iter().flat_map(|(_, model)| model.records.clone()).collect();
        for _ in 0..40 {
            let pair = [(); 2].map(|()| chance.random(family.len() as u64) as usize);
            let [(one, before), (other, after)] = pair.map(|at| {
                let (lsn, state) = family[at].1.any();
                (family[at].0.view(lsn).unwrap(), state)
            });
            all.check_between(&other, &after, &one, &before);
            let live = family[pair[1]].1.live.clone();
            all.check_between(&family[pair[1]].0.live(), &live, &one, &before);
        }
    }
    let stranger = tempfile::tempdir().unwrap();
    let stranger = hot(stranger.path(), 1, options(Maintenance::Inline));
    let refused = stranger.live().changed(&family[1].0.live(), 0, SIZE, 1).unwrap_err();
    assert_eq!(refused.kind, cdp_engine::Kind::Invalid, "{}", refused.message);
}
