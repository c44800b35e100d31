//! Clones in a story: each is a story of its own on the same machine and in the same process, and dies with it.
//!
//! A clone counts from when `fork` returned: what gives it its name comes after. A scratch clone ends with the process.

use std::sync::Arc;

use cdp_engine::storage::Storage;
use cdp_engine::{Fork, Lsn, Stamp};

use super::{Story, ID};
use crate::process::Process;
use crate::scenario::Step;
use crate::seed::Rng;
use crate::subfolder::Subfolder;

/// There at a time.
const CLONES_MAX: usize = 3;

/// Where the volume of a story lies, and what it began with.
#[derive(Clone)]
pub(super) struct Place {
    /// Empty for the first volume, else of its subfolder.
    pub prefix: String,
    pub id: [u8; 16],
    /// The instant that a clone was made of.
    pub base: u64,
    pub scratch: bool,
}

impl Place {
    pub(super) fn of_first() -> Place {
        Place { prefix: String::new(), id: ID, base: 0, scratch: false }
    }

    fn of_clone(number: u64, base: u64, scratch: bool) -> Place {
        let mut id = *b"a simulated copy";
        id[..8].copy_from_slice(&number.to_le_bytes());
        Place { prefix: format!("clone-{number}/"), id, base, scratch }
    }

    pub(super) fn storage(&self, process: &Arc<Process>) -> Arc<dyn Storage> {
        match self.prefix.is_empty() {
            true => process.clone(),
            false => Arc::new(Subfolder::new(process.clone(), &self.prefix)),
        }
    }
}

impl Story {
    /// A clone of the first volume or of one of its clones, at an instant that the seed picks.
    pub(super) fn make_clone(&mut self, of: u64, seed: u64, scratch: bool) {
        if self.clones.len() == CLONES_MAX {
            return;
        }
        self.clones_made += 1;
        let number = self.clones_made;
        let made = match (of % (self.clones.len() as u64 + 1)) as usize {
            0 => self.branch_off(number, seed, scratch),
            of => self.clone_number(of - 1).branch_off(number, seed, scratch),
        };
        self.tally.clones += u64::from(made.is_some());
        self.clones.extend(made);
    }

    fn branch_off(&mut self, number: u64, seed: u64, scratch: bool) -> Option<Story> {
        let process = self.process.clone()?;
        let mut instants = self.oracle.instants(self.oracle.last_replied());
        instants.retain(|&lsn| self.oracle.is_settled(lsn));
        if !self.is_open() || instants.is_empty() {
            return None;
        }
        let base = instants[Rng::new(seed).below(instants.len() as u64) as usize];
        let place = Place::of_clone(number, base, scratch);
        let target = Arc::new(Subfolder::new(process.clone(), &place.prefix));
        let link =
            |name: &str| process.link(&format!("{}{name}", self.place.prefix), &format!("{}{name}", place.prefix));
        let fork = Fork { id: place.id, created: Stamp(process.now()), target: target.clone(), link: &link };
        if let Err(error) = self.volume().fork(Lsn(base), &fork) {
            self.fail("fork", error);
            target.clear();
            return None;
        }
        let mut clone = Story::on(self.machine.clone(), self.oracle.branch(base), place);
        clone.origin = self.origin.clone();
        clone.process = Some(process);
        (clone.tolerant, clone.shaky_reads) = (self.tolerant, self.shaky_reads);
        clone.open_again();
        Some(clone)
    }

    /// A step of one of the clones, if there is any.
    pub(super) fn beside(&mut self, which: u64, step: &Step) {
        if !self.clones.is_empty() {
            let which = self.clones.len() - 1 - (which % self.clones.len() as u64) as usize;
            self.clone_number(which).run(std::slice::from_ref(step));
        }
    }

    fn clone_number(&mut self, number: usize) -> &mut Story {
        let (tolerant, shaky_reads) = (self.tolerant, self.shaky_reads);
        let clone = &mut self.clones[number];
        (clone.tolerant, clone.shaky_reads) = (tolerant, shaky_reads);
        clone
    }

    /// Closes a clone and removes its files, its parent's or its own clones' notwithstanding.
    pub(super) fn remove_clone(&mut self, which: u64) {
        if self.clones.is_empty() {
            return;
        }
        let which = (which % self.clones.len() as u64) as usize;
        // What its end costs nobody has to know.
        self.clone_number(which).tolerant = true;
        let mut clone = self.clones.swap_remove(which);
        clone.close();
        self.tally.add(&clone.tally);
        self.tally.removed += 1;
        if let Some(process) = &self.process {
            Subfolder::new(process.clone(), &clone.place.prefix).clear();
        }
    }

    /// What the next process does before it opens anything: folders that nothing names are removed.
    pub(super) fn tidy_clones(&mut self, process: &Arc<Process>) {
        let (scratch, kept): (Vec<Story>, _) =
            std::mem::take(&mut self.clones).into_iter().partition(|c| c.place.scratch);
        self.clones = kept;
        scratch.iter().for_each(|clone| self.tally.add(&clone.tally));
        let named = |name: &String| self.clones.iter().any(|clone| name.starts_with(&clone.place.prefix));
        let names = process.names().expect("a list on a sound machine");
        for name in names.iter().filter(|name| name.contains('/') && !named(name)) {
            process.remove(name).expect("a removal on a sound machine");
        }
    }
}
