//! Clients that flush after every few bytes: zeros are written ahead of the journal, and are nothing that a crash could have left.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Options, Stamp, Volume};

const SIZE: u64 = 64 << 20;
const BLOCK: u64 = 4096;
/// What the journal keeps written ahead, at least, once it does.
const AHEAD: u64 = 64 << 10;

fn open(folder: &Path) -> Arc<Volume> {
    Volume::open(Arc::new(Disk::new(folder).unwrap()), None, Options::default()).unwrap()
}

fn content(block: u64) -> Vec<u8> {
    (0..BLOCK).map(|at| (at.wrapping_mul(2 * block + 1) >> 3) as u8).collect()
}

fn write(volume: &Volume, block: u64) {
    let lsn = volume.write(block * BLOCK, &content(block)).unwrap();
    volume.commit(lsn).unwrap();
}

/// The largest segment, and how many zeros it ends with.
fn active(folder: &Path) -> (u64, u64) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let segments = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("segment-"));
    let bytes = segments.map(|path| std::fs::read(path).unwrap()).max_by_key(Vec::len).unwrap();
    (bytes.len() as u64, bytes.iter().rev().take_while(|&&byte| byte == 0).count() as u64)
}

#[test]
fn zeros_lie_ahead_while_every_write_is_flushed_and_a_crash_finds_all_before_them() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Volume::create(Arc::new(Disk::new(folder.path()).unwrap()), [7; 16], SIZE, Stamp(1)).unwrap();
    let volume = open(folder.path());
    (0..300).for_each(|block| {
        write(&volume, block);
        volume.flush().unwrap();
        if block == 4 {
            let (length, zeros) = active(folder.path());
            assert!(zeros < BLOCK, "{zeros} of {length} bytes after few flushes");
        }
    });
    let (length, zeros) = active(folder.path());
    assert!(zeros > AHEAD, "{zeros} of {length} bytes");
    // As a killed process leaves it.
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let again = open(copy.path());
    assert_eq!(again.faults(), Vec::<String>::new(), "nothing was cut");
    let view = again.view(again.latest().0).unwrap();
    for block in 0..300 {
        let mut seen = vec![0; BLOCK as usize];
        assert!(view.read(block * BLOCK, &mut seen).unwrap().is_empty());
        assert_eq!(seen, content(block), "block {block}");
    }
    again.close().unwrap();
    volume.close().unwrap();
}

#[test]
fn it_ends_with_the_flushes() {
    let folder = tempfile::tempdir().unwrap();
    Volume::create(Arc::new(Disk::new(folder.path()).unwrap()), [7; 16], SIZE, Stamp(1)).unwrap();
    let volume = open(folder.path());
    (0..300).for_each(|block| {
        write(&volume, block);
        volume.flush().unwrap();
    });
    // More than what lies ahead.
    (0..6000).for_each(|block| write(&volume, block));
    let (length, zeros) = active(folder.path());
    assert!(zeros < BLOCK, "{zeros} of {length} bytes");
    volume.close().unwrap();
}

#[test]
fn nothing_is_written_ahead_of_who_does_not_flush() {
    let folder = tempfile::tempdir().unwrap();
    Volume::create(Arc::new(Disk::new(folder.path()).unwrap()), [7; 16], SIZE, Stamp(1)).unwrap();
    let volume = open(folder.path());
    (0..300).for_each(|block| write(&volume, block));
    let (length, zeros) = active(folder.path());
    assert!(zeros < BLOCK, "{zeros} of {length} bytes");
    volume.close().unwrap();
}
