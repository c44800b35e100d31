//! A clone is made, written to, rolled back, and its parent removed; the process or the power ends at every storage call of that.
//!
//! Both timelines lie in one simulated folder, under prefixes. A clone counts from when `fork` returned: what gives it its name comes after.

use std::sync::Arc;

use cdp_engine::storage::Storage;
use cdp_engine::{Fork, Lsn, Options, Stamp, Volume};
use cdp_sim::campaign::{calls, cuts, seeds, Case};
use cdp_sim::story::small_options;
use cdp_sim::{Death, Machine, Process, Restart, Subfolder};

const SIZE: u64 = 64 << 10;
const PARENT: [u8; 16] = [7; 16];
const CLONE: [u8; 16] = [9; 16];

/// What has to be there after a death: the states that were flushed, by LSN.
#[derive(Clone, Default)]
struct Known {
    states: Vec<(Lsn, Vec<u8>)>,
}

impl Known {
    fn now(&self) -> Vec<u8> {
        self.states.last().map_or_else(|| vec![0; SIZE as usize], |(_, bytes)| bytes.clone())
    }

    fn check(&self, volume: &Arc<Volume>) {
        let mut buffer = vec![1; SIZE as usize];
        for (lsn, bytes) in &self.states {
            assert_eq!(volume.view(*lsn).unwrap().read(0, &mut buffer).unwrap().len(), 0);
            assert!(&buffer == bytes, "at LSN {lsn}");
        }
        // A note that was torn off in the middle is found, and loses nothing.
        let findings = volume.verify(&mut |_, _| Ok(())).unwrap();
        assert_eq!(findings.into_iter().filter(|found| !found.repairable).collect::<Vec<_>>(), []);
    }
}

#[derive(Clone, Default)]
struct Story {
    parent: Known,
    clone: Option<Known>,
    /// Its removal has begun.
    parent_gone: bool,
}

fn options(id: [u8; 16]) -> Options {
    Options { volume_id: Some(id), ..small_options() }
}

fn open(process: &Arc<Process>, prefix: &'static str, id: [u8; 16]) -> cdp_engine::Result<Arc<Volume>> {
    Volume::open(Arc::new(Subfolder::new(process.clone(), prefix)), None, options(id))
}

/// Writes, flushes, and then knows the state; every third time a rollback.
fn go_on(volume: &Arc<Volume>, known: &mut Known, seed: u64, steps: u64) -> cdp_engine::Result<()> {
    for step in seed..seed + steps {
        let mut bytes = known.now();
        let lsn = if step % 3 == 2 && known.states.len() > 1 {
            let (to, state) = known.states[(step * 7) as usize % known.states.len()].clone();
            bytes = state;
            volume.rollback(to)?
        } else {
            let (at, length) = ((step * 5501) % (SIZE / 2), 1 + (step * 977) % 9000);
            let data: Vec<u8> = (0..length).map(|i| (i * (step + 3)) as u8).collect();
            bytes[at as usize..(at + length) as usize].copy_from_slice(&data);
            let lsn = volume.write(at, &data)?;
            volume.commit(lsn)?;
            volume.flush()?;
            lsn
        };
        known.states.push((lsn, bytes));
    }
    Ok(())
}

fn begin(seed: u64) -> (Machine, Story) {
    let machine = Machine::new(seed);
    let process = machine.boot();
    Volume::create(Arc::new(Subfolder::new(process.clone(), "a/")), PARENT, SIZE, Stamp(1)).unwrap();
    let volume = open(&process, "a/", PARENT).unwrap();
    let mut story = Story::default();
    go_on(&volume, &mut story.parent, seed, 17).unwrap();
    (machine, story)
}

/// Up to the end, or to the first error: what a death leaves.
fn run(process: &Arc<Process>, story: &mut Story, seed: u64) -> cdp_engine::Result<()> {
    let parent = open(process, "a/", PARENT)?;
    go_on(&parent, &mut story.parent, seed + 100, 3)?;
    let chosen = (seed as usize * 5 + 19) % story.parent.states.len();
    let (base, bytes) = story.parent.states[chosen].clone();
    let link = |name: &str| process.link(&format!("a/{name}"), &format!("b/{name}"));
    let target = Arc::new(Subfolder::new(process.clone(), "b/"));
    parent.fork(base, &Fork { id: CLONE, created: Stamp(2), target, link: &link })?;
    let known = story.clone.insert(Known { states: vec![(base, bytes)] });
    let clone = open(process, "b/", CLONE)?;
    go_on(&clone, known, seed + 200, 9)?;
    go_on(&parent, &mut story.parent, seed + 300, 4)?;
    parent.close()?;
    story.parent_gone = true;
    let folder = Subfolder::new(process.clone(), "a/");
    for name in folder.list().unwrap_or_default() {
        folder.remove(&name).map_err(|e| cdp_engine::Error::io("remove", &name, &e))?;
    }
    go_on(&clone, known, seed + 400, 4)?;
    clone.close()
}

fn check(machine: &Machine, story: &Story) {
    let process = machine.boot();
    let nameless = Subfolder::new(process.clone(), "b/");
    match &story.clone {
        Some(known) => known.check(&open(&process, "b/", CLONE).unwrap()),
        // What the next writer does with a creation that was under way.
        None => nameless.list().unwrap().iter().for_each(|name| nameless.remove(name).unwrap()),
    }
    if story.parent_gone {
        return;
    }
    let parent = open(&process, "a/", PARENT).unwrap();
    story.parent.check(&parent);
    if story.clone.is_none() {
        let folder = Subfolder::new(process, "a/");
        for name in folder.list().unwrap() {
            assert_eq!(folder.links(&name).unwrap(), 1, "{name}");
        }
        // And it can be made after all.
        let mut again = story.clone();
        let process = machine.boot();
        run(&process, &mut again, 1).unwrap();
    }
}

fn restarts(cut: u64, call: u64) -> (Death, Restart) {
    match cut {
        0 => (Death::Power, Restart::AllLost),
        1 => (Death::Power, Restart::AllKept),
        2 => (Death::Kill, Restart::Process),
        _ => (Death::Power, Restart::Power(cut * 1000 + call)),
    }
}

#[test]
fn a_death_at_every_call_of_a_clone() {
    for seed in seeds(3) {
        let (machine, story) = begin(seed);
        let rehearsal = machine.fork();
        let first = rehearsal.changes() + 1;
        let mut whole = story.clone();
        run(&rehearsal.boot(), &mut whole, seed).unwrap();
        check(&rehearsal, &whole);
        for call in calls(first..rehearsal.changes() + 1, 3, seed) {
            for cut in cuts(5) {
                let _case = Case { test: "clones a_death", seed, call, cut };
                let (death, restart) = restarts(cut, call);
                let (machine, mut story) = (machine.fork(), story.clone());
                machine.die_at(call, death);
                let process = machine.boot();
                // What only tidies up may fail in silence.
                let _ = run(&process, &mut story, seed);
                assert_eq!(machine.died(), Some(death));
                machine.restart(restart);
                check(&machine, &story);
            }
        }
    }
}
