//! A day of steady random writes under a budget: space stays inside it, nothing fails, nothing is lost, and compaction writes little.

use cdp_bench::churn::{run, Load, Outcome};

fn day(ratio: f64, turns: u64) -> (Outcome, u64) {
    let folder = tempfile::tempdir().unwrap();
    let size = 64 << 20;
    let budget = (size as f64 * ratio) as u64;
    // As many segments as a budget has, small as it is.
    let load = Load { size, budget: Some(budget), turns, segment_bytes: budget / 128 };
    let out = run(folder.path(), &load).unwrap();
    eprintln!("{ratio}: {out:?}");
    assert_eq!(out.wrong, 0);
    assert!(out.used_most <= budget && out.disk_most <= budget, "{} and {} of {budget}", out.used_most, out.disk_most);
    (out, out.steady_written * 100 / out.steady_bytes)
}

#[test]
fn a_budget_of_twice_the_volume_costs_six_tenths_more_writes_at_most() {
    let (out, percent) = day(2.0, 6);
    assert!(out.compacted > 0 && percent <= 160, "{percent} %");
}
