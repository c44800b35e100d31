//! Large writes of which later ones leave a block here and there: compaction keeps the blocks, not the writes.

mod support;

use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Lsn, Maintenance, Options, Stamp, Volume};
use support::noise;

const SIZE: usize = 4 << 20;
const LARGE: usize = 64 << 10;
const BLOCK: usize = 4096;

struct Written {
    volume: Arc<Volume>,
    disk: Vec<u8>,
    /// Instants, and what the disk was.
    instants: Vec<(Lsn, Vec<u8>)>,
    seed: u64,
}

impl Written {
    fn write(&mut self, offset: usize, length: usize) {
        self.seed += 1;
        let bytes = noise(self.seed, length);
        let lsn = self.volume.write(offset as u64, &bytes).unwrap();
        self.volume.commit(lsn).unwrap();
        self.disk[offset..offset + length].copy_from_slice(&bytes);
    }

    fn fill(&mut self) {
        (0..SIZE).step_by(LARGE).for_each(|offset| self.write(offset, LARGE));
        self.note();
    }

    /// Overwrites all blocks but every n-th.
    fn overwrite_but(&mut self, n: usize) {
        let blocks = (0..SIZE / BLOCK).filter(|block| block % n != n / 2);
        blocks.collect::<Vec<_>>().into_iter().for_each(|block| self.write(block * BLOCK, BLOCK));
        self.note();
    }

    fn note(&mut self) {
        self.volume.flush().unwrap();
        self.instants.push((self.volume.latest().0, self.disk.clone()));
    }

    fn check(&self, at: usize) {
        let (lsn, expected) = &self.instants[at];
        let mut seen = vec![0u8; SIZE];
        assert_eq!(self.volume.view(*lsn).unwrap().read(0, &mut seen).unwrap().len(), 0);
        assert!(&seen == expected, "the instant {lsn:?} shows something else");
    }

    /// Everything that may be rewritten is, and the space used.
    fn compact(&self) -> usize {
        self.volume.compact(1 << 40, &mut |_| Ok(())).unwrap();
        self.volume.space().unwrap().used as usize
    }
}

fn options() -> Options {
    Options { segment_bytes: 1 << 20, checkpoint_segments: 3, maintenance: Maintenance::Inline, ..Options::default() }
}

#[test]
fn what_is_left_of_large_writes_takes_its_own_room_only() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk::new(folder.path()).unwrap());
    Volume::create(storage.clone(), [7; 16], SIZE as u64, Stamp(1)).unwrap();
    let volume = Volume::open(storage.clone(), None, options()).unwrap();
    let mut written = Written { volume, disk: vec![0; SIZE], instants: Vec::new(), seed: 0 };
    written.fill();
    written.overwrite_but(16);
    written.overwrite_but(2);
    // One block of 64 KiB stays for the first instant's sake, half of the blocks of the second, and the disk as it is; the newest segments stay as they are.
    written.volume.retain(written.instants[1].0, &[]).unwrap();
    let held = written.volume.view(written.instants[1].0).unwrap();
    let live = SIZE + SIZE / 2;
    let used = written.compact();
    assert!(used < live + live / 8 + (1 << 20), "{used} bytes for {live}");
    (1..=2).for_each(|at| written.check(at));
    let mut seen = vec![0u8; SIZE];
    assert_eq!(held.read(0, &mut seen).unwrap().len(), 0);
    assert!(seen == written.instants[1].1);
    drop(held);

    // Cut again, where a piece is longer than what is left of it: the middle block of each 64 KiB is a piece already.
    written.overwrite_but(3);
    written.volume.retain(written.instants[3].0, &[written.instants[2].0]).unwrap();
    written.compact();
    (2..=3).for_each(|at| written.check(at));
    assert_eq!(written.volume.verify(&mut |_, _| Ok(())).unwrap(), []);
    written.volume.close().unwrap();
    written.volume = Volume::open(storage, None, options()).unwrap();
    (2..=3).for_each(|at| written.check(at));
    assert_eq!(written.volume.faults(), Vec::<String>::new());
}
