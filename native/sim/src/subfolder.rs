//! The files of one timeline where several lie in one simulated folder: those whose names begin with its prefix.
//!
//! Invariant: a prefix ends with `/`, and a process by itself lists only names without one, so that no timeline sees another's files.

use std::io;
use std::sync::Arc;

use cdp_engine::storage::{File, Lock, Storage};

use crate::process::Process;

/// The engine's storage for one timeline.
pub struct Subfolder {
    process: Arc<Process>,
    prefix: String,
}

impl Subfolder {
    pub fn new(process: Arc<Process>, prefix: &str) -> Subfolder {
        assert!(prefix.ends_with('/'));
        Subfolder { process, prefix: prefix.into() }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes away what is there, as far as that goes.
    pub fn clear(&self) {
        for name in self.list().unwrap_or_default() {
            let _ = self.remove(&name);
        }
    }
}

impl Storage for Subfolder {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.process.create(&self.name(name))
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Arc<dyn File>> {
        self.process.open(&self.name(name), write)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.process.rename(&self.name(from), &self.name(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.process.remove(&self.name(name))
    }

    fn links(&self, name: &str) -> io::Result<u64> {
        self.process.links(&self.name(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = self.process.names()?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(&self.prefix)).map(String::from).collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.process.sync_folder()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.process.lock_of(&self.prefix)
    }

    fn now(&self) -> u64 {
        self.process.now()
    }

    fn nonce(&self) -> u64 {
        self.process.nonce()
    }
}
