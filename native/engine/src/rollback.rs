//! Rollback: a record that says which earlier state goes on from here. It is one directory entry, so that its echo covers it like any other.

use crate::error::{Error, Kind, Result};
use crate::index::memtable::Control;
use crate::request::Request;
use crate::units::Lsn;
use crate::volume::Volume;

/// Rollbacks stand among the control records of footers and checkpoints in this form.
const BEFORE: &[u8] = br#"{"type":"rollback","to":"#;
const AFTER: &[u8] = b"}";

/// The control record that lists a rollback.
pub fn document(to: u64) -> Vec<u8> {
    [BEFORE, to.to_string().as_bytes(), AFTER].concat()
}

/// The LSN that a control record goes back to, if it lists a rollback.
pub fn target(document: &[u8]) -> Option<u64> {
    let digits = document.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// (LSN, to) of those among the control records.
pub fn branches<'a>(controls: impl IntoIterator<Item = &'a Control>) -> Vec<(u64, u64)> {
    let branch = |control: &Control| Some((control.lsn, target(&control.document)?)).filter(|&(lsn, to)| to < lsn);
    controls.into_iter().filter_map(branch).collect()
}

impl Volume {
    /// The live volume becomes what it was at `to`, in time that does not depend on its size; everything written since stays reachable. Durable when it returns.
    /// The LSN of the rollback: it is itself an instant, of the state gone back to. NotFound, naming the range, if `to` cannot be reached. An error that
    /// carries an LSN leaves open until the next opening whether the rollback has happened.
    pub fn rollback(&self, to: Lsn) -> Result<Lsn> {
        self.check_writable()?;
        // Held until the live path goes through it, so that no compaction takes it away.
        let _pin = self.pin(to)?;
        let lsn = self.admit(Request::rollback(to.0)?)?;
        self.commit(lsn).and_then(|_| self.sync_to(lsn)).map_err(|error| error.of_record(lsn))?;
        Ok(lsn)
    }
}

impl Volume {
    /// The newest rollback of this timeline, and the record before it, which is where an undo goes back to. NotFound if there was none.
    pub fn last_rollback(&self) -> Result<(Lsn, Lsn)> {
        let floor = self.facts.floor();
        let lineage = self.index.lineage();
        match lineage.branches().last().filter(|&&(lsn, _)| lsn > floor) {
            Some(&(lsn, _)) => Ok((Lsn(lsn), self.record_before(Lsn(lsn))?)),
            None => Err(Error::new(Kind::NotFound, "there was no rollback that could be undone")),
        }
    }
}

impl Request {
    fn rollback(to: u64) -> Result<Request> {
        if to >= 1 << 48 {
            return Err(Error::invalid(format!("LSN {to} is too large to go back to")));
        }
        Ok(Request::of_rollback(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listing_of_a_rollback_has_a_target() {
        assert_eq!(target(&document(77)), Some(77));
        for other in [&br#"{"type":"bookmark","to":7}"#[..], br#"{"type":"rollback","to":7,"x":1}"#, b"", b"{}"] {
            assert_eq!(target(other), None);
        }
    }
}
