//! The power is cut, or the process killed, at every storage call around resizes: the volume has the size of a state that it was in, with the bytes of that state;
//! nothing that was acknowledged is missing, and no byte stands behind the end.

use std::ops::Range;
use std::sync::Arc;

use cdp_engine::{Lsn, Result, Stamp, Volume, SECTOR};
use cdp_sim::campaign::{cuts, seeds, Case};
use cdp_sim::story::small_options;
use cdp_sim::{Death, Machine, Restart, Rng};

const FIRST: u64 = 20 * SECTOR;
const STEPS: u64 = 24;

#[derive(Clone, Copy)]
enum Step {
    /// To the size with so many more sectors.
    Grow(u64),
    /// A run of bytes that ends with the volume.
    WriteEnd(u64, u8),
    Flush,
    /// To the state after so many steps.
    Back(usize),
}

fn draw(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let step = |number: u64, rng: &mut Rng| match rng.below(6) {
        0 | 1 => Step::Grow(1 + rng.below(300)),
        2 => Step::Flush,
        3 if number > 0 => Step::Back(rng.below(number) as usize),
        _ => Step::WriteEnd(1 + rng.below(FIRST), rng.below(255) as u8 + 1),
    };
    (0..STEPS).map(|number| step(number, &mut rng)).collect()
}

/// What was done: the states, and up to which one they have to outlive the end of the process, or of the power.
struct Told {
    /// With the LSN that is this state, where a record made it.
    states: Vec<(Option<Lsn>, Vec<u8>)>,
    replied: usize,
    durable: usize,
}

impl Told {
    fn new() -> Told {
        Told { states: vec![(Some(Lsn::ZERO), vec![0; FIRST as usize])], replied: 0, durable: 0 }
    }

    /// Does a step, which becomes a state even where its end is not known.
    fn step(&mut self, volume: &Volume, step: Step) -> Result<()> {
        let mut bytes = self.states[self.states.len() - 1].1.clone();
        let number = self.states.len();
        let mut durable = true;
        let lsn = match step {
            Step::Grow(sectors) => {
                bytes.resize(bytes.len() + (sectors * SECTOR) as usize, 0);
                let size = bytes.len() as u64;
                self.states.push((None, bytes));
                volume.resize(size)?
            }
            Step::WriteEnd(length, byte) => {
                let from = bytes.len() - length as usize;
                bytes[from..].fill(byte);
                self.states.push((None, bytes));
                durable = false;
                Some(volume.commit(volume.write(from as u64, &vec![byte; length as usize])?)?)
            }
            Step::Flush => {
                self.states.push((None, bytes));
                volume.flush()?;
                None
            }
            Step::Back(to) => {
                let Some((Some(lsn), then)) = self.states.get(to).cloned() else { return Ok(()) };
                self.states.push((None, then));
                Some(volume.rollback(lsn)?)
            }
        };
        self.states[number].0 = lsn;
        self.replied = number;
        if durable {
            self.durable = number;
        }
        Ok(())
    }
}

fn open(machine: &Machine) -> Result<Arc<Volume>> {
    Volume::open(machine.boot(), None, small_options())
}

/// The story up to its end; on a machine that dies, up to there.
fn run(machine: &Machine, steps: &[Step]) -> Told {
    let mut told = Told::new();
    if let Ok(volume) = open(machine) {
        let _ = steps.iter().try_for_each(|&step| told.step(&volume, step));
        let _ = volume.close();
    }
    told
}

fn machine(seed: u64) -> Machine {
    let machine = Machine::new(seed);
    Volume::create(machine.boot(), [7; 16], FIRST, Stamp(1)).unwrap();
    machine
}

fn rehearse(seed: u64, steps: &[Step]) -> Range<u64> {
    let machine = machine(seed);
    let first = machine.changes() + 1;
    let told = run(&machine, steps);
    assert_eq!(machine.died(), None);
    check(&machine, &told, told.states.len() - 1);
    first..machine.changes() + 1
}

fn content(volume: &Arc<Volume>, lsn: Option<Lsn>) -> Vec<u8> {
    let view = lsn.map_or_else(|| volume.live(), |lsn| volume.view(lsn).unwrap());
    let mut bytes = vec![0xaa; view.size() as usize];
    assert!(view.read(0, &mut bytes).unwrap().is_empty());
    bytes
}

/// What is left is a state from `least` on; it can be gone on with, and older ones are what they were.
fn check(machine: &Machine, told: &Told, least: usize) {
    let volume = open(machine).unwrap();
    let now = content(&volume, None);
    assert!(told.states[least..].iter().any(|(_, bytes)| *bytes == now), "{} bytes, none of the states", now.len());
    for (lsn, bytes) in told.states[..=least].iter() {
        if let Some(lsn) = lsn {
            assert!(content(&volume, Some(*lsn)) == *bytes, "at {lsn}");
        }
    }
    let size = now.len() as u64 + SECTOR;
    volume.resize(size).unwrap();
    assert!(content(&volume, None).strip_prefix(&now[..]) == Some(&[0; SECTOR as usize]), "new sectors are zeros");
    volume.close().unwrap();
    assert_eq!(open(machine).unwrap().size(), size);
}

#[test]
fn a_death_at_every_call_leaves_a_state_with_its_size() {
    for seed in seeds(6) {
        let steps = draw(seed);
        for call in rehearse(seed, &steps) {
            for death in [Death::Kill, Death::Power] {
                let machine = machine(seed);
                machine.die_at(call, death);
                let told = run(&machine, &steps);
                let restarts = match death {
                    Death::Power => cuts(3).map(|cut| (cut, power(cut, call), told.durable)).collect(),
                    _ => vec![(0, Restart::Process, told.replied)],
                };
                for (cut, restart, least) in restarts {
                    let _case = Case { test: "resize a_death", seed, call, cut };
                    let again = machine.fork();
                    again.restart(restart);
                    check(&again, &told, least);
                }
            }
        }
    }
}

/// The two extremes, then whatever the seed says.
fn power(cut: u64, call: u64) -> Restart {
    match cut {
        0 => Restart::AllLost,
        1 => Restart::AllKept,
        _ => Restart::Power(cut * 1000 + call),
    }
}
