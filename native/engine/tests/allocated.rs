//! Blocks that the journal takes ahead of what is written: nobody sees them, and what was not used goes back.

// The test looks at the files itself.
#![allow(clippy::disallowed_methods)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Maintenance, Options, Stamp, Volume};
use support::noise;

const MIB: usize = 1 << 20;

/// Of all files in the folder: bytes by their lengths, and bytes on the disk.
fn bytes(folder: &Path) -> (u64, u64) {
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.fold((0, 0), |(length, disk), facts| (length + facts.len(), disk + facts.blocks() * 512))
}

#[test]
fn what_was_not_used_goes_back_when_a_segment_ends() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(Disk::new(folder.path()).unwrap());
    Volume::create(storage.clone(), [7; 16], 64 * MIB as u64, Stamp(1)).unwrap();
    let options = Options { maintenance: Maintenance::Inline, ..Options::default() };
    let volume = Volume::open(storage.clone(), None, options.clone()).unwrap();
    for index in 0..4 {
        let data: Vec<u8> = (0..MIB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ index).collect();
        let lsn = volume.write(u64::from(index) * MIB as u64, &data).unwrap();
        volume.commit(lsn).unwrap();
    }
    volume.flush().unwrap();
    let (length, _) = bytes(folder.path());
    assert!(length < 6 * MIB as u64, "{length} bytes can be seen");
    volume.close().unwrap();
    let (length, disk) = bytes(folder.path());
    assert!(disk < length + MIB as u64 / 2, "{disk} bytes on the disk for {length}");

    // After a crash nobody knows how much was taken: what recovery seals gives it back.
    let volume = Volume::open(storage.clone(), None, options.clone()).unwrap();
    let lsn =
        volume.write(0, &vec![1; 3 * MIB]).and_then(|_| volume.write(8 * MIB as u64, &noise(1, 3 * MIB))).unwrap();
    volume.commit(lsn).unwrap();
    drop(volume);
    let volume = Volume::open(storage, None, options).unwrap();
    let (length, disk) = bytes(folder.path());
    assert!(disk < length + MIB as u64 / 2, "{disk} bytes on the disk for {length}");
    volume.close().unwrap();
}
