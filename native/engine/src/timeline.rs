//! What happened between two instants, by interval: the figures behind `cdp log`.
//!
//! Invariants: exact for every interval, and no payload is read. A segment that lies in one interval answers from the figures of its footer; one
//! that straddles a border is split at the border's LSN, which its stamp fences lead to, and its entries are read from its run. Of what was
//! compacted there are figures by the minute, as the replaced segments had them.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::index::activity::{Activity, MINUTE};
use crate::index::memtable::Memtable;
use crate::index::sealed::Sealed;
use crate::index::{Place, Version};
use crate::instants::Stretch;
use crate::path::Path;
use crate::units::{Lsn, Stamp, SECTOR};
use crate::volume::Volume;

/// Borders between intervals in one answer at most: each is a look into a segment.
const BORDERS_MAX: u64 = 100_000;
/// Sectors of the largest volume.
const SECTORS_END: u64 = 1 << 48;

/// The intervals in which something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Nanoseconds.
    pub length: u64,
    pub intervals: Vec<Interval>,
}

/// What happened in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Its begin, nanoseconds since 1970, a multiple of its length.
    pub stamp: u64,
    pub data_records: u64,
    pub zero_records: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// Of the raw bytes, those that the same interval did not write before. None: too many entries to tell.
    pub distinct_bytes: Option<u64>,
    pub flush_points: u64,
    pub last_flush: Option<Lsn>,
}

/// The part of a stretch that lies in one interval: records up to `upto`.
struct Piece {
    upto: u64,
    stamp: u64,
}

impl Volume {
    /// What the records after `since` up to `until` did, by intervals of `length` nanoseconds, ascending; intervals in which nothing happened are left out.
    /// Where some of it was compacted, intervals are a minute at least. Invalid for an interval that is too short for the time between the two.
    pub fn timeline(&self, since: Lsn, until: Lsn, length: u64) -> Result<Timeline> {
        if length == 0 {
            return Err(Error::invalid("an interval has a length"));
        }
        self.of_one_list(|| self.timeline_once(since, until, length, true))
    }

    /// `detailed`: with the distinct bytes, where the entries are not too many to tell.
    fn timeline_once(&self, since: Lsn, until: Lsn, length: u64, detailed: bool) -> Result<Timeline> {
        let stretches = self.between(since, until);
        let compacted = stretches.iter().any(|s| s.compacted);
        let length = if compacted { length.max(MINUTE) } else { length };
        let entries: u64 = stretches.iter().map(|s| self.entries_of(s)).sum();
        let detailed = detailed && entries <= self.options.overwrite_entries;
        let flushes: Vec<u64> = self.flush_points_once(since.next(), until)?.into_iter().map(|lsn| lsn.0).collect();
        let mut tally = Tally { length, rows: BTreeMap::new(), detailed, borders: 0 };
        let mut flushed = 0;
        for stretch in &stretches {
            if stretch.compacted {
                self.tally_compacted(stretch, since, until, &mut tally)?;
                continue;
            }
            let pieces = self.pieces(stretch, since, until, &mut tally)?;
            // A flush point that nobody's record has lies in the stretch before it.
            let end = flushed + flushes[flushed..].partition_point(|&lsn| lsn <= stretch.last.0);
            tally.flushes(&pieces, &flushes[flushed..end]);
            flushed = end;
            self.tally(stretch, since, until, &pieces, &mut tally)?;
        }
        Ok(Timeline { length, intervals: tally.finish() })
    }

    /// Repeats `ask` until no segment was replaced meanwhile: one that is gone says nothing.
    fn of_one_list<T>(&self, ask: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            let before = self.index.replacements();
            let answer = ask();
            if self.index.replacements() == before {
                return answer;
            }
        }
    }

    /// What the records after `since` up to `until` wrote, by minute, ascending.
    pub fn activity(&self, since: Lsn, until: Lsn) -> Result<Vec<Activity>> {
        let row = |it: Interval| Activity {
            minute: it.stamp / MINUTE,
            data_records: it.data_records,
            zero_records: it.zero_records,
            raw_bytes: it.raw_bytes,
            stored_bytes: it.stored_bytes,
        };
        let timeline = self.of_one_list(|| self.timeline_once(since, until, MINUTE, false))?;
        Ok(timeline.intervals.into_iter().map(row).collect())
    }

    /// LSNs that a FLUSH or FUA made durable, in `since..=until`, ascending.
    pub fn flush_points(&self, since: Lsn, until: Lsn) -> Result<Vec<Lsn>> {
        self.of_one_list(|| self.flush_points_once(since, until))
    }

    fn flush_points_once(&self, since: Lsn, until: Lsn) -> Result<Vec<Lsn>> {
        let stretches = self.stretches();
        let first = stretches.partition_point(|s| s.last.0 < since.0);
        // A flush point is noted in a later batch than its record's, so maybe in the next segment.
        let end = (stretches.partition_point(|s| s.first.0 <= until.0) + 1).min(stretches.len());
        let mut points = Vec::new();
        for stretch in stretches.get(first..end).unwrap_or_default() {
            let files = &self.index.files;
            let of_table = |table: &Memtable| table.flush_points.clone();
            let part = self.index.ask(stretch.segment, of_table, |sealed| sealed.flush_points(files))?;
            points.extend(part.into_iter().filter(|&lsn| since.0 <= lsn && lsn <= until.0).map(Lsn));
        }
        points.sort_unstable();
        points.dedup();
        Ok(points)
    }

    /// The stamps of records, ascending, as far as the journal has them.
    pub fn stamps(&self, lsns: &[Lsn]) -> Result<Vec<(Lsn, Stamp)>> {
        self.of_one_list(|| self.stamps_once(lsns))
    }

    fn stamps_once(&self, lsns: &[Lsn]) -> Result<Vec<(Lsn, Stamp)>> {
        let mut found = Vec::with_capacity(lsns.len());
        for stretch in &self.stretches() {
            let first = lsns.partition_point(|lsn| lsn.0 < stretch.first.0);
            let end = lsns.partition_point(|lsn| lsn.0 <= stretch.last.0);
            let part: Vec<u64> = lsns.get(first..end).unwrap_or_default().iter().map(|lsn| lsn.0).collect();
            if part.is_empty() {
                continue;
            }
            let of_table = |table: &Memtable| part.iter().map(|&lsn| table.stamp_of(lsn)).collect();
            let of_sealed = |sealed: &Sealed| sealed.stamps_of(&self.index.files, &part);
            let stamps: Vec<Option<u64>> = self.index.ask(stretch.segment, of_table, of_sealed)?;
            found.extend(part.iter().zip(stamps).filter_map(|(&lsn, stamp)| Some((Lsn(lsn), Stamp(stamp?)))));
        }
        Ok(found)
    }

    fn between(&self, since: Lsn, until: Lsn) -> Vec<Stretch> {
        let holds = |s: &Stretch| s.first.0 <= until.0 && s.last.0 > since.0;
        self.stretches().into_iter().filter(holds).collect()
    }

    fn entries_of(&self, stretch: &Stretch) -> u64 {
        let entries = self.index.ask(stretch.segment, |t| t.len() as u64, |s| Ok(u64::from(s.item.entries)));
        entries.unwrap_or(0)
    }

    /// The intervals of a stretch between the two instants, ascending, with their last LSN.
    fn pieces(&self, stretch: &Stretch, since: Lsn, until: Lsn, tally: &mut Tally) -> Result<Vec<Piece>> {
        let inside = |lsn: Lsn| stretch.first.0 <= lsn.0 && lsn.0 < stretch.last.0;
        let stamp_of = |lsn: Lsn, else_stamp| match inside(lsn) {
            true => self.stamp_in(stretch, lsn.0).map(|stamp| stamp.unwrap_or(else_stamp)),
            false => Ok(else_stamp),
        };
        let (from, upto) = (stamp_of(since, stretch.first.1)?, stamp_of(until, stretch.last.1)?);
        let (first, last) = (from / tally.length, upto / tally.length);
        tally.borders += last.saturating_sub(first);
        if tally.borders > BORDERS_MAX {
            return Err(Error::invalid(format!(
                "more than {BORDERS_MAX} intervals: ask for longer ones, or for less time"
            )));
        }
        let ends: Vec<u64> = (first + 1..=last).map(|interval| interval * tally.length - 1).collect();
        let of_table = |table: &Memtable| ends.iter().map(|&stamp| table.at_stamp(stamp)).collect();
        let of_sealed = |sealed: &Sealed| sealed.at_stamps(&self.index.files, &ends);
        let borders: Vec<Option<(u64, u64)>> = match ends.is_empty() {
            true => Vec::new(),
            false => self.index.ask(stretch.segment, of_table, of_sealed)?,
        };
        let piece = |(i, border): (usize, Option<(u64, u64)>)| {
            Some(Piece { upto: border?.0.min(until.0), stamp: (first + i as u64) * tally.length })
        };
        let mut pieces: Vec<Piece> = borders.into_iter().enumerate().filter_map(piece).collect();
        pieces.push(Piece { upto: stretch.last.0.min(until.0), stamp: last * tally.length });
        Ok(pieces)
    }

    /// Minutes of a compacted segment, as far as the time between the two instants holds them.
    fn tally_compacted(&self, stretch: &Stretch, since: Lsn, until: Lsn, tally: &mut Tally) -> Result<()> {
        let minute_of = |lsn: Lsn| self.instant_of(lsn).map(|instant| instant.stamp.0 / MINUTE);
        let from = if since.0 < stretch.first.0 { 0 } else { minute_of(since).unwrap_or(0) };
        let upto = if until.0 >= stretch.last.0 { u64::MAX } else { minute_of(until).unwrap_or(u64::MAX) };
        let files = &self.index.files;
        let mut rows: Vec<Activity> =
            self.index.ask(stretch.segment, |_| Vec::new(), |sealed| sealed.activity(files))?;
        rows.retain(|row| (from..=upto).contains(&row.minute));
        tally.rows(&[], &rows);
        let mark = |row: &Activity| tally.row(row.minute * MINUTE / tally.length * tally.length).incomplete = true;
        rows.iter().for_each(mark);
        Ok(())
    }

    fn tally(&self, stretch: &Stretch, since: Lsn, until: Lsn, pieces: &[Piece], tally: &mut Tally) -> Result<()> {
        let whole = stretch.first.0 > since.0 && stretch.last.0 <= until.0;
        let by_minute = whole && (pieces.len() == 1 || tally.length % MINUTE == 0);
        let files = &self.index.files;
        // Of a compacted segment the records that went are known by their minutes only.
        let compacted = self.index.ask(stretch.segment, |_| false, |s| Ok(s.item.compacted))?;
        if compacted || (by_minute && !tally.detailed) {
            let of_table = |table: &Memtable| table.activity().collect();
            let rows: Vec<Activity> = self.index.ask(stretch.segment, of_table, |sealed| sealed.activity(files))?;
            tally.rows(pieces, &rows);
            return Ok(());
        }
        let lsns = Path::between(since.0, until.0);
        let everywhere = (0, SECTORS_END);
        let of_table = |table: &Memtable| {
            let mut versions = Vec::new();
            table.collect(everywhere, &lsns, &mut versions);
            versions
        };
        let of_sealed = |sealed: &Sealed| {
            let mut versions = Vec::new();
            sealed.collect(files, everywhere, &lsns, &mut versions).map(|()| versions)
        };
        let mut versions: Vec<Version> = self.index.ask(stretch.segment, of_table, of_sealed)?;
        versions.sort_unstable_by_key(|v| (v.lsn, v.start));
        tally.versions(pieces, &versions);
        Ok(())
    }
}

#[derive(Default)]
struct Row {
    sums: Interval,
    /// Sectors that were written, where the overwrite share is computed.
    written: Vec<(u64, u64)>,
    /// Some of what was written is not known any more.
    incomplete: bool,
}

struct Tally {
    length: u64,
    rows: BTreeMap<u64, Row>,
    detailed: bool,
    borders: u64,
}

impl Tally {
    fn row(&mut self, stamp: u64) -> &mut Row {
        let begin = || Row { sums: Interval { stamp, ..Interval::default() }, ..Row::default() };
        self.rows.entry(stamp).or_insert_with(begin)
    }

    fn flushes(&mut self, pieces: &[Piece], flushes: &[u64]) {
        for &lsn in flushes {
            let Some(piece) = pieces.get(pieces.partition_point(|p| p.upto < lsn)) else { continue };
            let sums = &mut self.row(piece.stamp).sums;
            sums.flush_points += 1;
            sums.last_flush = sums.last_flush.max(Some(Lsn(lsn)));
        }
    }

    /// Adds minutes of a segment that lies in one interval, or where intervals are whole minutes.
    fn rows(&mut self, pieces: &[Piece], rows: &[Activity]) {
        for row in rows {
            let stamp = match pieces {
                [only] => only.stamp,
                _ => row.minute * MINUTE / self.length * self.length,
            };
            let sums = &mut self.row(stamp).sums;
            sums.data_records += row.data_records;
            sums.zero_records += row.zero_records;
            sums.raw_bytes += row.raw_bytes;
            sums.stored_bytes += row.stored_bytes;
        }
    }

    /// Adds versions, ascending by LSN.
    fn versions(&mut self, pieces: &[Piece], versions: &[Version]) {
        let detailed = self.detailed;
        let mut previous = None;
        for version in versions {
            let Some(piece) = pieces.get(pieces.partition_point(|p| p.upto < version.lsn)) else { continue };
            let record = u64::from(previous.replace(version.lsn) != Some(version.lsn));
            let row = self.row(piece.stamp);
            match version.place {
                Place::Data { stored, .. } => {
                    row.sums.data_records += record;
                    row.sums.raw_bytes += version.sectors * SECTOR;
                    row.sums.stored_bytes += u64::from(stored);
                    if detailed {
                        row.written.push((version.start, version.end()));
                    }
                }
                Place::Zero => row.sums.zero_records += record,
                Place::Damaged => {}
            }
        }
    }

    fn finish(self) -> Vec<Interval> {
        let detailed = self.detailed;
        let finished = self.rows.into_values().map(|row| Interval {
            distinct_bytes: (detailed && !row.incomplete).then(|| union(row.written) * SECTOR),
            ..row.sums
        });
        finished.filter(|it| it.data_records + it.zero_records + it.flush_points > 0).collect()
    }
}

/// Sectors that at least one of the ranges covers.
fn union(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort_unstable();
    let mut covered = 0;
    let mut reached = 0;
    for (start, end) in ranges {
        covered += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_counts_once() {
        assert_eq!(union(vec![]), 0);
        assert_eq!(union(vec![(8, 16), (0, 8), (4, 12), (4, 12), (20, 21)]), 17);
        assert_eq!(union(vec![(0, 100), (10, 20), (90, 110)]), 110);
    }
}
