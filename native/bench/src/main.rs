//! `cdp-history`: makes a long history straight in the engine, and measures what it costs to look at any instant of it.
//!
//! Each step is a process of its own, so that its peak memory is its own, and every figure is one line `name value`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cdp_bench::history::{self, Look, Shape};
use cdp_bench::sizes;
use cdp_engine::storage::Disk;
use cdp_engine::{Maintenance, Options, Volume};

const USAGE: &str = "usage: cdp-history fill|kill|sizes|open|look FOLDER WRITES [SIZE_GIB [COUNT]]
  fill   a volume in the empty FOLDER: WRITES random writes of 4 KiB, stopped cleanly
  kill   the same, left as a kill leaves it
  sizes  bytes a write, by part
  open   opens it for writing, caches dropped
  look   opens views at COUNT random instants by time and reads 4 KiB of each, caches dropped before every one";

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| words.get(at).map_or(Ok(default), |word| word.parse());
    let (Some(verb), Some(folder)) = (words.first(), words.get(1).map(PathBuf::from)) else {
        return Err(USAGE.into());
    };
    let shape = Shape { writes: number(2, 1_000_000)?, size: number(3, 1024)? << 30 };
    let count = number(4, 1000)? as usize;
    match verb.as_str() {
        "fill" => fill(&folder, &shape, true)?,
        "kill" => fill(&folder, &shape, false)?,
        "sizes" => sizes(&folder, &shape)?,
        "open" => open(&folder)?,
        "look" => look(&folder, &shape, count)?,
        _ => return Err(USAGE.into()),
    }
    println!("memory_peak_mib {}", peak_bytes()? >> 20);
    Ok(())
}

fn fill(folder: &Path, shape: &Shape, clean: bool) -> Outcome {
    let began = Instant::now();
    // In line: the same files each time, and nothing is left to do.
    let options = Options { maintenance: Maintenance::Inline, ..Options::default() };
    let written = history::fill(folder, shape, options, clean)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{written:?}");
    println!("fill_s {seconds:.1}\nfill_writes_a_second {:.0}", shape.writes as f64 / seconds);
    Ok(())
}

fn sizes(folder: &Path, shape: &Shape) -> Outcome {
    let sizes = sizes::of(folder)?;
    for (name, bytes) in sizes.parts() {
        println!("{name}_bytes_a_write {:.1}", bytes as f64 / shape.writes as f64);
    }
    Ok(())
}

fn open(folder: &Path) -> Outcome {
    drop_caches()?;
    let began = Instant::now();
    let options = Options { maintenance: Maintenance::Inline, ..Options::default() };
    let volume = Volume::open(Arc::new(Disk::new(folder)?), None, options)?;
    println!("open_ms {:.1}", began.elapsed().as_secs_f64() * 1e3);
    println!("was_clean {}", volume.status().was_clean);
    volume.close()?;
    Ok(())
}

fn look(folder: &Path, shape: &Shape, count: usize) -> Outcome {
    let looks = history::looks(shape, count, shape.writes);
    let disk = Arc::new(Disk::new(folder)?);
    let volume = Volume::open_read_only(disk, None, Options::default())?;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for look in &looks {
        drop_caches()?;
        cold.push(first_read(&volume, shape, look)?);
    }
    let status = volume.status();
    println!("places_a_look {:.2}", status.places as f64 / status.looks as f64);
    // Other instants, so that no leaf is cached.
    for look in &history::looks(shape, count, !shape.writes) {
        warm.push(first_read(&volume, shape, look)?);
    }
    for (name, mut times) in [("cold", cold), ("warm", warm)] {
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("{name}_ms_p50 {:.2}\n{name}_ms_p99 {:.2}\n{name}_ms_max {:.2}", at(0.5), at(0.99), at(1.0));
    }
    let status = volume.status();
    println!("tables_kib {}\nleaves_kib {}", status.table_bytes >> 10, status.cached_bytes >> 10);
    Ok(())
}

/// Milliseconds from the name of an instant to the first 4 KiB of it.
fn first_read(volume: &Arc<Volume>, shape: &Shape, look: &Look) -> Result<f64, Box<dyn std::error::Error>> {
    let began = Instant::now();
    history::check(volume, shape, look)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// The kernel forgets what it read; needs root.
fn drop_caches() -> Outcome {
    // SAFETY: sync has no arguments and no result.
    unsafe { libc::sync() };
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|e| format!("caches are not dropped ({e}): run as root").into())
}

fn peak_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kib << 10)
}
