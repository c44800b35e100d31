//! What was written, by minute: the figures behind `cdp log`.

use std::collections::BTreeMap;

use crate::journal::batch::RecordKind;
use crate::units::SECTOR;

/// In nanoseconds.
pub const MINUTE: u64 = 60_000_000_000;

/// What was written in one minute (of Unix time).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    pub minute: u64,
    pub data_records: u64,
    pub zero_records: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
}

/// One directory entry, as far as it counts.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub stamp: u64,
    pub kind: RecordKind,
    pub continues: bool,
    pub sectors: u64,
    pub stored: u32,
}

/// Sums by minute. Every record makes a row for its minute, be it of zeros.
#[derive(Default)]
pub struct Tally {
    minutes: BTreeMap<u64, Activity>,
}

impl Tally {
    pub fn count(&mut self, entry: Counted) {
        let row = self.row(entry.stamp / MINUTE);
        let record = u64::from(!entry.continues);
        match entry.kind {
            RecordKind::Data => {
                row.data_records += record;
                row.raw_bytes += entry.sectors * SECTOR;
                row.stored_bytes += u64::from(entry.stored);
            }
            RecordKind::Zero | RecordKind::Trim => row.zero_records += record,
            _ => {}
        }
    }

    pub fn add(&mut self, other: Activity) {
        let row = self.row(other.minute);
        row.data_records += other.data_records;
        row.zero_records += other.zero_records;
        row.raw_bytes += other.raw_bytes;
        row.stored_bytes += other.stored_bytes;
    }

    /// Ascending by minute.
    pub fn rows(&self) -> impl Iterator<Item = Activity> + '_ {
        self.minutes.values().copied()
    }

    fn row(&mut self, minute: u64) -> &mut Activity {
        self.minutes.entry(minute).or_insert(Activity { minute, ..Activity::default() })
    }
}
