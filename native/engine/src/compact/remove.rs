//! Removing replaced segments beside the next rewrite: the kernel takes milliseconds to forget the pages and blocks of each.
//!
//! Invariants: one batch at a time, before the next commit; when this is dropped all are gone.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::options::Maintenance;
use crate::storage::Storage;
use crate::volume::Volume;

pub(super) struct Remover {
    storage: Arc<dyn Storage>,
    has_thread: bool,
    thread: Option<JoinHandle<()>>,
}

impl Remover {
    /// Without threads of its own the volume has everything done by who asks for it.
    pub fn of(volume: &Volume) -> Remover {
        let has_thread = volume.options.maintenance == Maintenance::Thread;
        Remover { storage: volume.storage.clone(), has_thread, thread: None }
    }

    /// Removes what is not named any more. What cannot be removed goes at the next opening.
    pub fn remove(&mut self, names: Vec<String>) {
        let storage = self.storage.clone();
        let work = move || names.iter().for_each(|name| drop(storage.remove(name)));
        if !self.has_thread {
            return work();
        }
        let work = Arc::new(work);
        let beside = work.clone();
        match std::thread::Builder::new().name("cdp-remove".into()).stack_size(256 << 10).spawn(move || beside()) {
            Ok(thread) => self.thread = Some(thread),
            Err(_) => work(),
        }
    }

    /// Until what was to be removed is gone.
    pub fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.wait();
    }
}
