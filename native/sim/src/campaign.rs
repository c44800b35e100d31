//! Which cases a test runs, and how to run one of them again.
//!
//! `CDP_SIM_LONG=n` runs n times as many cases; `CDP_SIM_SEED`, `CDP_SIM_CALL` and `CDP_SIM_CUT` pick one; `CDP_SIM_TRACE=1`
//! tells what happens.

use std::ops::Range;

/// The seeds of a campaign: `few` of them, or more, or the one that is asked for.
pub fn seeds(few: u64) -> Range<u64> {
    number("CDP_SIM_SEED").map_or(0..few * times(), |seed| seed..seed + 1)
}

/// Storage calls to strike at: all of `calls`, or one in `stride`, or the one that is asked for.
pub fn calls(calls: Range<u64>, stride: u64, seed: u64) -> impl Iterator<Item = u64> {
    // Seeds grow with the length already; strides only a little, or a long run would never end.
    let stride = (stride / times().min(3)).max(1);
    let only = number("CDP_SIM_CALL");
    calls.filter(move |call| only.map_or((call + seed) % stride == 0, |only| *call == only))
}

/// Seeds of survival after a cut.
pub fn cuts(few: u64) -> Range<u64> {
    number("CDP_SIM_CUT").map_or(0..few, |cut| cut..cut + 1)
}

/// Says something to who asked to hear it.
pub fn tell(what: impl FnOnce() -> String) {
    if std::env::var_os("CDP_SIM_TRACE").is_some() {
        eprintln!("{}", what());
    }
}

fn times() -> u64 {
    number("CDP_SIM_LONG").unwrap_or(1).max(1)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// While it lives, a panic ends with the command that repeats the case.
pub struct Case {
    /// File and function: `--test FILE FUNCTION`.
    pub test: &'static str,
    pub seed: u64,
    pub call: u64,
    pub cut: u64,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Case { test, seed, call, cut } = self;
            eprintln!("repeat with: CDP_SIM_SEED={seed} CDP_SIM_CALL={call} CDP_SIM_CUT={cut} cargo test -p cdp-sim --test {test}");
        }
    }
}
