//! The extent map of 4 MiB of address space at one instant, packed into 20 bytes an extent.
//!
//! Invariants: extents are sorted, do not overlap and stay inside the leaf; neighbouring zero extents are one. What no
//! extent covers was never written: the origin's, or zeros.

use std::collections::{HashMap, HashSet};

use super::{Place, Version, LEAF_SECTORS, LOCATE};

const ZERO: u32 = 0;
const DAMAGED: u32 = u32::MAX;
/// Of a cell that no version covers.
const NOBODY: u32 = u32::MAX;
/// Versions from which on cells are cheaper than inserting: scanning them costs a few microseconds.
const CELLS_WORTH: usize = 48;

/// For data: where its payload is. For zeros nothing but the range counts. For damage the LSN is in `lsn_low`, `lsn_high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    start: u16,
    sectors: u16,
    /// A segment id, ZERO or DAMAGED.
    segment: u32,
    /// LSN, above that of the segment's first record for data.
    lsn_low: u32,
    /// Offset of the payload, or the high half of the LSN.
    offset: u32,
    /// Stored bytes (17 bits), sectors skipped (7), sectors of the record's entry less one (7).
    shape: u32,
}

const _: () = assert!(std::mem::size_of::<Packed>() == 20);

impl Packed {
    /// The sectors `start..end` of a version, which lie in the leaf that begins at `base`.
    fn of(version: &Version, base: u64, (start, end): (u64, u64), segment_lsn: u64) -> Packed {
        let skipped = start - version.start;
        let (first, sectors) = ((start - base) as u16, (end - start) as u16);
        match version.place {
            Place::Data { segment, offset, stored, skip, record_sectors } => Packed {
                start: first,
                sectors,
                segment,
                lsn_low: (version.lsn - segment_lsn) as u32,
                offset,
                shape: stored | (u32::from(skip) + skipped as u32) << 17 | (u32::from(record_sectors) - 1) << 24,
            },
            Place::Zero => Packed { start: first, sectors, segment: ZERO, lsn_low: 0, offset: 0, shape: 0 },
            Place::Damaged => Packed {
                start: first,
                sectors,
                segment: DAMAGED,
                lsn_low: version.lsn as u32,
                offset: (version.lsn >> 32) as u32,
                shape: 0,
            },
        }
    }

    fn end(&self) -> u32 {
        u32::from(self.start) + u32::from(self.sectors)
    }

    fn is_zero(&self) -> bool {
        self.segment == ZERO
    }

    fn is_data(&self) -> bool {
        self.segment != ZERO && self.segment != DAMAGED
    }

    /// The part of the extent inside `start..end`.
    fn slice(&self, start: u32, end: u32) -> Packed {
        let skipped = start - u32::from(self.start);
        let mut part = Packed { start: start as u16, sectors: (end - start) as u16, ..*self };
        if self.is_data() {
            part.shape += skipped << 17;
        }
        part
    }
}

/// Some sectors of a leaf, unpacked: absolute, with the LSN that wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub start: u64,
    pub sectors: u64,
    /// 0 for zeros, which may be merged from several records.
    pub lsn: u64,
    pub place: Place,
}

#[derive(Clone, Debug, Default)]
pub struct Leaf {
    extents: Vec<Packed>,
    /// The replacements of segments that it knows of.
    pub checked: u64,
}

impl Leaf {
    /// Bytes of memory that the leaf takes, its entry in the cache included.
    pub fn bytes(&self) -> usize {
        self.extents.capacity() * std::mem::size_of::<Packed>() + 128
    }

    pub fn len(&self) -> usize {
        self.extents.len()
    }

    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Gives back what growing took too much.
    pub fn shrink(&mut self) {
        self.extents.shrink_to_fit();
    }

    /// Lays a version over what the leaf `leaf` (its number) has; `segment_lsn` is the first LSN of its segment.
    pub fn overlay(&mut self, leaf: u64, version: &Version, segment_lsn: u64) {
        let base = leaf * LEAF_SECTORS;
        let start = version.start.max(base);
        let end = version.end().min(base + LEAF_SECTORS);
        if start >= end {
            return;
        }
        self.insert(Packed::of(version, base, (start, end), segment_lsn));
    }

    /// What overlaying the versions, ascending by LSN, would make of an empty leaf: one cell a sector, so that many versions cost little each.
    pub fn paint(leaf: u64, versions: &[Version], segment_lsn: impl Fn(&Version) -> u64) -> Leaf {
        let base = leaf * LEAF_SECTORS;
        let mut painted = Leaf::default();
        if versions.len() < CELLS_WORTH {
            versions.iter().for_each(|version| painted.overlay(leaf, version, segment_lsn(version)));
            return painted;
        }
        let mut cells = vec![NOBODY; LEAF_SECTORS as usize];
        for (i, version) in versions.iter().enumerate() {
            let (start, end) = (version.start.max(base), version.end().min(base + LEAF_SECTORS));
            if start < end {
                cells[(start - base) as usize..(end - base) as usize].fill(i as u32);
            }
        }
        let mut at = 0;
        for run in cells.chunk_by(|a, b| a == b) {
            let start = base + at;
            at += run.len() as u64;
            if run[0] != NOBODY {
                let version = &versions[run[0] as usize];
                painted.append(Packed::of(version, base, (start, base + at), segment_lsn(version)));
            }
        }
        painted
    }

    /// Adds an extent behind all others.
    fn append(&mut self, new: Packed) {
        match self.extents.last_mut() {
            Some(last) if last.is_zero() && new.is_zero() && last.end() == u32::from(new.start) => {
                last.sectors += new.sectors;
            }
            _ => self.extents.push(new),
        }
    }

    /// True if a payload of it lies in such a segment.
    pub fn names_any(&self, segment: impl Fn(u32) -> bool) -> bool {
        self.extents.iter().any(|e| e.is_data() && segment(e.segment))
    }

    /// LSNs of what has no place: hints, and what lies in `stale` segments.
    pub fn unsettled(&self, segment_lsn: impl Fn(u32) -> u64, stale: impl Fn(u32) -> bool) -> HashSet<u64> {
        let open = |e: &&Packed| e.is_data() && (e.offset == LOCATE || stale(e.segment));
        self.extents.iter().filter(open).map(|e| segment_lsn(e.segment) + u64::from(e.lsn_low)).collect()
    }

    /// Gives places to what `unsettled` names: of the entries that there are now of an LSN, the one that has all sectors of the extent.
    pub fn settle(
        &mut self,
        leaf: u64,
        segment_lsn: impl Fn(u32) -> u64,
        stale: impl Fn(u32) -> bool,
        moved: &HashMap<u64, Vec<Version>>,
    ) {
        let base = leaf * LEAF_SECTORS;
        for extent in self.extents.iter_mut().filter(|e| e.is_data() && (e.offset == LOCATE || stale(e.segment))) {
            let lsn = segment_lsn(extent.segment) + u64::from(extent.lsn_low);
            let Some(entries) = moved.get(&lsn) else { continue };
            let (start, end) = (base + u64::from(extent.start), base + u64::from(extent.end()));
            let found = entries.iter().find(|v| v.start <= start && end <= v.end());
            let lost = Version { start, sectors: end - start, lsn, place: Place::Damaged };
            let version = found.unwrap_or(&lost);
            let segment_lsn = if let Place::Data { segment, .. } = version.place { segment_lsn(segment) } else { 0 };
            *extent = Packed::of(version, base, (start, end), segment_lsn);
        }
    }

    fn insert(&mut self, new: Packed) {
        let (start, end) = (u32::from(new.start), new.end());
        let mut low = self.first_behind(start);
        let mut high = low + self.extents[low..].iter().take_while(|e| u32::from(e.start) < end).count();
        if high == low + 1
            && self.extents[low].start == new.start
            && self.extents[low].sectors == new.sectors
            && !new.is_zero()
        {
            self.extents[low] = new;
            return;
        }
        let mut pieces = [new; 3];
        let mut count = 0;
        let mut push = |piece: Packed| {
            pieces[count] = piece;
            count += 1;
        };
        if low < high && u32::from(self.extents[low].start) < start {
            let left = self.extents[low];
            push(left.slice(u32::from(left.start), start));
        }
        push(new);
        if low < high && self.extents[high - 1].end() > end {
            let right = self.extents[high - 1];
            push(right.slice(end, right.end()));
        }
        let mut merged = [new; 3];
        let mut kept = 0;
        if new.is_zero() {
            // Take zero neighbours in, so that they merge too.
            let left_touches =
                low > 0 && self.extents[low - 1].is_zero() && self.extents[low - 1].end() == u32::from(pieces[0].start);
            let right_touches = high < self.extents.len()
                && self.extents[high].is_zero()
                && u32::from(self.extents[high].start) == pieces[count - 1].end();
            if left_touches && pieces[0].is_zero() {
                low -= 1;
                pieces[0].sectors += self.extents[low].sectors;
                pieces[0].start = self.extents[low].start;
            }
            if right_touches && pieces[count - 1].is_zero() {
                pieces[count - 1].sectors += self.extents[high].sectors;
                high += 1;
            }
        }
        for &piece in &pieces[..count] {
            if kept > 0 && piece.is_zero() && merged[kept - 1].is_zero() {
                merged[kept - 1].sectors += piece.sectors;
            } else {
                merged[kept] = piece;
                kept += 1;
            }
        }
        self.reserve(kept.saturating_sub(high - low));
        self.extents.splice(low..high, merged[..kept].iter().copied());
    }

    /// The first extent that ends behind a sector. It is looked for from where it would be if all had one length: of 1024 extents of 4 KiB, each of the ten steps of a
    /// binary search is likely to be a miss of the processor's caches.
    fn first_behind(&self, sector: u32) -> usize {
        let count = self.extents.len();
        let ended = |i: usize| self.extents[i].end() <= sector;
        let guess = sector as usize * count / LEAF_SECTORS as usize;
        let (mut low, mut high, mut step) = (0, count, 1);
        if guess < count && ended(guess) {
            low = guess + 1;
            while low + step <= count && ended(low + step - 1) {
                (low, step) = (low + step, step * 2);
            }
            high = count.min(low + step - 1);
        } else {
            high = high.min(guess);
            while step <= high && !ended(high - step) {
                (high, step) = (high - step, step * 2);
            }
            low = high.saturating_sub(step - 1).max(low);
        }
        low + self.extents[low..high].partition_point(|e| e.end() <= sector)
    }

    /// Grows by an eighth: the bound of the cache is in bytes of RSS, and doubling would waste half of it.
    fn reserve(&mut self, more: usize) {
        if self.extents.capacity() - self.extents.len() < more {
            self.extents.reserve_exact(more.max(self.extents.len() / 8 + 2));
        }
    }

    /// The extents that overlap `start..end` (absolute, inside leaf `leaf`), cut to it, ascending; what lies between them was never written. `segment_lsn` gives the first LSN of a segment.
    pub fn mapped(&self, leaf: u64, start: u64, end: u64, segment_lsn: impl Fn(u32) -> u64, out: &mut Vec<Mapped>) {
        let base = leaf * LEAF_SECTORS;
        let (from, to) = ((start - base) as u32, (end - base) as u32);
        let first = self.first_behind(from);
        for extent in self.extents[first..].iter().take_while(|e| u32::from(e.start) < to) {
            let part = extent.slice(from.max(u32::from(extent.start)), to.min(extent.end()));
            let (lsn, place) = match part.segment {
                ZERO => (0, Place::Zero),
                DAMAGED => (u64::from(part.lsn_low) | u64::from(part.offset) << 32, Place::Damaged),
                segment => (
                    segment_lsn(segment) + u64::from(part.lsn_low),
                    Place::Data {
                        segment,
                        offset: part.offset,
                        stored: part.shape & 0x1ffff,
                        skip: (part.shape >> 17 & 0x7f) as u8,
                        record_sectors: (part.shape >> 24) as u8 + 1,
                    },
                ),
            };
            out.push(Mapped { start: base + u64::from(part.start), sectors: u64::from(part.sectors), lsn, place });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: &mut u64, below: u64) -> u64 {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 33) % below
    }

    /// The leaf against one cell a sector: (lsn, sector within the record), zero or nothing.
    #[test]
    fn a_leaf_equals_a_plain_list_of_sectors() {
        for seed in 1..60 {
            let mut random_seed = seed;
            let leaf_number = random(&mut random_seed, 5);
            let base = leaf_number * LEAF_SECTORS;
            let mut leaf = Leaf::default();
            let mut all = Vec::new();
            let mut cells: Vec<Option<(u64, Place)>> = vec![None; LEAF_SECTORS as usize];
            for lsn in 1..300u64 {
                let sectors = 1 + random(&mut random_seed, 128);
                let start =
                    (base + random(&mut random_seed, LEAF_SECTORS)).saturating_sub(random(&mut random_seed, 200));
                let place = match random(&mut random_seed, 5) {
                    0 | 1 => Place::Zero,
                    2 => Place::Damaged,
                    _ => Place::Data {
                        segment: 3,
                        offset: lsn as u32 * 64,
                        stored: 5 + lsn as u32,
                        skip: 0,
                        record_sectors: sectors as u8,
                    },
                };
                let version = Version { start, sectors, lsn, place };
                leaf.overlay(leaf_number, &version, 0);
                for sector in version.start.max(base)..version.end().min(base + LEAF_SECTORS) {
                    let place = match place {
                        Place::Data { segment, offset, stored, record_sectors, .. } => {
                            Place::Data { segment, offset, stored, skip: (sector - start) as u8, record_sectors }
                        }
                        other => other,
                    };
                    cells[(sector - base) as usize] = Some((if place == Place::Zero { 0 } else { lsn }, place));
                }
                check(&leaf, leaf_number, &cells);
                all.push(version);
                if lsn % 20 == 0 {
                    check(&Leaf::paint(leaf_number, &all, |_| 0), leaf_number, &cells);
                }
            }
        }
    }

    fn check(leaf: &Leaf, number: u64, cells: &[Option<(u64, Place)>]) {
        let base = number * LEAF_SECTORS;
        let mut mapped = Vec::new();
        leaf.mapped(number, base, base + LEAF_SECTORS, |_| 0, &mut mapped);
        let mut seen = vec![None; cells.len()];
        for window in mapped.windows(2) {
            let (a, b) = (window[0], window[1]);
            assert!(a.start + a.sectors <= b.start);
            let touching = a.start + a.sectors == b.start;
            assert!(!(touching && a.place == Place::Zero && b.place == Place::Zero), "zeros not merged");
        }
        for m in mapped {
            for i in 0..m.sectors {
                let place = match m.place {
                    Place::Data { segment, offset, stored, skip, record_sectors } => {
                        Place::Data { segment, offset, stored, skip: skip + i as u8, record_sectors }
                    }
                    other => other,
                };
                seen[(m.start - base + i) as usize] = Some((m.lsn, place));
            }
        }
        assert!(seen == cells);
    }
}
