//! What was found damaged or odd, one sentence each, for people to read.

use std::sync::Arc;

use parking_lot::Mutex;

/// Sentences kept at most: a disk that fails everywhere says the same thing often.
const FAULTS_MAX: usize = 1000;

/// Shared by all parts of a volume.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<String>>>);

impl Faults {
    /// Remembers a sentence, once.
    pub fn note(&self, fault: String) {
        let mut faults = self.0.lock();
        if faults.len() < FAULTS_MAX && !faults.contains(&fault) {
            faults.push(fault);
        }
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl FromIterator<String> for Faults {
    fn from_iter<I: IntoIterator<Item = String>>(sentences: I) -> Faults {
        let faults = Faults::default();
        sentences.into_iter().for_each(|fault| faults.note(fault));
        faults
    }
}
