//! What is left of an entry of which instants see a part only: its pieces, and whether cutting it is worth it. Pure.

use crate::index::reachable::Mask;
use crate::index::Version;
use crate::units::SECTOR;

/// Bytes that a kept entry takes beside its payload: directory and footer.
pub const ENTRY_BYTES: u64 = 46;
/// An entry is cut only where that saves this part of it.
const SAVED_PART: u64 = 8;

/// Bytes that an entry takes in the new file, cut if `Some` of its sectors are to be left out.
pub fn kept(version: &Version, mask: Mask) -> (u64, Option<Mask>) {
    let whole = ENTRY_BYTES + version.stored_bytes();
    if !version.is_data() || mask.count_ones() as u64 >= version.sectors {
        return (whole, None);
    }
    let cut: u64 = pieces(mask).map(|(from, to)| piece_bytes(version, (to - from) as u64)).sum();
    if cut + whole / SAVED_PART <= whole {
        (cut, Some(mask))
    } else {
        (whole, None)
    }
}

/// A piece shrinks less than the whole did: half again, but never more than its bytes as they are.
fn piece_bytes(version: &Version, sectors: u64) -> u64 {
    let share = version.stored_bytes() * sectors / version.sectors;
    ENTRY_BYTES + (share + share / 2).min(sectors * SECTOR)
}

/// The runs of sectors in a mask, counted from the entry's first: (from, to).
pub fn pieces(mask: Mask) -> impl Iterator<Item = (u32, u32)> {
    let mut left = mask;
    let mut at = 0;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let from = at + left.trailing_zeros();
        let run = (mask >> from).trailing_ones();
        at = from + run;
        left = mask.checked_shr(at).unwrap_or(0);
        Some((from, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Place;

    #[test]
    fn pieces_are_the_runs_of_a_mask() {
        let of = |mask| pieces(mask).collect::<Vec<_>>();
        assert_eq!(of(0), []);
        assert_eq!(of(0b1011_0001), [(0, 1), (4, 6), (7, 8)]);
        assert_eq!(of(Mask::MAX), [(0, 128)]);
        assert_eq!(of(Mask::MAX << 120 | 1), [(0, 1), (120, 128)]);
    }

    #[test]
    fn an_entry_is_cut_where_that_saves_an_eighth() {
        let place = |stored| Place::Data { segment: 1, offset: 0, stored, skip: 0, record_sectors: 128 };
        let version = |stored| Version { start: 0, sectors: 128, lsn: 1, place: place(stored) };
        let raw = version(65540);
        assert_eq!(kept(&raw, Mask::MAX), (65586, None));
        assert_eq!(kept(&raw, Mask::MAX >> 8), (65586, None));
        assert_eq!(kept(&raw, 0xff << 8 | 0xff << 32), (2 * (46 + 4096), Some(0xff << 8 | 0xff << 32)));
        // What shrank to a tenth is not cut for a half of it: the pieces may take as much as the whole.
        let shrunk = version(6553);
        let every_other = (0..8).fold(0, |mask, i| mask | 0xff << (16 * i));
        assert_eq!(kept(&shrunk, every_other).1, Some(every_other));
        let every_fourth_gone = (0..4).fold(0, |mask, i| mask | 0xff_ffff << (32 * i));
        assert_eq!(kept(&shrunk, every_fourth_gone).1, None);
        let zeros = Version { place: Place::Zero, ..raw };
        assert_eq!(kept(&zeros, 1), (46, None));
    }
}
