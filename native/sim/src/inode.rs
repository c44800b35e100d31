//! One file: what the medium holds, and the page cache over it.
//!
//! Invariants: a page that no unsynced write touched is on the medium as the last successful sync left it; a power
//! cut changes bytes only in pages with unsynced writes; the length after a cut lies between the synced and the latest.

use cdp_engine::PAGE;

use crate::seed::Rng;

const PAGE_BYTES: usize = PAGE as usize;
const SECTOR_BYTES: usize = cdp_engine::SECTOR as usize;

#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    medium: Vec<u8>,
    cache: Vec<u8>,
    /// Unsynced writes in their order, cut at page borders.
    unsynced: Vec<Piece>,
}

/// A part of a write that lies in one page.
#[derive(Clone, Debug)]
struct Piece {
    at: usize,
    bytes: Vec<u8>,
}

impl Piece {
    fn page(&self) -> usize {
        self.at / PAGE_BYTES
    }
}

/// What a power cut does to the unsynced pieces of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wreck {
    AllKept,
    AllLost,
    /// The first pieces are kept, one is torn, the others are lost.
    Prefix,
    /// Each piece has a fate of its own; `kept` of a hundred survive whole.
    Scattered {
        kept: u64,
        reordered: bool,
    },
}

impl Wreck {
    pub(crate) fn draw(rng: &mut Rng) -> Wreck {
        match rng.below(8) {
            0 => Wreck::AllLost,
            1 => Wreck::AllKept,
            2 => Wreck::Prefix,
            3 => Wreck::Scattered { kept: 90, reordered: false },
            4 => Wreck::Scattered { kept: 20, reordered: false },
            5 => Wreck::Scattered { kept: 97, reordered: true },
            _ => Wreck::Scattered { kept: 50, reordered: true },
        }
    }
}

impl Inode {
    pub(crate) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(crate) fn read(&self, buffer: &mut [u8], offset: usize) -> usize {
        let start = offset.min(self.cache.len());
        let end = offset.saturating_add(buffer.len()).min(self.cache.len());
        buffer[..end - start].copy_from_slice(&self.cache[start..end]);
        end - start
    }

    pub(crate) fn write(&mut self, bytes: &[u8], offset: usize) {
        put(&mut self.cache, offset, bytes);
        let mut at = offset;
        while at < offset + bytes.len() {
            let end = ((at / PAGE_BYTES + 1) * PAGE_BYTES).min(offset + bytes.len());
            self.unsynced.push(Piece { at, bytes: bytes[at - offset..end - offset].to_vec() });
            at = end;
        }
    }

    pub(crate) fn sync(&mut self) {
        self.medium.resize(self.cache.len(), 0);
        for piece in std::mem::take(&mut self.unsynced) {
            self.write_back(piece.page());
        }
    }

    /// A sync that failed: some pages reached the medium, the others never will. `hidden`: the cache goes on showing
    /// them as if they were clean, else it shows the medium.
    pub(crate) fn sync_fails(&mut self, rng: &mut Rng, hidden: bool) {
        let mut pages: Vec<usize> = self.unsynced.drain(..).map(|p| p.page()).collect();
        pages.dedup();
        for page in pages {
            if rng.chance(30) {
                self.write_back(page);
            }
        }
        if !hidden {
            self.drop_cache();
        }
    }

    /// Makes reads of clean pages show what the medium has.
    pub(crate) fn drop_cache(&mut self) {
        let dirty: std::collections::BTreeSet<usize> = self.unsynced.iter().map(Piece::page).collect();
        for (page, cached) in self.cache.chunks_mut(PAGE_BYTES).enumerate() {
            if dirty.contains(&page) {
                continue;
            }
            let start = (page * PAGE_BYTES).min(self.medium.len());
            let end = (start + cached.len()).min(self.medium.len());
            cached[..end - start].copy_from_slice(&self.medium[start..end]);
            cached[end - start..].fill(0);
        }
    }

    /// What is left after the power went.
    pub(crate) fn survive(mut self, wreck: Wreck, rng: &mut Rng) -> Inode {
        let mut pieces = std::mem::take(&mut self.unsynced);
        let longest = self.cache.len();
        let mut left = self.medium;
        let synced = left.len();
        match wreck {
            Wreck::AllLost => {}
            Wreck::AllKept => {
                pieces.iter().for_each(|p| put(&mut left, p.at, &p.bytes));
                left.resize(longest, 0);
            }
            Wreck::Prefix => {
                let kept = rng.below(pieces.len() as u64 + 1) as usize;
                pieces[..kept].iter().for_each(|p| put(&mut left, p.at, &p.bytes));
                if let Some(torn) = pieces.get(kept) {
                    tear(&mut left, torn, rng);
                }
            }
            Wreck::Scattered { kept, reordered } => {
                if reordered {
                    rng.shuffle(&mut pieces);
                }
                for piece in &pieces {
                    scatter(&mut left, piece, kept, longest, rng);
                }
            }
        }
        if !matches!(wreck, Wreck::AllKept | Wreck::AllLost) {
            left.resize(surviving_len(left.len(), synced, longest, rng), 0);
        }
        Inode { cache: left.clone(), medium: left, unsynced: Vec::new() }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.unsynced.is_empty() && self.medium == self.cache
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.cache
    }

    /// Changes the stored bytes behind everybody's back.
    pub(crate) fn rot(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.cache);
        self.medium = self.cache.clone();
        self.unsynced.clear();
    }

    fn write_back(&mut self, page: usize) {
        let start = page * PAGE_BYTES;
        let end = (start + PAGE_BYTES).min(self.cache.len());
        put(&mut self.medium, start, &self.cache[start..end]);
    }
}

/// One piece, by itself: kept, lost, torn, or its whole page left as garbage.
fn scatter(left: &mut Vec<u8>, piece: &Piece, kept: u64, longest: usize, rng: &mut Rng) {
    if rng.chance(kept) {
        return put(left, piece.at, &piece.bytes);
    }
    match rng.below(4) {
        0 => tear(left, piece, rng),
        1 => garble(left, piece.page(), longest, rng),
        _ => {}
    }
}

/// Leaves a prefix or a suffix, at the grain of sectors or of bytes.
fn tear(left: &mut Vec<u8>, piece: &Piece, rng: &mut Rng) {
    let mut cut = rng.below(piece.bytes.len() as u64 + 1) as usize;
    if rng.chance(50) {
        let sector = (piece.at + cut) / SECTOR_BYTES * SECTOR_BYTES;
        cut = sector.saturating_sub(piece.at);
    }
    if rng.chance(70) {
        put(left, piece.at, &piece.bytes[..cut]);
    } else {
        put(left, piece.at + cut, &piece.bytes[cut..]);
    }
}

/// Random bytes, or zeros, in a part or the whole of a page in flight: also in its bytes of earlier syncs.
fn garble(left: &mut Vec<u8>, page: usize, longest: usize, rng: &mut Rng) {
    let start = page * PAGE_BYTES;
    let end = (start + PAGE_BYTES).min(longest);
    let mut garbage = vec![0; end - start];
    if rng.chance(70) {
        rng.fill(&mut garbage);
    }
    if rng.chance(50) {
        return put(left, start, &garbage);
    }
    let from = rng.below(garbage.len() as u64) as usize;
    let to = rng.between(from as u64, garbage.len() as u64) as usize;
    put(left, start + from, &garbage[from..to]);
}

/// Between the synced and the latest length; short of what was kept, too: length and bytes travel apart.
fn surviving_len(kept: usize, synced: usize, longest: usize, rng: &mut Rng) -> usize {
    match rng.below(6) {
        0 => longest,
        1 => rng.between(synced as u64, longest as u64) as usize,
        2 => (kept.max(synced).div_ceil(PAGE_BYTES) * PAGE_BYTES).min(longest),
        _ => kept.max(synced),
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if new.is_empty() {
        return;
    }
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(len: usize) -> Inode {
        let mut file = Inode::default();
        file.write(&vec![b's'; len], 0);
        file.sync();
        file
    }

    fn after_cuts(file: &Inode, wrecks: impl Fn(&mut Rng) -> Wreck) -> Vec<Vec<u8>> {
        (0..400)
            .map(|seed| {
                let rng = &mut Rng::new(seed);
                let wreck = wrecks(rng);
                file.clone().survive(wreck, rng).cache
            })
            .collect()
    }

    #[test]
    fn synced_bytes_and_untouched_pages_survive_every_cut() {
        let mut file = synced(3 * PAGE_BYTES);
        file.write(&[b'n'; 100], PAGE_BYTES + 50);
        for left in after_cuts(&file, Wreck::draw) {
            assert_eq!(left.len(), 3 * PAGE_BYTES);
            assert!(left[..PAGE_BYTES].iter().all(|&b| b == b's'));
            assert!(left[2 * PAGE_BYTES..].iter().all(|&b| b == b's'));
        }
    }

    #[test]
    fn an_unsynced_write_is_lost_kept_torn_and_garbled() {
        let mut file = synced(PAGE_BYTES);
        file.write(&[b'n'; 2048], 512);
        let all = after_cuts(&file, |_| Wreck::Scattered { kept: 25, reordered: false });
        let new = |left: &[u8]| left.iter().filter(|&&b| b == b'n').count();
        let old = |left: &[u8]| left.iter().filter(|&&b| b == b's').count();
        assert!(all.iter().any(|l| new(l) == 2048), "kept");
        assert!(all.iter().any(|l| new(l) == 0 && old(l) == PAGE_BYTES), "lost");
        let torn = |l: &&Vec<u8>| (1..2048).contains(&new(l)) && new(l) + old(l) == PAGE_BYTES;
        assert!(all.iter().filter(torn).any(|l| new(l) % 512 == 0), "torn at a sector");
        assert!(all.iter().filter(torn).any(|l| new(l) % 512 != 0), "torn at a byte");
        assert!(all.iter().filter(torn).any(|l| l[512] == b'n' && l[2559] == b's'), "a prefix");
        assert!(all.iter().filter(torn).any(|l| l[512] == b's' && l[2559] == b'n'), "a suffix");
        assert!(all.iter().any(|l| l[0] != b's' && l[4000] != b's'), "the page garbled beyond the write");
    }

    #[test]
    fn a_later_write_may_survive_an_earlier_one() {
        let mut file = synced(4 * PAGE_BYTES);
        file.write(&[b'1'; 8], 0);
        file.write(&[b'2'; 8], 2 * PAGE_BYTES);
        file.write(&[b'3'; 8], 4);
        let all = after_cuts(&file, |_| Wreck::Scattered { kept: 50, reordered: true });
        assert!(all.iter().any(|l| l[0] == b's' && l[2 * PAGE_BYTES] == b'2'));
        assert!(all.iter().any(|l| &l[..12] == b"111111113333"), "the older bytes on top");
        let prefixes = after_cuts(&file, |_| Wreck::Prefix);
        assert!(!prefixes.iter().any(|l| l[0] == b's' && l[2 * PAGE_BYTES] == b'2'));
    }

    #[test]
    fn the_length_lies_between_the_synced_and_the_latest() {
        let mut file = synced(1000);
        file.write(&[b'n'; 9000], 1000);
        let lens: Vec<usize> = after_cuts(&file, Wreck::draw).iter().map(Vec::len).collect();
        assert!(lens.iter().all(|len| (1000..=10_000).contains(len)));
        assert!(lens.contains(&1000) && lens.contains(&10_000));
        assert!(lens.iter().any(|len| len % 512 != 0 && *len != 1000 && *len != 10_000));
        let grown = after_cuts(&file, |_| Wreck::Scattered { kept: 0, reordered: false });
        assert!(grown.iter().any(|l| l.len() > 5096 && l[5096..].iter().all(|&b| b == 0)), "length without bytes");
    }

    #[test]
    fn after_a_failed_sync_the_cache_may_hide_the_loss() {
        let mut file = synced(2 * PAGE_BYTES);
        file.write(&[b'n'; 8], 0);
        let mut hiding = (0..50).map(|seed| {
            let mut file = file.clone();
            file.sync_fails(&mut Rng::new(seed), true);
            file
        });
        let mut lost = hiding.find(|f| f.medium[0] == b's').expect("a seed that loses the page");
        assert_eq!(&lost.cache[..8], b"nnnnnnnn");
        lost.sync();
        assert_eq!(lost.medium[0], b's', "a later sync does not write a page that counts as clean");
        assert_eq!(&lost.clone().survive(Wreck::AllKept, &mut Rng::new(1)).cache[..2], b"ss");
        lost.drop_cache();
        assert_eq!(&lost.cache[..8], b"ssssssss");

        file.sync_fails(&mut Rng::new(1), false);
        assert_eq!(file.cache, file.medium);
    }

    #[test]
    fn dropping_the_cache_keeps_what_is_not_written_back() {
        let mut file = synced(PAGE_BYTES);
        file.write(&[b'n'; 8], 0);
        file.drop_cache();
        assert_eq!(file.cache[0], b'n');
        assert!(!file.is_clean());
        file.sync();
        assert!(file.is_clean());
    }
}
