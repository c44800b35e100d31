//! A long history: any instant of it can be read, for few files asked, few bytes of index a write, in bounded memory.
//!
//! A million writes, over a tenth of a tebibyte and in segments of a tenth, which makes the same files as ten million over a whole one;
//! `CDP_HISTORY_WRITES` says another number. Times are measured by `cdp-history` (docs/testing.md).

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use cdp_bench::history::{self, Shape};
use cdp_bench::sizes;
use cdp_engine::options::SEGMENT_ENTRIES_MAX;
use cdp_engine::storage::Disk;
use cdp_engine::{Maintenance, Options, Volume};

const GIB: u64 = 1 << 30;
const LOOKS: usize = 1000;
/// Of the index, in bytes a write, what merging wrote and dropped again included.
const INDEX_BYTES_MAX: f64 = 80.0;
/// Of a process that looks, whatever the history's length: its caches' bounds below, one look, and the program.
const LOOKING_BYTES_MAX: u64 = 24 << 20;
/// Of one that writes: two memtables, a checkpoint of 64 MiB while it is built, and what it is built from.
const WRITING_BYTES_MAX: u64 = 192 << 20;
/// Tells a child process what to measure.
const PART: &str = "CDP_HISTORY_PART";
const FOLDER: &str = "CDP_HISTORY_FOLDER";

fn shape() -> Shape {
    let writes = std::env::var("CDP_HISTORY_WRITES").map_or(1_000_000, |n| n.parse().expect("a number"));
    Shape { writes, size: (writes * 1024 / 10_000_000).max(1) * GIB }
}

/// As many segments as ten million writes make, and caches so small that the looks below turn them over.
fn options() -> Options {
    let segment_entries = (shape().writes / 76).clamp(1000, SEGMENT_ENTRIES_MAX as u64) as usize;
    let maintenance = Maintenance::Inline;
    Options { cache_bytes: 32 << 10, table_bytes: 128 << 10, segment_entries, maintenance, ..Options::default() }
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// What a kill leaves.
fn write(folder: &Path) {
    let shape = shape();
    let written = history::fill(folder, &shape, options(), false).unwrap();
    let footers = sizes::of(folder).unwrap().footers;
    let index = footers + written.checkpoints.load(Ordering::Relaxed) + written.merged_runs.load(Ordering::Relaxed);
    let each = index as f64 / shape.writes as f64;
    assert!(written.checkpoints.load(Ordering::Relaxed) > 0 && written.merged_runs.load(Ordering::Relaxed) > 0);
    println!("{each:.1} bytes of index written a write: {written:?}, footers {footers}");
    assert!(each > 10.0, "nothing was measured");
    assert!(each <= INDEX_BYTES_MAX, "{each:.1} bytes of index a write");
    assert!(peak_bytes() <= WRITING_BYTES_MAX, "{} bytes to write", peak_bytes());
}

fn look(folder: &Path) {
    let shape = shape();
    let volume = Volume::open_read_only(Arc::new(Disk::new(folder).unwrap()), None, options()).unwrap();
    let segments = volume.status().segments as u64;
    // A checkpoint, and of each level of runs at most one less than is merged.
    let levels = (0..).take_while(|&level| 8u64.pow(level) <= segments).count() as u64;
    let (mut sum, mut most) = (0, 0);
    for look in history::looks(&shape, LOOKS, 7) {
        let before = volume.status().places;
        history::check(&volume, &shape, &look).unwrap();
        let status = volume.status();
        (sum, most) = (sum + status.places - before, most.max(status.places - before));
        assert!(status.cached_bytes <= options().cache_bytes, "{} bytes of leaves", status.cached_bytes);
        assert!(status.table_bytes <= options().table_bytes, "{} bytes of tables", status.table_bytes);
    }
    println!("{:.2} files asked a look, {most} at most; {} MiB", sum as f64 / LOOKS as f64, peak_bytes() >> 20);
    assert!(most <= 1 + 7 * levels, "{most} files for one look, with {segments} segments");
    assert_eq!(volume.faults(), Vec::<String>::new());
    assert!(peak_bytes() <= LOOKING_BYTES_MAX, "{} bytes to look", peak_bytes());
}

/// Recovers what the kill left, goes on, and stops cleanly.
fn go_on(folder: &Path) {
    let shape = shape();
    let volume = Volume::open(Arc::new(Disk::new(folder).unwrap()), None, options()).unwrap();
    assert!(!volume.status().was_clean);
    for look in history::looks(&shape, LOOKS / 10, 8) {
        history::check(&volume, &shape, &look).unwrap();
    }
    assert_eq!(volume.verify(&mut |_, _| Ok(())).unwrap(), []);
    assert_eq!(volume.faults(), Vec::<String>::new());
    volume.close().unwrap();
}

/// Each part in a process of its own, so that its peak memory is its own.
#[test]
fn any_instant_of_a_long_history_can_be_read() {
    if let (Ok(part), Some(folder)) = (std::env::var(PART), std::env::var_os(FOLDER)) {
        let folder = Path::new(&folder);
        return match part.as_str() {
            "write" => write(folder),
            "look" => look(folder),
            _ => go_on(folder),
        };
    }
    let folder = tempfile::tempdir().unwrap();
    for part in ["write", "look", "go on", "look"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.arg("--nocapture").env(PART, part).env(FOLDER, folder.path());
        assert!(child.status().unwrap().success(), "{part}");
    }
}
