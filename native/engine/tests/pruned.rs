//! Checkpoints that no instant needs any more are dropped, and what is still an instant reads as before.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Lsn, Maintenance, Options, Stamp, Volume};

const GIB: u64 = 1 << 30;
const BLOCK: usize = 4096;

fn checkpoints(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("checkpoint-")).count()
}

/// Overwrites the same blocks of two shards, one of them only in the first round.
fn round(volume: &Volume, number: u64) {
    for i in 0..600u64 {
        let shard = if number == 0 { i % 2 } else { 0 };
        let lsn = volume.write(shard * GIB + i / 2 * BLOCK as u64, &[number as u8 + 1; BLOCK]).unwrap();
        volume.commit(lsn).unwrap();
    }
    volume.flush().unwrap();
}

fn block_at(volume: &Arc<Volume>, lsn: Lsn, offset: u64) -> u8 {
    let mut block = [0u8; BLOCK];
    assert_eq!(volume.view(lsn).unwrap().read(offset, &mut block).unwrap().len(), 0);
    block[0]
}

#[test]
fn checkpoints_go_with_the_instants_that_need_them() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::new(folder.path()).unwrap());
    Volume::create(disk.clone(), [7; 16], 2 * GIB, Stamp(1)).unwrap();
    let options = Options {
        segment_entries: 100,
        checkpoint_segments: 2,
        maintenance: Maintenance::Inline,
        ..Options::default()
    };
    let volume = Volume::open(disk.clone(), None, options.clone()).unwrap();
    let mut ends = Vec::new();
    for number in 0..8 {
        round(&volume, number);
        ends.push(volume.latest().0);
    }
    let before = checkpoints(folder.path());
    assert!(before >= 8, "{before} checkpoints say nothing");
    volume.retain(ends[6], &[ends[1]]).unwrap();
    volume.tick().unwrap();
    let after = checkpoints(folder.path());
    assert!(after + 4 <= before, "{after} of {before} checkpoints stayed");
    for (at, shown) in [(1, 2), (6, 7), (7, 8)] {
        assert_eq!(block_at(&volume, ends[at], 0), shown);
        assert_eq!(block_at(&volume, ends[at], GIB), 1);
    }
    volume.retain(ends[7], &[]).unwrap();
    round(&volume, 8);
    volume.tick().unwrap();
    assert!(checkpoints(folder.path()) < after);
    assert_eq!(volume.verify(&mut |_, _| Ok(())).unwrap(), []);
    volume.close().unwrap();
    let volume = Volume::open(disk, None, options).unwrap();
    assert_eq!((block_at(&volume, ends[7], 0), block_at(&volume, ends[7], GIB)), (8, 1));
    assert_eq!(volume.faults(), Vec::<String>::new());
}
