//! The names of one folder: what the medium knows, and what happened since.
//!
//! Invariant: a name is certain once `sync` returned; before, each creation, rename and removal may or may not
//! survive a cut, but a rename is never half done: `to` always names the one file or the other.

use std::collections::BTreeMap;

use crate::seed::Rng;

pub(crate) type FileId = u64;
type Names = BTreeMap<String, FileId>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    names: Names,
    synced: Names,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, FileId),
    Rename { from: String, to: String, file: FileId },
    Remove(String),
}

impl Folder {
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn get(&self, name: &str) -> Option<FileId> {
        self.names.get(name).copied()
    }

    pub(crate) fn create(&mut self, name: &str, file: FileId) {
        self.change(Change::Create(name.into(), file));
    }

    /// False if there is no `from`.
    pub(crate) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(file) = self.get(from) else {
            return false;
        };
        self.change(Change::Rename { from: from.into(), to: to.into(), file });
        true
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let found = self.names.contains_key(name);
        if found {
            self.change(Change::Remove(name.into()));
        }
        found
    }

    pub(crate) fn sync(&mut self) {
        self.synced = self.names.clone();
        self.unsynced.clear();
    }

    /// The names after a power cut: of the unsynced changes all, none, the first ones (a file system with a
    /// log), or any.
    pub(crate) fn survive(self, wreck: FolderWreck, rng: &mut Rng) -> Folder {
        let first = rng.below(self.unsynced.len() as u64 + 1) as usize;
        let mut names = self.synced;
        for (index, change) in self.unsynced.iter().enumerate() {
            let kept = match wreck {
                FolderWreck::AllKept => true,
                FolderWreck::AllLost => false,
                FolderWreck::Prefix => index < first,
                FolderWreck::Any => rng.chance(50),
            };
            if kept {
                apply(&mut names, change);
            }
        }
        Folder { synced: names.clone(), names, unsynced: Vec::new() }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.unsynced.push(change);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FolderWreck {
    AllKept,
    AllLost,
    Prefix,
    Any,
}

impl FolderWreck {
    pub(crate) fn draw(rng: &mut Rng) -> FolderWreck {
        [FolderWreck::AllKept, FolderWreck::AllLost, FolderWreck::Prefix, FolderWreck::Any][rng.below(4) as usize]
    }
}

fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename { from, to, file } => {
            // Where an earlier change of these names was lost, `from` may be absent or another file.
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_cuts(folder: &Folder) -> Vec<Names> {
        (0..200)
            .map(|seed| {
                let rng = &mut Rng::new(seed);
                folder.clone().survive(FolderWreck::draw(rng), rng).names
            })
            .collect()
    }

    #[test]
    fn synced_names_stay() {
        let mut folder = Folder::default();
        folder.create("a", 1);
        folder.sync();
        folder.create("b", 2);
        let all = after_cuts(&folder);
        assert!(all.iter().all(|names| names.get("a") == Some(&1)));
        assert!(all.iter().any(|names| names.contains_key("b")));
        assert!(all.iter().any(|names| !names.contains_key("b")));
    }

    #[test]
    fn a_removal_may_be_undone() {
        let mut folder = Folder::default();
        folder.create("a", 1);
        folder.sync();
        assert!(folder.remove("a") && !folder.remove("a"));
        let all = after_cuts(&folder);
        assert!(all.iter().any(|names| names.contains_key("a")));
        assert!(all.iter().any(|names| names.is_empty()));
    }

    #[test]
    fn a_rename_is_whole() {
        let mut folder = Folder::default();
        folder.create("m", 1);
        folder.create("m.tmp", 2);
        folder.sync();
        assert!(folder.rename("m.tmp", "m") && !folder.rename("m.tmp", "m"));
        let (mut old, mut new) = (0, 0);
        for names in after_cuts(&folder) {
            match (names.get("m"), names.get("m.tmp")) {
                (Some(1), Some(2)) => old += 1,
                (Some(2), None) => new += 1,
                other => panic!("half a rename: {other:?}"),
            }
        }
        assert!(old > 0 && new > 0);
    }

    #[test]
    fn changes_may_survive_out_of_order() {
        let mut folder = Folder::default();
        folder.create("a", 1);
        folder.create("b", 2);
        assert!(after_cuts(&folder).iter().any(|names| !names.contains_key("a") && names.contains_key("b")));
    }
}
