//! Which segments to rewrite. Pure.

/// A segment that may be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: u32,
    /// Its place among all sealed segments: neighbours differ by one.
    pub place: usize,
    pub clock_epoch: u32,
    /// The timeline that wrote its records: the one id that a segment's header has.
    pub writer: [u8; 16],
    /// First and last LSN.
    pub span: (u64, u64),
    /// Of the file.
    pub bytes: u64,
    /// Bytes that the new file has for it.
    pub kept: u64,
    /// Another timeline has the file too: rewriting it frees nothing for the store.
    pub shared: bool,
}

/// Of any file: header, one batch, one index block, sections.
const FILE_BYTES: u64 = 20 << 10;
/// Less than this share dead is not worth the writes: 19 bytes for one.
const DEAD_SHARE_MIN: f64 = 0.05;
/// Without need.
const DEAD_SHARE_IDLE: f64 = 0.5;
/// In a file that another timeline has too: this one becomes smaller, the store larger.
const DEAD_SHARE_SHARED: f64 = 0.8;
/// Segments in one unit, and what rewriting one takes in memory: 16 bytes an entry.
const UNIT_SEGMENTS: usize = 8;
/// What a unit keeps, in segments: until it is done its output is there besides its inputs, and the reserve has to hold that.
const UNIT_KEPT: u64 = 1;
/// Cached leaves keep LSNs in 32 bits above the first of their segment.
const SPAN_MAX: u64 = u32::MAX as u64;

impl Candidate {
    /// Bytes that rewriting it would free.
    pub fn dead(&self) -> u64 {
        self.bytes.saturating_sub(self.kept + FILE_BYTES)
    }

    fn dead_share(&self) -> f64 {
        self.dead() as f64 / self.bytes.max(1) as f64
    }

    /// So small that it goes with a neighbour.
    fn is_small(&self, segment_bytes: u64) -> bool {
        self.bytes < segment_bytes / 8
    }
}

/// The need of who wants all candidates rewritten, whatever that gives.
pub const ALL: u64 = u64::MAX;

/// Groups of neighbours to be rewritten together, those with the most to give first. `candidates` ascend by LSN.
pub fn choose(candidates: &[Candidate], need: u64, segment_bytes: u64) -> Vec<Vec<u32>> {
    let floor = if need == 0 { DEAD_SHARE_IDLE } else { DEAD_SHARE_MIN };
    let worth = |c: &&Candidate| need == ALL || c.dead_share() >= if c.shared { DEAD_SHARE_SHARED } else { floor };
    let mut by_share: Vec<&Candidate> = candidates.iter().filter(worth).collect();
    by_share.sort_by(|a, b| b.dead_share().total_cmp(&a.dead_share()));
    let mut freed = 0;
    let enough = |c: &&&Candidate| {
        let go_on = need == 0 || freed < need;
        freed += c.dead();
        go_on
    };
    let chosen: Vec<u32> = by_share.iter().take_while(enough).map(|c| c.id).collect();
    group(candidates, &chosen, segment_bytes)
}

fn group(candidates: &[Candidate], chosen: &[u32], segment_bytes: u64) -> Vec<Vec<u32>> {
    let mut units: Vec<Vec<&Candidate>> = Vec::new();
    let with = |c: &&Candidate| chosen.contains(&c.id) || (c.is_small(segment_bytes) && !c.shared);
    for candidate in candidates.iter().filter(with) {
        match units.last_mut() {
            Some(unit) if goes_with(unit, candidate, segment_bytes) => unit.push(candidate),
            _ => units.push(vec![candidate]),
        }
    }
    // A small segment alone, or a few, gain nothing.
    let gains = |unit: &Vec<&Candidate>| unit.iter().any(|c| chosen.contains(&c.id)) || unit.len() >= UNIT_SEGMENTS;
    units.into_iter().filter(gains).map(|unit| unit.iter().map(|c| c.id).collect()).collect()
}

fn goes_with(unit: &[&Candidate], candidate: &Candidate, segment_bytes: u64) -> bool {
    let (first, last) = (unit[0], unit[unit.len() - 1]);
    last.place + 1 == candidate.place
        && (first.clock_epoch, first.writer) == (candidate.clock_epoch, candidate.writer)
        && candidate.span.1 - first.span.0 < SPAN_MAX
        && unit.len() < UNIT_SEGMENTS
        && unit.iter().map(|c| c.kept).sum::<u64>() + candidate.kept <= UNIT_KEPT * segment_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(place: usize, dead_percent: u64) -> Candidate {
        let bytes = 64 << 20;
        Candidate {
            id: place as u32 + 1,
            place,
            clock_epoch: 0,
            writer: [0; 16],
            span: (place as u64 * 100, place as u64 * 100 + 99),
            bytes,
            kept: bytes * (100 - dead_percent) / 100,
            shared: false,
        }
    }

    #[test]
    fn the_deadest_neighbours_go_together_until_the_need_is_met() {
        let all: Vec<Candidate> = [90, 80, 3, 70, 60, 10].iter().enumerate().map(|(i, &d)| candidate(i, d)).collect();
        assert_eq!(choose(&all, 100 << 20, 64 << 20), [vec![1, 2]]);
        assert_eq!(choose(&all, 1 << 40, 64 << 20), [vec![1, 2], vec![4, 5], vec![6]]);
        assert_eq!(choose(&all, 0, 64 << 20), [vec![1, 2], vec![4, 5]]);
        assert_eq!(choose(&all, ALL, 64 << 20).concat(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn clock_epochs_long_spans_and_shared_files_stay_apart() {
        let mut all: Vec<Candidate> = (0..4).map(|i| candidate(i, 70)).collect();
        all[1].clock_epoch = 1;
        all[2].clock_epoch = 1;
        all[2].span.1 = 1 << 33;
        all[3].clock_epoch = 1;
        all[3].shared = true;
        assert_eq!(choose(&all, 0, 64 << 20), [vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn what_two_timelines_wrote_stays_apart() {
        let mut all: Vec<Candidate> = (0..4).map(|i| candidate(i, 70)).collect();
        all[2].writer = [1; 16];
        all[3].writer = [1; 16];
        assert_eq!(choose(&all, 0, 64 << 20), [vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn small_neighbours_are_joined_once_they_are_many() {
        let small = |place| Candidate { bytes: 30 << 10, kept: 9 << 10, ..candidate(place, 0) };
        let few: Vec<Candidate> = (0..7).map(small).collect();
        assert!(choose(&few, 0, 64 << 20).is_empty());
        let many: Vec<Candidate> = (0..8).map(small).collect();
        assert_eq!(choose(&many, 0, 64 << 20).len(), 1);
    }
}
