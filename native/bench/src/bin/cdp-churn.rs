//! `cdp-churn`: steady random writes under a budget, with and without compaction.
//!
//! usage: cdp-churn FOLDER VOLUME_MIB TURNS RATIO…
//! For each ratio the budget is so many times the volume; 0 means none. One line each, throughput and bytes after the volume was full.

use std::path::PathBuf;

use cdp_bench::churn::{run, Load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, size, turns, ratios @ ..] = &words[..] else {
        return Err("usage: cdp-churn FOLDER VOLUME_MIB TURNS RATIO…".into());
    };
    let (folder, size) = (PathBuf::from(folder), size.parse::<u64>()? << 20);
    for ratio in ratios {
        let ratio: f64 = ratio.parse()?;
        let budget = (ratio > 0.0).then_some((size as f64 * ratio) as u64);
        std::fs::create_dir(&folder)?;
        let load = Load { size, budget, turns: turns.parse()?, segment_bytes: 64 << 20 };
        let out = run(&folder, &load)?;
        std::fs::remove_dir_all(&folder)?;
        println!(
            "budget {ratio}: {:.0} MiB/s, written {:.3} of foreground (compaction {:.3} of all), most used {} MiB, most on disk {} MiB of {} MiB, delayed {:.1} s, wrong blocks {}",
            out.steady_bytes as f64 / out.steady_seconds / (1 << 20) as f64,
            out.steady_written as f64 / out.steady_bytes as f64,
            out.compacted as f64 / out.foreground as f64,
            out.used_most >> 20,
            out.disk_most >> 20,
            budget.unwrap_or(0) >> 20,
            out.delayed_ns as f64 / 1e9,
            out.wrong
        );
    }
    Ok(())
}
