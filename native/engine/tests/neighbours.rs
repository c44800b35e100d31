//! Payloads that lie one behind the other are read by one call: it must not matter, whatever part is asked for and whatever is damaged.

// The test damages files itself.
#![allow(clippy::disallowed_methods)]

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Maintenance, Options, Stamp, Volume};
use support::noise;

const SIZE: usize = 1 << 20;
const PAYLOAD: usize = 64 << 10;

fn open(folder: &tempfile::TempDir) -> Arc<Volume> {
    let options = Options { maintenance: Maintenance::Inline, ..Options::default() };
    Volume::open(Arc::new(Disk::new(folder.path()).unwrap()), None, options).unwrap()
}

/// A disk written front to back, some of which shrinks, with a hole and with blocks that were overwritten; and what it holds.
fn written(folder: &tempfile::TempDir) -> Vec<u8> {
    Volume::create(Arc::new(Disk::new(folder.path()).unwrap()), [7; 16], SIZE as u64, Stamp(1)).unwrap();
    let volume = open(folder);
    let mut disk = vec![0; SIZE];
    let mut write = |offset: usize, bytes: &[u8]| {
        let lsn = volume.write(offset as u64, bytes).unwrap();
        volume.commit(lsn).unwrap();
        disk[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    write(0, &noise(1, 5 * PAYLOAD));
    write(5 * PAYLOAD, &noise(2, 512).repeat(2 * PAYLOAD / 512));
    write(8 * PAYLOAD, &noise(3, 4 * PAYLOAD));
    write(12 * PAYLOAD, &noise(4, 4 * PAYLOAD));
    write(10 * PAYLOAD + 4096, &noise(5, 8192));
    write(15 * PAYLOAD - 512, &noise(6, 1024));
    volume.close().unwrap();
    disk
}

#[test]
fn any_part_reads_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = written(&folder);
    let volume = open(&folder);
    let edges =
        [0, 1, 511, 4096, PAYLOAD, 3 * PAYLOAD + 7, 5 * PAYLOAD, 7 * PAYLOAD - 1, 8 * PAYLOAD, 10 * PAYLOAD + 4096];
    let ends = edges.iter().map(|edge| SIZE - edge);
    for from in edges {
        for to in edges.into_iter().chain(ends.clone()).filter(|to| *to > from) {
            let mut seen = vec![0xff; to - from];
            assert_eq!(volume.live().read(from as u64, &mut seen).unwrap().len(), 0);
            assert!(seen == disk[from..to], "bytes {from} to {to}");
        }
    }
}

#[test]
fn damage_of_one_payload_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let disk = written(&folder);
    // One byte in the middle of the ninth payload: the second of a run.
    let sought = &disk[9 * PAYLOAD + 30_000..][..32];
    let mut flipped = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for (at, _) in bytes.windows(32).enumerate().filter(|(_, found)| *found == sought) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    let mut seen = vec![0xff; SIZE];
    let faults = open(&folder).live().read(0, &mut seen).unwrap();
    let extents: Vec<_> = faults.iter().map(|fault| (fault.offset as usize, fault.bytes as usize)).collect();
    assert_eq!(extents, [(9 * PAYLOAD, PAYLOAD)]);
    let mut expected = disk;
    expected[9 * PAYLOAD..10 * PAYLOAD].fill(0);
    assert!(seen == expected);
}
