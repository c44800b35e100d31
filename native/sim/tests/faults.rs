//! Faults that a process survives: failed syncs, short writes, EIO and a full disk at every storage call.
//!
//! Errors are clean, nothing that a successful flush covered is lost, and after a failed flush the volume accepts nothing
//! more, while what is durable can still be read.

use cdp_engine::{Kind, Lsn};
use cdp_sim::campaign::{calls, cuts, seeds, Case};
use cdp_sim::scenario::{draw_mix, Step};
use cdp_sim::story::{Depth, Kept, Story, VOLUME_BYTES};
use cdp_sim::{Call, Death, Fault, Op, Restart, EIO, ENOSPC};

const STEPS: usize = 60;

/// The steps, the number of the first change and of the first look, and every change behind them.
struct Rehearsal {
    steps: Vec<Step>,
    first_change: u64,
    looks: std::ops::Range<u64>,
    trace: Vec<Call>,
}

fn rehearse(seed: u64) -> Rehearsal {
    let steps = draw_mix(seed, STEPS, VOLUME_BYTES);
    let mut story = Story::begin(seed);
    let (first_change, first_look) = (story.machine.changes() + 1, story.machine.looks() + 1);
    story.run(&steps);
    story.close();
    let trace = story.machine.trace().split_off(first_change as usize - 1);
    Rehearsal { steps, first_change, looks: first_look..story.machine.looks() + 1, trace }
}

/// How each kind of call can fail.
fn fitting(op: Op) -> &'static [Fault] {
    match op {
        Op::Sync => &[Fault::SyncHides, Fault::SyncDrops, Fault::Belated(EIO), Fault::Refuse(EIO)],
        Op::Write => &[Fault::Short(ENOSPC), Fault::Short(EIO), Fault::Refuse(ENOSPC), Fault::Belated(EIO)],
        Op::Create => &[Fault::Refuse(ENOSPC), Fault::Belated(EIO)],
        _ => &[Fault::Refuse(EIO), Fault::Belated(EIO)],
    }
}

/// Runs the steps, and closes the volume if the change was not made before.
fn run_to(story: &mut Story, steps: &[Step], change: u64) {
    story.run(steps);
    if story.machine.changes() < change {
        story.close();
    }
}

/// What holds after any fault, in the process that met it and in the ones after it.
fn settle(story: &mut Story, call: u64, cut: u64) {
    settle_above(story, call, cut, Kept::Flushed);
}

fn settle_above(story: &mut Story, call: u64, cut: u64, kept: Kept) {
    if story.is_open() && story.machine.died().is_none() {
        story.check_durable(call);
        refuses_after_a_failed_sync(story);
    }
    story.machine.heal();
    story.lose_process();
    let restart = [Restart::AllLost, Restart::Process, Restart::Power(call)][cut as usize % 3];
    story.recover(restart, kept);
    story.tolerant = false;
    story.shaky_reads = false;
    story.check(Depth::OneIn(9), call);
    story.go_on(call, 10);
    story.lose_process();
    story.recover(Restart::AllLost, Kept::Flushed);
    story.check(Depth::OneIn(31), call);
}

/// A flush can fail for want of room, too, and work later; a failed sync is for good.
fn refuses_after_a_failed_sync(story: &Story) {
    let failed = |f: &cdp_sim::story::Failure| (f.what == "flush" || f.what == "sync_to") && f.kind == Kind::Poisoned;
    if !story.failures.iter().any(failed) {
        return;
    }
    let volume = story.volume();
    let error = volume.write(0, &[1; 512]).and_then(|lsn| volume.commit(lsn)).expect_err("a write after a failed sync");
    assert_eq!(error.kind, Kind::Poisoned, "{error}");
    assert!(volume.flush().is_err(), "a flush after a failed sync");
}

#[test]
fn a_fault_at_every_change() {
    for seed in seeds(1) {
        let rehearsal = rehearse(seed + 300);
        let first = rehearsal.first_change;
        for call in calls(first..first + rehearsal.trace.len() as u64, 1, seed) {
            let made = &rehearsal.trace[(call - first) as usize];
            for cut in cuts(2 * fitting(made.op).len() as u64) {
                let _case = Case { test: "faults a_fault_at", seed, call, cut };
                let mut story = Story::begin(seed + 300);
                story.tolerant = true;
                let fault = fitting(made.op)[cut as usize / 2];
                story.machine.fail_change(call, fault, cut % 2 == 1);
                run_to(&mut story, &rehearsal.steps, call);
                settle(&mut story, call, cut);
            }
        }
    }
}

/// What a failed call left behind must not come to light when the next thing that happens is a crash.
#[test]
fn a_death_soon_after_a_fault() {
    for seed in seeds(1) {
        let rehearsal = rehearse(seed + 700);
        let first = rehearsal.first_change;
        for call in calls(first..first + rehearsal.trace.len() as u64, 3, seed) {
            let op = rehearsal.trace[(call - first) as usize].op;
            for cut in cuts(16) {
                let _case = Case { test: "faults a_death_soon", seed, call, cut };
                let mut story = Story::begin(seed + 700);
                story.tolerant = true;
                story.machine.fail_change(call, fitting(op)[(call + cut) as usize % fitting(op).len()], false);
                let death = if cut % 2 == 0 { Death::Power } else { Death::Kill };
                story.machine.die_at(call + 1 + cut / 2, death);
                story.run(&rehearsal.steps);
                story.close();
                // After a kill the cache has all that was replied to, unless a sync was seen to fail.
                let (after, kept) = match death {
                    Death::Kill if op != Op::Sync => (1, Kept::Replied),
                    Death::Kill => (1, Kept::Flushed),
                    Death::Power => (2 * (cut / 4 % 2), Kept::Flushed),
                };
                settle_above(&mut story, call, after, kept);
            }
        }
    }
}

#[test]
fn a_flush_whose_sync_failed_is_an_error_and_ends_the_writing() {
    let (mut cases, mut poisoned) = (0, 0);
    for seed in seeds(3) {
        let rehearsal = rehearse(seed + 300);
        let first = rehearsal.first_change;
        for call in calls(first..first + rehearsal.trace.len() as u64, 1, seed) {
            let made = &rehearsal.trace[(call - first) as usize];
            if made.op != Op::Sync || !made.name.starts_with("segment") || is_new(&rehearsal.trace, call - first) {
                continue;
            }
            let _case = Case { test: "faults a_flush_whose", seed, call, cut: 0 };
            let mut story = Story::begin(seed + 300);
            story.tolerant = true;
            story.machine.fail_change(call, Fault::SyncHides, false);
            run_to(&mut story, &rehearsal.steps, call);
            if was_thrown_away(&story, call, &made.name) {
                continue;
            }
            cases += 1;
            poisoned += u64::from(story.failures.iter().any(|f| f.what == "flush"));
            let told = story.failures.first().map(|f| f.kind);
            if story.is_open() {
                assert!(story.volume().status().poisoned.is_some(), "the failed sync of {} did not poison", made.name);
                refuses_after_a_failed_sync(&story);
            } else {
                assert_eq!(told, Some(Kind::Poisoned), "the failed sync of {}", made.name);
            }
        }
    }
    assert!(poisoned > 0 || cases < 10, "no flush met a failed sync");
}

/// An output of a compaction whose sync failed: nothing that anybody was told of is in it.
fn was_thrown_away(story: &Story, sync: u64, name: &str) -> bool {
    let compaction = story.failures.first().is_some_and(|failure| failure.what == "compact");
    let trace = story.machine.trace();
    let mut removed = trace[sync as usize..].iter().take_while(|call| call.op == Op::Remove);
    compaction && removed.any(|call| call.name == name)
}

/// A file whose first sync fails is thrown away before it holds anything.
fn is_new(trace: &[Call], sync: u64) -> bool {
    let before = &trace[(sync as usize).saturating_sub(2)..sync as usize];
    before.iter().any(|call| call.op == Op::Create)
}

#[test]
fn an_error_at_every_look() {
    for seed in seeds(1) {
        let rehearsal = rehearse(seed + 400);
        for call in calls(rehearsal.looks, 3, seed) {
            for cut in cuts(2) {
                let _case = Case { test: "faults an_error_at", seed, call, cut };
                let mut story = Story::begin(seed + 400);
                story.tolerant = true;
                story.shaky_reads = true;
                story.machine.fail_look(call, Fault::Refuse(EIO), cut == 1);
                story.run(&rehearsal.steps);
                story.machine.heal();
                settle(&mut story, call, cut);
            }
        }
    }
}

/// What makes the volume take the requests that wait.
type Leader = fn(&cdp_engine::Volume, Lsn) -> cdp_engine::Result<()>;

const LEADERS: [(&str, Leader); 4] = [
    ("another commit", |volume, last| volume.commit(last).map(drop)),
    ("a rollback", |volume, _| volume.rollback(Lsn(1)).map(drop)),
    ("a control record", |volume, _| volume.control(b"{}").and_then(|lsn| volume.commit(lsn)).map(drop)),
    ("closing", |volume, _| volume.close()),
];

/// The sectors around it could not be read: that is its own outcome, whoever wrote the batch, and whenever its client asks.
#[test]
fn a_write_whose_edges_cannot_be_read_is_an_error_to_its_client_and_to_nobody_else() {
    for (name, lead) in LEADERS {
        let story = Story::begin(1);
        let volume = story.volume();
        let first = volume.write(0, &[1; 16 << 10]).expect("admitted");
        volume.commit(first).and_then(|_| volume.flush()).expect("on a sound machine");
        let (torn, whole) = (volume.write(100, &[2; 4096]), volume.write(8192, &[3; 512]));
        let (torn, whole) = (torn.expect("admitted"), whole.expect("admitted"));
        story.machine.fail_look(story.machine.looks() + 1, Fault::Refuse(EIO), false);
        lead(volume, whole).unwrap_or_else(|e| panic!("{name}: {e}"));
        story.machine.heal();
        let error = volume.commit(torn).expect_err(name);
        assert_eq!(error.kind, Kind::Io, "{name}: {error}");
        if name != "another commit" {
            volume.commit(whole).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        if name != "closing" {
            let mut seen = vec![0; 16 << 10];
            assert_eq!(volume.view(whole).unwrap().read(0, &mut seen).unwrap().len(), 0, "{name}");
            let mut want = vec![1; 16 << 10];
            want[8192..8192 + 512].fill(3);
            assert!(seen == want, "{name}");
        }
    }
}

#[test]
fn a_disk_that_fills_and_grows() {
    let mut filled = 0;
    for seed in seeds(40) {
        let _case = Case { test: "faults a_disk_that", seed, call: 0, cut: 0 };
        let mut story = Story::begin(seed + 500);
        story.tolerant = true;
        let room = (seed * 4) % 160 * 4096;
        story.machine.set_capacity(Some(story.machine.used() + room));
        story.run(&draw_mix(seed, STEPS, VOLUME_BYTES));
        let full = !story.all_failures().is_empty();
        story.machine.set_capacity(None);
        if story.is_open() {
            story.check_durable(seed);
            let poisoned = story.all_failures().iter().any(|f| f.kind == Kind::Poisoned);
            assert!(!poisoned, "a full disk is no failed sync: {:?}", story.all_failures());
            let volume = story.volume().clone();
            let lsn = volume.write(5, b"there is room again").expect("admitted");
            volume.commit(Lsn(lsn.0)).expect("a write once there is room again");
            volume.flush().expect("a flush once there is room again");
            let data = b"there is room again".to_vec();
            story.oracle.admitted(lsn.0, cdp_sim::oracle::Change::Write { offset: 5, data });
            story.oracle.replied(lsn.0);
            story.oracle.flushed(lsn.0);
        }
        filled += u64::from(full);
        settle(&mut story, seed, seed);
    }
    assert!(filled > 0, "no disk was ever full");
}
