//! What a cached extent costs in memory that exists, and that the cache keeps its bound. One test: the figure is the process's.

use std::path::Path;
use std::sync::Arc;

use cdp_engine::storage::Disk;
use cdp_engine::{Maintenance, Options, Stamp, Volume};

const EXTENTS: u64 = 300_000;
/// Tells a child process which store to measure.
const FOLDER: &str = "CDP_INDEX_MEMORY_FOLDER";

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn open(folder: &Path, cache_bytes: usize) -> Arc<Volume> {
    let options = Options { cache_bytes, maintenance: Maintenance::Inline, ..Options::default() };
    Volume::open(Arc::new(Disk::new(folder).unwrap()), None, options).unwrap()
}

/// Reads one byte of every leaf, so that all of them are cached if the bound allows it.
fn touch_all(volume: &Arc<Volume>) {
    for offset in (0..volume.size()).step_by(4 << 20) {
        volume.live().read(offset, &mut [0]).unwrap();
    }
}

/// Writes the extents: every other sector, in an order that jumps, so that nothing merges and leaves grow in the middle.
fn fill(folder: &Path) {
    Volume::create(Arc::new(Disk::new(folder).unwrap()), [7; 16], EXTENTS * 1024, Stamp(1)).unwrap();
    let volume = open(folder, 64 << 20);
    for i in 0..EXTENTS {
        let at = (i * 7_368_787 % EXTENTS) * 1024;
        let lsn = volume.write(at, &[i as u8; 512]).unwrap();
        if i % 500 == 499 || i + 1 == EXTENTS {
            volume.commit(lsn).unwrap();
        }
    }
    volume.close().unwrap();
}

fn measure(folder: &Path) {
    let volume = open(folder, 64 << 20);
    // The tables of the segments are loaded by the first touch; what counts is what the extents add.
    volume.live().read(0, &mut [0]).unwrap();
    let before = resident();
    touch_all(&volume);
    let status = volume.status();
    assert_eq!(status.cached_extents as u64, EXTENTS);
    let each = (resident() - before) as f64 / EXTENTS as f64;
    println!("{each:.1} bytes of RSS a cached extent; {:.1} counted", status.cached_bytes as f64 / EXTENTS as f64);
    assert!(each > 10.0, "nothing was measured");
    assert!(each <= 32.0, "{each:.1} bytes of RSS a cached extent");
    drop(volume);

    let volume = open(folder, 1 << 20);
    touch_all(&volume);
    assert!(volume.status().cached_bytes <= 1 << 20);
}

/// The measuring process is a fresh one: what filling freed would be used again without showing.
#[test]
fn a_cached_extent_takes_at_most_32_bytes() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return measure(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let status = child.arg("--nocapture").env(FOLDER, folder.path()).status().unwrap();
    assert!(status.success());
}
