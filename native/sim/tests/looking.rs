//! Promise 7, "looking never writes": a store that was left dirty can be read as it is, and shows what the next writer keeps.

use cdp_engine::{Kind, Lsn, View, Volume};
use cdp_sim::campaign::{calls, seeds, Case};
use cdp_sim::scenario::draw;
use cdp_sim::story::{read_all, small_options, Story, VOLUME_BYTES};
use cdp_sim::{Death, Machine, Restart, Rng};

/// A machine that came back after its process died at `call`, if the scenario makes that many calls.
fn dirty(seed: u64, call: u64) -> Option<(Machine, Vec<u64>)> {
    let death = if call % 2 == 0 { Death::Power } else { Death::Kill };
    let mut story = Story::begin(seed);
    story.machine.die_at(call, death);
    story.run(&draw(seed, 60, VOLUME_BYTES));
    story.machine.died()?;
    story.lose_process();
    story.machine.restart(if death == Death::Power { Restart::Power(call) } else { Restart::Process });
    Some((story.machine, story.oracle.lsns()))
}

fn bytes(view: &View, name: &str) -> Vec<u8> {
    read_all(view, &mut Rng::new(1), name)
}

#[test]
fn a_dirty_store_shows_without_a_write_what_the_next_writer_keeps() {
    let mut compared = 0;
    for seed in seeds(2) {
        for call in calls(13..250, 3, seed) {
            let _case = Case { test: "looking a_dirty", seed, call, cut: 0 };
            let Some((machine, lsns)) = dirty(seed + 900, call) else {
                break;
            };
            let before = (machine.changes(), machine.files());
            let looking = Volume::open_read_only(machine.boot_read_only(), None, small_options()).expect("looking");
            let other = machine.fork();
            let writer = Volume::open(other.boot(), None, small_options()).expect("the next writer");
            for &lsn in lsns.iter().rev().take(12).chain(&[0]) {
                let (seen, kept) = (looking.view(Lsn(lsn)), writer.view(Lsn(lsn)));
                assert_eq!(seen.is_ok(), kept.is_ok(), "LSN {lsn}: looking {}, writing {}", seen.is_ok(), kept.is_ok());
                if let (Ok(seen), Ok(kept)) = (seen, kept) {
                    assert!(bytes(&seen, "looking") == bytes(&kept, "writing"), "LSN {lsn} differs");
                    compared += 1;
                }
            }
            assert!(bytes(&looking.live(), "looking, live") == bytes(&writer.live(), "writing, live"));
            looking.verify(&mut |_, _| Ok(())).expect("verify");
            let error = looking.write(0, &[1; 512]).expect_err("a write while looking");
            assert_eq!(error.kind, Kind::Invalid);
            looking.close().expect("close");
            assert_eq!((machine.changes(), machine.files()), before, "looking changed something");
        }
    }
    assert!(compared > 200, "hardly anything was compared");
}

#[test]
fn two_writers_exclude_each_other_and_readers_do_not() {
    let story = Story::begin(1);
    let storage = story.machine.boot();
    let writer = Volume::open(storage.clone(), None, small_options()).expect("the first writer");
    let Err(error) = Volume::open(storage.clone(), None, small_options()) else {
        panic!("a second writer was let in");
    };
    assert_eq!(error.kind, Kind::Busy);
    let lsn = writer.write(0, b"seen by later readers").expect("admitted");
    writer.commit(lsn).expect("committed");
    let reader = Volume::open_read_only(storage.clone(), None, small_options()).expect("a reader beside the writer");
    assert_eq!(&bytes(&reader.live(), "beside the writer")[..4], b"seen");
    writer.close().expect("close");
    drop(writer);
    Volume::open(storage, None, small_options()).expect("a writer after the first has closed");
}
