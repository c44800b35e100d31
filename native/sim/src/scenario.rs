//! What clients and operators do to a volume, drawn from a seed before anything runs.

use crate::seed::Rng;

/// One step. Offsets and lengths are bytes inside the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Write {
        offset: usize,
        content: Content,
    },
    Zero {
        offset: usize,
        bytes: usize,
        trim: bool,
    },
    /// A control record that says `number`.
    Control {
        number: u64,
    },
    /// Sessions wait for their replies: `all`, or about half of what is pending; the seed shuffles them.
    Commit {
        all: bool,
        seed: u64,
    },
    Flush,
    /// FUA: the newest record that was replied to.
    SyncTo,
    /// Nobody comes for a while: the volume does what it put off.
    Idle,
    /// Reads that must agree with the oracle.
    Look {
        seed: u64,
    },
    /// The live volume becomes what it was at an instant that the seed picks.
    Rollback {
        seed: u64,
    },
    /// Gives history up: a horizon, and some points below it.
    Retain {
        seed: u64,
    },
    /// One cycle, of all that is worth anything or of what is half dead.
    Compact {
        all: bool,
    },
    /// A view is opened, and stays open.
    Hold {
        seed: u64,
    },
    /// Reads of one that is held.
    ReadHeld {
        seed: u64,
    },
    Release {
        seed: u64,
    },
    /// An instant is taken away from those who hold it.
    Revoke {
        seed: u64,
    },
    /// A clone of the volume, or of another clone, at an instant that the seed picks.
    Clone {
        of: u64,
        seed: u64,
        scratch: bool,
    },
    /// A clone takes a step: the newest is 0.
    Beside {
        which: u64,
        step: Box<Step>,
    },
    /// A clone is removed.
    Unclone {
        which: u64,
    },
    /// One cycle of whatever may be rewritten, whether or not that gives anything back.
    Rewrite,
    StepClock {
        by_ns: i64,
    },
    /// Clean close, and open again.
    Reopen,
}

/// The bytes of a write, to be made when they are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: usize,
    pub seed: u64,
}

impl Content {
    /// Random, compressible or constant bytes.
    pub fn make(&self) -> Vec<u8> {
        let mut rng = Rng::new(self.seed);
        let mut data = vec![0; self.bytes];
        match rng.below(4) {
            0 => rng.fill(&mut data),
            1 => data.fill(rng.number() as u8),
            _ => {
                let mut word = [0; 24];
                rng.fill(&mut word);
                data.iter_mut().enumerate().for_each(|(i, b)| *b = word[i % 24] ^ (i / 600) as u8);
            }
        }
        data
    }
}

/// `steps` steps on a volume of `size` bytes, nobody holds an instant and there are no clones.
pub fn draw(seed: u64, steps: usize, size: usize) -> Vec<Step> {
    let rng = &mut Rng::new(seed);
    (0..steps).map(|_| draw_step(rng, size)).collect()
}

/// `steps` steps of all kinds: instants are held, more history goes, and clones do the same beside the volume.
pub fn draw_mix(seed: u64, steps: usize, size: usize) -> Vec<Step> {
    let rng = &mut Rng::new(seed);
    let mut drawn = Vec::new();
    while drawn.len() < steps {
        match rng.below(100) {
            0..=3 => {
                drawn.push(Step::Clone { of: rng.number(), seed: rng.number(), scratch: rng.chance(30) });
                drawn.extend(draw_beside(rng, size, 0, 12));
            }
            4..=8 => {
                let which = rng.number();
                drawn.extend(draw_beside(rng, size, which, 6));
            }
            9 => drawn.push(Step::Unclone { which: rng.number() }),
            _ => drawn.extend(draw_scene(rng, size)),
        }
    }
    drawn.truncate(steps);
    drawn
}

/// What one clone does in a row.
fn draw_beside(rng: &mut Rng, size: usize, which: u64, most: u64) -> Vec<Step> {
    let scenes = (0..rng.between(1, most)).flat_map(|_| draw_scene(rng, size)).collect::<Vec<_>>();
    scenes.into_iter().map(|step| Step::Beside { which, step: Box::new(step) }).collect()
}

/// Steps of a volume that belong together: what is held matters when history is given up, and that when it is compacted.
fn draw_scene(rng: &mut Rng, size: usize) -> Vec<Step> {
    let seed = rng.number();
    let goes = |rng: &mut Rng| [Step::Retain { seed: rng.number() }, Step::Rewrite];
    match rng.below(100) {
        0..=4 => vec![Step::Hold { seed }],
        5..=11 => vec![Step::ReadHeld { seed }],
        12..=13 => vec![Step::Release { seed }],
        14..=15 => goes(rng).into(),
        16 => vec![Step::Rewrite],
        17..=19 => {
            let [retain, compact] = goes(rng);
            vec![Step::Hold { seed }, retain, compact, Step::ReadHeld { seed: rng.number() }]
        }
        20..=21 => {
            let [retain, compact] = goes(rng);
            vec![Step::Revoke { seed }, retain, compact, Step::ReadHeld { seed }]
        }
        // The rollback is the last of its segment.
        22..=23 => vec![Step::Rollback { seed }, Step::Reopen],
        _ => vec![draw_step(rng, size)],
    }
}

fn draw_step(rng: &mut Rng, size: usize) -> Step {
    match rng.below(100) {
        0..=37 => {
            let (offset, bytes) = draw_range(rng, size, 80 << 10);
            Step::Write { offset, content: Content { bytes, seed: rng.number() } }
        }
        38..=46 => {
            let (offset, bytes) = draw_range(rng, size, size);
            Step::Zero { offset, bytes, trim: rng.chance(50) }
        }
        47..=48 => Step::Rollback { seed: rng.number() },
        49..=50 => Step::Retain { seed: rng.number() },
        51..=53 => Step::Compact { all: rng.chance(60) },
        54..=56 => Step::Control { number: rng.below(1000) },
        57..=74 => Step::Commit { all: rng.chance(60), seed: rng.number() },
        75..=81 => Step::Flush,
        82..=86 => Step::SyncTo,
        87..=89 => Step::Look { seed: rng.number() },
        90..=92 => Step::Idle,
        93..=95 => {
            let minutes = rng.between(1, 90) as i64;
            let by_ns = if rng.chance(30) { -300_000_000 } else { minutes * 60_000_000_000 };
            Step::StepClock { by_ns: if rng.chance(50) { by_ns } else { -by_ns } }
        }
        _ => Step::Reopen,
    }
}

/// Sizes from one byte up, mostly small; offsets on pages, sectors and bytes.
fn draw_range(rng: &mut Rng, size: usize, most: usize) -> (usize, usize) {
    let grain = [4096, 512, 512, 1][rng.below(4) as usize];
    let bytes = match rng.below(10) {
        0 => rng.between(1, most as u64),
        1 | 2 => rng.between(1, 16 << 10),
        3 => rng.between(1, 600),
        4 => 512,
        _ => 4096,
    } as usize;
    let bytes = if grain == 1 { bytes } else { bytes.div_ceil(grain) * grain };
    let bytes = bytes.min(most).min(size);
    // A quarter of the traffic meets in a few sectors, so that records overlap in every way.
    let end = if rng.chance(25) { (size - bytes).min(8192) } else { size - bytes };
    let offset = rng.below(end as u64 + 1) as usize / grain * grain;
    (offset, bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Names of the kinds of steps; every range fits.
    fn kinds<'a>(steps: impl IntoIterator<Item = &'a Step>, size: usize) -> BTreeSet<String> {
        let mut kinds = BTreeSet::new();
        for step in steps {
            kinds.insert(format!("{step:?}").split([' ', '{']).next().unwrap().to_string());
            if let Step::Write { offset, content: Content { bytes, .. } } | Step::Zero { offset, bytes, .. } = step {
                assert!(*bytes > 0 && offset + bytes <= size);
            }
        }
        kinds
    }

    #[test]
    fn the_mix_has_every_kind_of_step_and_clones_take_those_of_a_volume() {
        let size = 100 << 10;
        let steps = draw_mix(1, 4000, size);
        assert_eq!(steps, draw_mix(1, 4000, size));
        let of_clones = steps.iter().filter_map(|step| match step {
            Step::Beside { step, .. } => Some(&**step),
            _ => None,
        });
        assert_eq!((kinds(&steps, size).len(), kinds(of_clones, size).len()), (21, 18));
    }

    #[test]
    fn every_kind_of_step_is_drawn_and_fits() {
        let size = 100 << 10;
        let steps = draw(1, 2000, size);
        assert_eq!(steps, draw(1, 2000, size));
        let kinds = kinds(&steps, size);
        assert_eq!(kinds.len(), 13, "{kinds:?}");
        let unaligned = |s: &&Step| matches!(s, Step::Write { offset, .. } if offset % 512 != 0);
        let large = |s: &&Step| matches!(s, Step::Write { content, .. } if content.bytes > 64 << 10);
        assert!(steps.iter().filter(unaligned).count() > 20 && steps.iter().filter(large).count() > 5);
    }
}
