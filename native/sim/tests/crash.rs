//! Promise 2, "acknowledged means kept": the power is cut, or the process killed, at every storage call of a scenario.
//!
//! What was flushed (power) or replied to (kill) is there; the journal is a prefix of the LSN order; every view is the
//! state that it was; new requests get LSNs that nobody saw; and all of it again after a second death.

use std::sync::Arc;

use cdp_engine::storage::Storage;
use cdp_engine::{Volume, PAGE};
use cdp_sim::campaign::{calls, cuts, seeds, Case};
use cdp_sim::scenario::{draw_mix, Content, Step};
use cdp_sim::story::{small_options, Depth, Kept, Story, Tally, VOLUME_BYTES};
use cdp_sim::{Death, Fault, Restart, EIO};

const STEPS: usize = 70;

/// Every second volume lies over an origin.
fn begin(seed: u64) -> Story {
    if seed % 2 == 0 {
        Story::begin(seed)
    } else {
        Story::begin_over_origin(seed)
    }
}

/// The scenario without a death: its first and the last change after it.
fn rehearse(seed: u64) -> (Vec<Step>, std::ops::Range<u64>) {
    let steps = draw_mix(seed, STEPS, VOLUME_BYTES);
    let mut story = begin(seed);
    let first = story.machine.changes() + 1;
    story.run(&steps);
    story.close();
    (steps, first..story.machine.changes() + 1)
}

/// The story up to its end at `call`.
fn die(seed: u64, steps: &[Step], call: u64, death: Death) -> Story {
    let mut story = begin(seed);
    story.machine.die_at(call, death);
    story.run(steps);
    story.close();
    assert_eq!(story.machine.died(), Some(death), "call {call} is never made");
    story.lose_process();
    story
}

/// What a power cut may leave: the two extremes, then whatever the seed says.
fn power(cut: u64, call: u64) -> Restart {
    match cut {
        0 => Restart::AllLost,
        1 => Restart::AllKept,
        _ => Restart::Power(cut * 1000 + call),
    }
}

#[test]
fn a_scenario_without_a_death_keeps_every_state() {
    let (mut cases, mut tally) = (0, Tally::default());
    for seed in seeds(12) {
        let _case = Case { test: "crash a_scenario", seed, call: 0, cut: 0 };
        let mut story = begin(seed);
        story.go_on(seed, 3 * STEPS);
        story.commit(true, seed);
        story.check(Depth::Every, seed);
        story.reopen();
        story.check(Depth::Every, seed);
        cases += 1;
        tally.add(&story.tally());
    }
    let Tally { held_reads, revoked_reads, clones, removed, compacted, compacted_in_clones } = tally;
    let least = [held_reads, revoked_reads, clones, removed, compacted, compacted_in_clones].into_iter().min();
    assert!(least > Some(cases / 3), "the stories tell hardly anything: {tally:?} in {cases}");
}

#[test]
fn a_power_cut_at_every_call() {
    for seed in seeds(2) {
        let (steps, range) = rehearse(seed);
        for call in calls(range, 1, seed) {
            let dead = die(seed, &steps, call, Death::Power);
            for cut in cuts(5) {
                let _case = Case { test: "crash a_power_cut", seed, call, cut };
                let mut story = dead.fork();
                story.recover(power(cut, call), Kept::Flushed);
                story.check(if cut < 3 { Depth::OneIn(9) } else { Depth::OneIn(31) }, call);
                survive_a_second_cut(&mut story, call, cut);
            }
        }
    }
}

fn survive_a_second_cut(story: &mut Story, call: u64, cut: u64) {
    story.go_on(call * 7 + cut, 12);
    story.lose_process();
    story.recover(power(4 - cut.min(4), call + 1), Kept::Flushed);
    story.check(Depth::OneIn(31), call);
    story.go_on(call, 3);
}

/// A footer behind a torn header puts zeros where it was cut off, and they may be what is missing: then it counts before, too, or the footer
/// would not be what the batches say.
#[test]
fn a_header_of_which_only_zeros_are_missing_is_whole() {
    let mut story = Story::begin(1);
    let written = Content { bytes: 4096, seed: 1 };
    // Idling writes an empty batch with an echo, in a page of its own.
    story.run(&[Step::Write { offset: 0, content: written }, Step::Commit { all: true, seed: 1 }, Step::Idle]);
    story.lose_process();
    story.machine.restart(Restart::AllKept);
    let (name, length) = story.machine.files().into_iter().rfind(|(_, length)| *length > 2 * PAGE).expect("one");
    let mut bytes = story.machine.contents(&name).expect("listed");
    let start = ((length - 1) / PAGE * PAGE) as usize;
    let header = &bytes[start..start + 64];
    let cut = header.iter().rposition(|&byte| byte != 0).expect("a header") + 1;
    assert!(name.starts_with("segment") && cut < 64, "{name}: {header:?}");
    bytes.truncate(start + cut);
    story.machine.replace(&name, &bytes);
    story.recover(Restart::Process, Kept::Replied);
    story.check(Depth::Every, 1);
}

/// Its header names a flush point, and the number before its own is that of a write that failed: nothing of it may stay in the footer.
#[test]
fn a_batch_of_which_no_record_is_kept_leaves_nothing() {
    let mut story = Story::begin(1);
    story.tolerant = true;
    let write = |offset| Step::Write { offset, content: Content { bytes: 4096, seed: 1 } };
    let commit = Step::Commit { all: true, seed: 1 };
    story.run(&[write(0), commit.clone(), Step::Flush]);
    story.machine.fail_change(story.machine.changes() + 1, Fault::Refuse(EIO), false);
    story.run(&[write(4096), commit.clone(), write(8192), commit]);
    story.lose_process();
    story.machine.restart(Restart::AllKept);
    let (name, _) = story.machine.files().into_iter().rfind(|(_, length)| *length > 2 * PAGE).expect("one");
    let mut bytes = story.machine.contents(&name).expect("listed");
    bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).expect("not empty"));
    story.machine.replace(&name, &bytes);
    story.recover(Restart::Process, Kept::Flushed);
    assert_eq!(story.oracle.last_replied(), 1, "the last write is torn");
    story.check(Depth::Every, 1);
}

#[test]
fn kill_at_every_call() {
    for seed in seeds(2) {
        let (steps, range) = rehearse(seed + 100);
        for call in calls(range, 1, seed) {
            let dead = die(seed + 100, &steps, call, Death::Kill);
            for cut in cuts(2) {
                let _case = Case { test: "crash kill_at", seed, call, cut };
                let mut story = dead.fork();
                story.recover(Restart::Process, Kept::Replied);
                story.check(Depth::OneIn(9), call);
                // What recovery found only in the page cache must not be lost under what is flushed later.
                survive_a_second_cut(&mut story, call, 4 * cut);
            }
        }
    }
}

#[test]
fn a_cut_while_recovering() {
    let mut deaths = 0;
    for seed in seeds(2) {
        let (steps, range) = rehearse(seed + 200);
        for call in calls(range, 23, seed) {
            for death in [Death::Power, Death::Kill] {
                let dead = die(seed + 200, &steps, call, death);
                let mut dying = 1;
                while dies_in_recovery(&dead, death, seed, call, dying) {
                    dying += 1;
                }
                deaths += dying - 1;
            }
        }
    }
    assert!(deaths > 50, "hardly any recovery changes anything");
}

/// The `dying`-th change of the recovery is its last; false if it makes fewer.
fn dies_in_recovery(dead: &Story, death: Death, seed: u64, call: u64, dying: u64) -> bool {
    let _case = Case { test: "crash a_cut_while", seed, call, cut: dying };
    let mut story = dead.fork();
    let (restart, kept) = match death {
        Death::Power => (power(dying % 5, call), Kept::Flushed),
        Death::Kill => (Restart::Process, Kept::Replied),
    };
    story.machine.restart(restart);
    story.machine.die_at(story.machine.changes() + dying, death);
    let storage: Arc<dyn Storage> = story.machine.boot();
    let opened = Volume::open(storage, None, small_options());
    if story.machine.died().is_none() {
        return false;
    }
    drop(opened);
    let restart = if death == Death::Kill { restart } else { power((dying + 2) % 7, call) };
    story.recover(restart, kept);
    story.check(Depth::OneIn(31), call);
    story.go_on(call, 6);
    story.lose_process();
    story.recover(Restart::AllLost, Kept::Flushed);
    story.check(Depth::OneIn(31), call);
    true
}
