//! A view written out, or compared with what was.

use crate::error::{Error, Kind, Result};
use crate::view::{Extent, Fault, View};

/// Bytes handled at a time: one leaf.
const STEP: u64 = 4 << 20;

/// Where a restore goes.
pub trait Target {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Makes a range read as zeros.
    fn zero(&mut self, offset: u64, bytes: u64) -> Result<()>;
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// The first byte at or behind `offset` that may be other than zero; u64::MAX where there is none. Any answer that is too small is right, too.
    fn next_data(&mut self, offset: u64) -> u64 {
        offset
    }
}

impl View {
    /// Writes the data of the view into `target`, and its zeros where `zero_holes`; bytes of data written. `progress(done, total)` may end it with an
    /// error. Damage does not end it: what could be read is written, then Corrupt names the first fault and how many there are.
    pub fn restore(
        &self,
        target: &mut dyn Target,
        zero_holes: bool,
        progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<u64> {
        let mut buffer = vec![0u8; STEP as usize];
        let mut written = 0;
        let mut faults: Vec<Fault> = Vec::new();
        self.for_each_extent(progress, |offset, extent| {
            if extent.zero {
                return if zero_holes { target.zero(offset, extent.bytes).map(|()| true) } else { Ok(true) };
            }
            let part = &mut buffer[..extent.bytes as usize];
            faults.extend(self.read(offset, part)?);
            target.write_at(part, offset)?;
            written += extent.bytes;
            Ok(true)
        })?;
        match faults.first() {
            None => Ok(written),
            Some(first) => {
                let message = format!("{} ranges could not be read; the first: {}", faults.len(), first.message);
                Err(Error::new(Kind::Corrupt, message))
            }
        }
    }

    /// The offset of the first byte of `target` that differs from the view, or None.
    pub fn compare(
        &self,
        target: &mut dyn Target,
        progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Option<u64>> {
        let (mut ours, mut theirs) = (vec![0u8; STEP as usize], vec![0u8; STEP as usize]);
        let mut differs = None;
        self.for_each_extent(progress, |offset, extent| {
            if extent.zero && target.next_data(offset) >= offset + extent.bytes {
                return Ok(true);
            }
            let (ours, theirs) = (&mut ours[..extent.bytes as usize], &mut theirs[..extent.bytes as usize]);
            if let Some(fault) = self.read(offset, ours)?.first() {
                return Err(Error::new(fault.kind, fault.message.clone()));
            }
            let got = target.read_at(theirs, offset)?;
            let same = ours.iter().zip(&theirs[..got]).take_while(|(a, b)| a == b).count();
            if same < ours.len() {
                differs = Some(offset + same as u64);
            }
            Ok(differs.is_none())
        })?;
        Ok(differs)
    }

    /// Calls `handle(offset, extent)` for the whole view in pieces of at most a step, until it says false.
    fn for_each_extent(
        &self,
        progress: &mut dyn FnMut(u64, u64) -> Result<()>,
        mut handle: impl FnMut(u64, Extent) -> Result<bool>,
    ) -> Result<()> {
        let size = self.size();
        let mut at = 0;
        while at < size {
            progress(at, size)?;
            let step = STEP.min(size - at);
            for extent in self.extents(at, step, usize::MAX)? {
                if !handle(at, extent)? {
                    return Ok(());
                }
                at += extent.bytes;
            }
        }
        progress(size, size)
    }
}
