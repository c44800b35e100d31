//! What the volume must hold: every request by its LSN, what was replied to, what was flushed.
//!
//! Invariants: LSNs ascend and are never handed out twice; `flushed` is at most the largest LSN replied to.
//! A request whose reply was an error may have happened or not; the first look decides, and every later one must agree,
//! until a crash: what nothing flushed over may then be decided anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const SECTOR: usize = cdp_engine::SECTOR as usize;

/// What one request does to the bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    Zero {
        offset: usize,
        bytes: usize,
    },
    /// A control record: no byte changes.
    Control,
    /// Back to the state at an LSN.
    Rollback {
        to: u64,
    },
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Admitted, no reply yet.
    Pending,
    /// No reply yet, and seen to have left nothing: the reply has to be an error.
    Lost,
    /// Replied to.
    Done,
    /// Failed, or cut off: both outcomes are right until one was seen.
    Open,
    /// Failed, and seen to have left nothing.
    Never,
}

#[derive(Clone, Debug)]
struct Record {
    lsn: u64,
    change: Change,
    fate: Fate,
}

/// The model of one volume.
#[derive(Clone)]
pub struct Oracle {
    origin: Vec<u8>,
    records: Vec<Record>,
    /// The largest LSN that anybody may have seen.
    seen: u64,
    /// The largest LSN that was admitted.
    admitted: u64,
    /// A request was replied to since the volume was opened: from then on views may show what was admitted.
    running: bool,
    replied: u64,
    flushed: u64,
    reach: Reach,
    /// What is being given up: the old or the new reach is right, and nothing between.
    next: Option<Reach>,
}

/// Rollbacks, as (LSN, LSN gone back to).
pub type Branches = Vec<(u64, u64)>;

/// Which instants there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reach {
    horizon: u64,
    points: BTreeSet<u64>,
}

impl Reach {
    fn holds(&self, lsn: u64) -> bool {
        lsn >= self.horizon || self.points.contains(&lsn)
    }
}

impl Oracle {
    /// `origin`: the state before the first record.
    pub fn new(origin: Vec<u8>) -> Oracle {
        Oracle {
            origin,
            records: Vec::new(),
            seen: 0,
            admitted: 0,
            running: false,
            replied: 0,
            flushed: 0,
            reach: Reach::default(),
            next: None,
        }
    }

    /// The model of a clone of the instant `base`, whose state is settled: that is its only instant.
    pub fn branch(&self, base: u64) -> Oracle {
        let mut branch = Oracle::new(self.state_at(base));
        if base > 0 {
            branch.records.push(Record { lsn: base, change: Change::Nothing, fate: Fate::Done });
        }
        branch.reach.horizon = base;
        (branch.seen, branch.admitted, branch.replied, branch.flushed) = (base, base, base, base);
        branch
    }

    pub fn size(&self) -> usize {
        self.origin.len()
    }

    /// A request got its LSN.
    pub fn admitted(&mut self, lsn: u64, change: Change) {
        assert!(lsn > self.admitted, "LSN {lsn} was handed out, and {} before it", self.admitted);
        self.admitted = lsn;
        if self.running {
            self.seen = lsn;
        }
        self.records.push(Record { lsn, change, fate: Fate::Pending });
    }

    pub fn replied(&mut self, lsn: u64) {
        let record = self.record(lsn);
        assert_ne!(record.fate, Fate::Lost, "LSN {lsn} was replied to, and it was seen that there is no such record");
        record.fate = Fate::Done;
        self.replied = self.replied.max(lsn);
        self.running = true;
        self.seen = self.admitted;
    }

    pub fn failed(&mut self, lsn: u64) {
        self.record(lsn).fate = Fate::Open;
    }

    /// A flush that began when `lsn` was the largest LSN replied to has succeeded.
    pub fn flushed(&mut self, lsn: u64) {
        self.flushed = self.flushed.max(lsn);
    }

    pub fn last_replied(&self) -> u64 {
        self.replied
    }

    pub fn last_flushed(&self) -> u64 {
        self.flushed
    }

    /// Every LSN that a record has, ascending.
    pub fn lsns(&self) -> Vec<u64> {
        self.records.iter().map(|r| r.lsn).collect()
    }

    /// Every LSN up to `upto` whose state can be asked for, ascending: there is one at least.
    pub fn instants(&self, upto: u64) -> Vec<u64> {
        let done = self.records.iter().filter(|r| r.fate == Fate::Done && r.lsn <= upto).map(|r| r.lsn);
        let mut lsns: Vec<u64> = std::iter::once(0).chain(done).filter(|&lsn| self.reach.holds(lsn)).collect();
        if !lsns.contains(&self.reach.horizon) {
            lsns.insert(lsns.partition_point(|&lsn| lsn < self.reach.horizon), self.reach.horizon);
        }
        lsns
    }

    pub fn horizon(&self) -> u64 {
        self.reach.horizon
    }

    /// A call that gives history up has begun.
    pub fn giving_up(&mut self, horizon: u64, points: &[u64]) {
        self.next = Some(Reach { horizon, points: points.iter().copied().collect() });
    }

    /// What the volume says can be reached: the horizon, then the points. It decides, once.
    pub fn gave_up(&mut self, reach: &[u64]) {
        let now = Reach { horizon: reach[0], points: reach[1..].iter().copied().collect() };
        let next = self.next.take();
        assert!(now == self.reach || Some(&now) == next.as_ref(), "{now:?} is neither {:?} nor {next:?}", self.reach);
        self.reach = now;
    }

    /// A clean stop: what was replied to is kept; numbers that nobody can have seen may be given again, also to records of the engine's own. Who had
    /// one of them has failed, and left nothing.
    pub fn stopped(&mut self) {
        self.running = false;
        self.records.retain(|r| r.lsn <= self.seen);
        self.admitted = self.seen;
    }

    /// True if no outcome up to `lsn` is open.
    pub fn is_settled(&self, lsn: u64) -> bool {
        self.records.iter().all(|r| r.lsn > lsn || matches!(r.fate, Fate::Done | Fate::Never))
    }

    /// The process died: requests without a reply may have happened or not, and their numbers may be given again if nobody can
    /// have seen them.
    pub fn crashed(&mut self) {
        self.running = false;
        for record in &mut self.records {
            // What a refused request left on its way counts as long as no flush went over it.
            let comes_back = record.fate == Fate::Never && record.lsn > self.flushed;
            if matches!(record.fate, Fate::Pending | Fate::Lost) || comes_back {
                record.fate = Fate::Open;
            }
        }
    }

    /// After recovery `head` is the last record: what lies above is gone for good. `floor`: what had to survive.
    pub fn recovered(&mut self, head: u64, floor: u64) {
        assert!(head >= floor, "the journal ends at LSN {head}, but {floor} was promised to be kept");
        let known = self.records.last().map_or(0, |r| r.lsn);
        assert!(head <= known, "the journal ends at LSN {head}, but {known} is the last that was asked for");
        self.records.retain(|r| r.lsn <= head);
        self.replied = self.replied.min(head);
        self.flushed = self.flushed.min(head);
        // Whoever looks now sees what is left.
        self.seen = self.seen.max(head);
        self.admitted = self.seen;
    }

    /// Compares states up to `head` with `read(lsn)`, in ascending order: those of the records that `wanted` picks
    /// (0: before the first), and of all whose outcome is open. `read` gives None for a number that no record has: right
    /// for a request that failed, and only then. Returns the last state.
    pub fn check(
        &mut self,
        head: u64,
        wanted: impl Fn(usize, u64) -> bool,
        mut read: impl FnMut(u64) -> Option<Vec<u8>>,
    ) -> Vec<u8> {
        let mut now = self.origin.clone();
        if wanted(0, 0) {
            match read(0) {
                Some(seen) if self.reach.holds(0) => compare(0, &now, &seen, "the state before the first record"),
                seen => assert!(seen.is_none() && !self.reach.holds(0), "LSN 0: there is {}", seen.is_some()),
            }
        }
        let mut states = States::of(&self.records, now.clone());
        for (index, record) in self.records.iter_mut().enumerate().take_while(|(_, r)| r.lsn <= head) {
            states.keep(record.lsn - 1, &now);
            if record.fate == Fate::Open {
                assert!(self.reach.holds(record.lsn), "LSN {} was given up before it was settled", record.lsn);
                record.settle(&mut now, read(record.lsn), &states);
                states.keep(record.lsn, &now);
                continue;
            }
            if record.fate == Fate::Pending && read(record.lsn).is_none() {
                record.fate = Fate::Lost;
            }
            if matches!(record.fate, Fate::Never | Fate::Lost) {
                continue;
            }
            record.change.apply(&mut now, &states);
            states.keep(record.lsn, &now);
            if !wanted(index, record.lsn) {
                continue;
            }
            match read(record.lsn) {
                Some(seen) => {
                    assert!(self.reach.holds(record.lsn), "LSN {} was given up, and can be read", record.lsn);
                    compare(record.lsn, &now, &seen, &format!("after {:?}", record.change));
                }
                None => assert!(!self.reach.holds(record.lsn), "no record has LSN {}, {:?}", record.lsn, record.change),
            }
        }
        now
    }

    /// The control records up to `head` that were replied to, and those that may be there.
    pub fn controls(&self, head: u64) -> (Vec<u64>, Vec<u64>) {
        let of = |done: bool| {
            let fits =
                move |r: &&Record| r.change == Change::Control && r.lsn <= head && (r.fate == Fate::Done) == done;
            self.records.iter().filter(fits).map(|r| r.lsn).collect()
        };
        (of(true), of(false))
    }

    /// The rollbacks up to `head` that were replied to, and those that may be there.
    pub fn rollbacks(&self, head: u64) -> (Branches, Branches) {
        let mut of = (Branches::new(), Branches::new());
        for record in self.records.iter().filter(|r| r.lsn <= head) {
            match (&record.change, record.fate) {
                (Change::Rollback { to }, Fate::Done) => of.0.push((record.lsn, *to)),
                (Change::Rollback { to }, Fate::Pending | Fate::Open) => of.1.push((record.lsn, *to)),
                _ => {}
            }
        }
        of
    }

    /// The state at an LSN: of the records up to it that were replied to.
    pub fn state_at(&self, lsn: u64) -> Vec<u8> {
        self.replay(lsn, self.origin.clone(), |record, now, states| record.change.apply(now, states))
    }

    /// Whose record each sector shows at an LSN; 0 for none.
    pub fn owners_at(&self, lsn: u64) -> Vec<u64> {
        self.replay(lsn, vec![0; self.origin.len().div_ceil(SECTOR)], Record::own)
    }

    /// What the records up to an LSN that were replied to make of `now`.
    fn replay<T: Clone>(&self, lsn: u64, mut now: Vec<T>, lay: impl Fn(&Record, &mut [T], &States<T>)) -> Vec<T> {
        let mut states = States::of(&self.records, now.clone());
        for record in self.records.iter().filter(|r| r.fate == Fate::Done && r.lsn <= lsn) {
            states.keep(record.lsn - 1, &now);
            lay(record, &mut now, &states);
            states.keep(record.lsn, &now);
        }
        now
    }

    fn record(&mut self, lsn: u64) -> &mut Record {
        let index = self.records.binary_search_by_key(&lsn, |r| r.lsn);
        &mut self.records[index.unwrap_or_else(|_| panic!("no record has LSN {lsn}"))]
    }
}

impl Record {
    /// Takes the outcome that `seen` shows for the one that counts from now on.
    fn settle(&mut self, now: &mut Vec<u8>, seen: Option<Vec<u8>>, states: &States<u8>) {
        let before = now.clone();
        self.change.apply(now, states);
        match seen {
            Some(seen) if seen != *now => {
                compare(self.lsn, &before, &seen, &format!("after {:?}, which failed or was cut off", self.change));
                assert!(!matches!(self.change, Change::Rollback { .. }), "LSN {}: half of {:?}", self.lsn, self.change);
                self.change = Change::Nothing;
                self.fate = Fate::Done;
                *now = before;
            }
            Some(_) => self.fate = Fate::Done,
            None => {
                self.fate = Fate::Never;
                *now = before;
            }
        }
    }

    /// Every sector that it touches is its own.
    fn own(&self, sectors: &mut [u64], states: &States<u64>) {
        let (offset, bytes) = match &self.change {
            Change::Rollback { to } => return sectors.copy_from_slice(states.at(*to)),
            Change::Write { offset, data } => (*offset, data.len()),
            Change::Zero { offset, bytes } => (*offset, *bytes),
            Change::Control | Change::Nothing => return,
        };
        sectors[offset / SECTOR..(offset + bytes).div_ceil(SECTOR)].fill(self.lsn);
    }
}

impl Change {
    fn apply(&self, bytes: &mut [u8], states: &States<u8>) {
        match self {
            Change::Rollback { to } => bytes.copy_from_slice(states.at(*to)),
            Change::Write { offset, data } => bytes[*offset..offset + data.len()].copy_from_slice(data),
            Change::Zero { offset, bytes: length } => bytes[*offset..offset + length].fill(0),
            Change::Control | Change::Nothing => {}
        }
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Write { offset, data } => write!(f, "write of {} at {offset}", data.len()),
            Change::Zero { offset, bytes } => write!(f, "zero of {bytes} at {offset}"),
            Change::Control => write!(f, "a control record"),
            Change::Rollback { to } => write!(f, "a rollback to LSN {to}"),
            Change::Nothing => write!(f, "nothing"),
        }
    }
}

/// The states that rollbacks go back to, gathered on the way.
struct States<T> {
    wanted: BTreeSet<u64>,
    known: BTreeMap<u64, Vec<T>>,
}

impl<T: Clone> States<T> {
    fn of(records: &[Record], origin: Vec<T>) -> States<T> {
        let target = |r: &Record| match r.change {
            Change::Rollback { to } => Some(to),
            _ => None,
        };
        let known = BTreeMap::from([(0, origin)]);
        States { wanted: records.iter().filter_map(target).collect(), known }
    }

    /// The state at `lsn`, and at every number before it that no record has.
    fn keep(&mut self, lsn: u64, state: &[T]) {
        for &wanted in self.wanted.range(..=lsn) {
            self.known.entry(wanted).or_insert_with(|| state.to_vec());
        }
    }

    fn at(&self, lsn: u64) -> &[T] {
        self.known.get(&lsn).unwrap_or_else(|| panic!("nobody kept the state at LSN {lsn}"))
    }
}

/// Panics with the first difference and its extent.
pub fn compare(lsn: u64, want: &[u8], got: &[u8], when: &str) {
    if want == got {
        return;
    }
    assert_eq!(want.len(), got.len(), "LSN {lsn}, {when}: the length differs");
    let differs: Vec<usize> = (0..want.len()).filter(|&i| want[i] != got[i]).collect();
    let (first, last) = (differs[0], differs[differs.len() - 1]);
    let zeros = differs.iter().filter(|&&i| got[i] == 0).count();
    panic!(
        "LSN {lsn}, {when}: {} bytes differ between {first} and {last} ({zeros} of them read as 0); at {first}: want {:?}, got {:?}",
        differs.len(),
        &want[first..(first + 8).min(want.len())],
        &got[first..(first + 8).min(got.len())],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: usize, byte: u8) -> Change {
        Change::Write { offset, data: vec![byte; 2] }
    }

    fn two_writes() -> Oracle {
        let mut oracle = Oracle::new(vec![0; 4]);
        oracle.admitted(1, write(0, 1));
        oracle.admitted(2, write(1, 2));
        oracle.replied(1);
        oracle
    }

    #[test]
    fn states_follow_the_lsns() {
        let states = [[0, 0, 0, 0], [1, 1, 0, 0], [1, 2, 2, 0]];
        let mut oracle = two_writes();
        assert_eq!(oracle.check(9, |_, _| true, |lsn| Some(states[lsn as usize].to_vec())), states[2]);
        assert_eq!(oracle.state_at(9), states[1], "the second has no reply yet");
    }

    #[test]
    fn a_sector_is_owned_by_who_touched_it_last_on_the_path() {
        let mut oracle = Oracle::new(vec![0; 3 * SECTOR]);
        let changes = [write(0, 1), write(SECTOR - 1, 2), Change::Zero { offset: 2 * SECTOR, bytes: 1 }];
        for (lsn, change) in (1..).zip(changes.into_iter().chain([Change::Rollback { to: 1 }])) {
            oracle.admitted(lsn, change);
            oracle.replied(lsn);
        }
        assert_eq!([1, 2, 3, 4].map(|lsn| oracle.owners_at(lsn)), [[1, 0, 0], [2, 2, 0], [2, 2, 3], [1, 0, 0]]);
    }

    #[test]
    #[should_panic(expected = "LSN 1, after write of 2 at 0: 1 bytes differ")]
    fn half_a_request_is_noticed() {
        two_writes().check(9, |_, _| true, |lsn| Some(if lsn == 0 { vec![0; 4] } else { vec![1, 0, 0, 0] }));
    }

    #[test]
    fn an_open_outcome_is_settled_by_the_first_look() {
        for kept in [true, false] {
            let mut oracle = two_writes();
            oracle.crashed();
            let end = if kept { vec![1, 2, 2, 0] } else { vec![1, 1, 0, 0] };
            let read = |lsn| Some([vec![0; 4], vec![1, 1, 0, 0], end.clone()][lsn as usize].clone());
            assert_eq!(oracle.check(9, |_, _| false, read), end);
            assert_eq!(oracle.state_at(9), end);
        }
    }

    #[test]
    #[should_panic(expected = "LSN 3, after nothing")]
    fn a_failed_request_that_was_seen_to_be_absent_stays_absent() {
        let mut oracle = two_writes();
        oracle.admitted(3, Change::Nothing);
        oracle.failed(2);
        let absent = |lsn| (lsn != 2).then(|| if lsn == 0 { vec![0; 4] } else { vec![1, 1, 0, 0] });
        assert_eq!(oracle.check(9, |_, _| true, absent), [1, 1, 0, 0]);
        oracle.check(
            9,
            |_, _| true,
            |lsn| Some([vec![0; 4], vec![1, 1, 0, 0], vec![], vec![1, 2, 2, 0]][lsn as usize].clone()),
        );
    }

    #[test]
    #[should_panic(expected = "LSN 2 was replied to")]
    fn a_reply_to_what_was_seen_to_be_absent_is_noticed() {
        let mut oracle = two_writes();
        oracle.check(9, |_, _| false, |lsn| (lsn < 2).then(|| vec![1, 1, 0, 0]));
        oracle.replied(2);
    }

    #[test]
    #[should_panic(expected = "promised to be kept")]
    fn a_lost_promise_is_noticed() {
        let mut oracle = two_writes();
        oracle.flushed(1);
        oracle.recovered(0, oracle.last_flushed());
    }

    #[test]
    fn a_failed_request_is_forgotten_when_its_number_may_be_given_again() {
        let mut oracle = Oracle::new(vec![0; 4]);
        oracle.admitted(1, Change::Control);
        oracle.failed(1);
        oracle.stopped();
        oracle.check(1, |_, _| true, |_| Some(vec![0; 4]));
        assert_eq!(oracle.controls(1), (vec![], vec![]));
    }

    #[test]
    #[should_panic(expected = "handed out")]
    fn a_number_given_twice_is_noticed_even_after_a_cut() {
        let mut oracle = two_writes();
        oracle.crashed();
        oracle.recovered(1, 1);
        oracle.admitted(2, Change::Nothing);
    }
}
