//! The index grows only where there is room: what is left of a budget is the writer's and compaction's.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{FullPolicy, Maintenance, Options, Stamp, Volume};

const BLOCK: u64 = 4096;
const ENTRIES: u64 = 100;

fn options(merge_fan: usize) -> Options {
    Options {
        segment_entries: ENTRIES as usize,
        merge_fan,
        checkpoint_segments: 1000,
        maintenance: Maintenance::Inline,
        ..Options::default()
    }
}

fn open(folder: &Path, merge_fan: usize) -> Arc<Volume> {
    Volume::open(Arc::new(Disk::new(folder).unwrap()), None, options(merge_fan)).unwrap()
}

fn write(volume: &Volume, blocks: u64) {
    for i in 0..blocks {
        let lsn = volume.write(i * BLOCK, &[7; BLOCK as usize]).unwrap();
        volume.commit(lsn).unwrap();
    }
}

fn runs(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("run-")).count()
}

#[test]
fn merging_waits_for_room() {
    let folder = tempfile::tempdir().unwrap();
    Volume::create(Arc::new(Disk::new(folder.path()).unwrap()), [7; 16], 1 << 30, Stamp(1)).unwrap();
    let volume = open(folder.path(), 100);
    write(&volume, 7 * ENTRIES);
    volume.close().unwrap();
    drop(volume);

    let volume = open(folder.path(), 3);
    write(&volume, 1);
    let used = volume.space().unwrap().used;
    volume.set_budget(Some(used), FullPolicy::DropOldest);
    volume.tick().unwrap();
    assert_eq!(runs(folder.path()), 0, "a full volume was filled further");
    assert_eq!(volume.faults(), Vec::<String>::new());
    volume.set_budget(None, FullPolicy::DropOldest);
    write(&volume, ENTRIES);
    assert!(runs(folder.path()) > 0, "merging was given up for good");
    volume.close().unwrap();
}
