//! The size of a volume at an instant (docs/format.md, "The state at an LSN"): that of the last resize on its path.
//!
//! Invariants. Only growing is asked for, but a rollback behind a resize gives the old size back, so each branch has its own. What is written beyond
//! the old size has a larger LSN than the resize: where it counts, the resize does.

use crate::error::{Error, Result};
use crate::index::memtable::Control;
use crate::path::Path;
use crate::units::{Lsn, SECTOR};
use crate::volume::Volume;

/// Sectors that a volume can have, which is what a *damaged* entry covers of which nothing is known: a lost record may have been a resize.
pub const SECTORS_MAX: u64 = (1 << 48) - 1;

/// The sizes of a volume along its timeline, in bytes.
#[derive(Clone, Debug)]
pub struct Sizes {
    first: u64,
    /// (LSN, size), ascending.
    resizes: Vec<(u64, u64)>,
}

impl Sizes {
    /// `first`: the size at LSN 0. `controls`: all of the timeline, ascending.
    pub fn new(first: u64, controls: &[Control]) -> Sizes {
        let resize = |control: &Control| Some((control.lsn, resized_to(&control.document)?));
        Sizes { first, resizes: controls.iter().filter_map(resize).collect() }
    }

    /// Takes note of the newest control record; true if it is a resize.
    pub fn note(&mut self, lsn: u64, document: &[u8]) -> bool {
        let size = resized_to(document);
        self.resizes.extend(size.map(|size| (lsn, size)));
        size.is_some()
    }

    pub fn at(&self, path: impl FnOnce() -> Path) -> u64 {
        // Most volumes never grow, and a path costs more than this.
        if self.resizes.is_empty() {
            return self.first;
        }
        let path = path();
        let last = self.resizes.iter().rev().find(|&&(lsn, _)| path.contains(lsn));
        last.map_or(self.first, |&(_, size)| size)
    }

    pub fn largest(&self) -> u64 {
        self.resizes.iter().map(|&(_, size)| size).fold(self.first, u64::max)
    }
}

/// True for what a volume can have: whole sectors, one at least.
pub fn is_possible(bytes: u64) -> bool {
    bytes % SECTOR == 0 && (1..=SECTORS_MAX).contains(&(bytes / SECTOR))
}

/// The control record that changes the size.
fn document(bytes: u64) -> String {
    format!(r#"{{"type":"resize","size":{bytes}}}"#)
}

/// The size that a control record sets; None where it is no valid resize.
fn resized_to(document: &[u8]) -> Option<u64> {
    let mut text = Text(document);
    let (mut is_resize, mut size) = (false, None);
    text.eat(b"{")?;
    for key in 0..2 {
        if key > 0 {
            text.eat(b",")?;
        }
        if text.eat(b"\"type\"").is_some() {
            text.eat(b":").and_then(|()| text.eat(b"\"resize\""))?;
            is_resize = true;
        } else {
            text.eat(b"\"size\"").and_then(|()| text.eat(b":"))?;
            size = Some(text.number()?);
        }
    }
    text.eat(b"}")?;
    text.skip_blanks();
    size.filter(|&size| is_resize && text.0.is_empty() && is_possible(size))
}

/// What is left of a JSON text.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn skip_blanks(&mut self) {
        while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn eat(&mut self, token: &[u8]) -> Option<()> {
        self.skip_blanks();
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    fn number(&mut self) -> Option<u64> {
        self.skip_blanks();
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        // A number of JSON has no leading zero; 0 is no size anyway.
        (number.first()? != &b'0').then_some(())?;
        std::str::from_utf8(number).ok()?.parse().ok()
    }
}

impl Volume {
    /// Makes the volume larger, durably: `bytes` from the LSN on that is returned, while it is open. Older instants keep their size. The new sectors are the origin's
    /// where it reaches so far, else zeros. Invalid for less than now (what lies beyond would be lost to the live volume, and NBD clients do not expect it) and for
    /// what no volume can have; for the same size nothing is recorded, and None returned.
    pub fn resize(&self, bytes: u64) -> Result<Option<Lsn>> {
        self.check_writable()?;
        if !is_possible(bytes) {
            return Err(Error::invalid(format!(
                "a volume of {bytes} bytes: it must be 1 to 2^48 - 1 sectors of {SECTOR} bytes"
            )));
        }
        let _one_at_a_time = self.resizing.lock();
        let now = self.size();
        if bytes < now {
            return Err(Error::invalid(format!(
                "the volume has {now} bytes and cannot shrink to {bytes}: what lies behind the new end would be lost to whoever has it mounted; \
                 make a smaller volume and copy the file system"
            )));
        }
        if bytes == now {
            return Ok(None);
        }
        let lsn = self.control(document(bytes).as_bytes())?;
        let lsn = self.commit(lsn)?;
        self.sync_to(lsn)?;
        Ok(Some(lsn))
    }

    /// The size at an instant, in bytes.
    pub(crate) fn size_at(&self, lsn: Lsn) -> u64 {
        let lineage = self.index.lineage();
        self.sizes.lock().at(|| lineage.path(lsn.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Lineage;

    fn control(lsn: u64, document: &str) -> Control {
        Control { lsn, stamp: lsn, document: document.as_bytes().to_vec() }
    }

    #[test]
    fn only_a_valid_resize_sets_a_size() {
        assert_eq!(resized_to(document(4096).as_bytes()), Some(4096));
        assert_eq!(resized_to(b" {\t\"size\" : 1024 ,\n\"type\": \"resize\"}\r"), Some(1024));
        let most = format!(r#"{{"type":"resize","size":{}}}"#, SECTORS_MAX * SECTOR);
        assert_eq!(resized_to(most.as_bytes()), Some(SECTORS_MAX * SECTOR));
        for other in [
            r#"{"type":"resize","size":0}"#,
            r#"{"type":"resize","size":513}"#,
            r#"{"type":"resize","size":-512}"#,
            r#"{"type":"resize","size":512.0}"#,
            r#"{"type":"resize","size":"512"}"#,
            r#"{"type":"resize","size":144115188075855872}"#,
            r#"{"type":"resize"}"#,
            r#"{"type":"resize","size":512"#,
            r#"{"type":"resize","size":512}x"#,
            r#"{"type":"resize","size":512,"more":1}"#,
            r#"{"type":"resize","size":0512}"#,
            r#"{"type":"resize","type":"resize"}"#,
            r#"{"size":512,"size":512}"#,
            r#"{"type":"event","event":"resize","size":512}"#,
            r#"["resize"]"#,
            "resize",
        ] {
            assert_eq!(resized_to(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_last_resize_on_the_path_counts() {
        let controls = [control(3, &document(1024)), control(4, r#"{"type":"event"}"#), control(8, &document(2048))];
        let mut sizes = Sizes::new(512, &controls);
        // A rollback at 10 to 5, one at 12 to 2, one at 14 to 9.
        let lineage = Lineage::new(vec![(10, 5), (12, 2), (14, 9)]);
        let at = |sizes: &Sizes, lsn| sizes.at(|| lineage.path(lsn));
        for (lsn, size) in [
            (0, 512),
            (2, 512),
            (3, 1024),
            (7, 1024),
            (8, 2048),
            (9, 2048),
            (10, 1024),
            (11, 1024),
            (12, 512),
            (14, 2048),
        ] {
            assert_eq!(at(&sizes, lsn), size, "at {lsn}");
        }
        assert!(sizes.note(15, document(4096).as_bytes()));
        assert!(!sizes.note(16, br#"{"type":"bookmark","name":"resize"}"#));
        assert_eq!((at(&sizes, 16), at(&sizes, 14), sizes.largest()), (4096, 2048, 4096));
    }
}
