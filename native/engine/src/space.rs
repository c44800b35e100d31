//! Bytes on disk of the files that a volume names, and the marks that admission goes by.
//!
//! Invariants: after every manifest commit the sums are those of what it names, plus what the open segments have grown by; `used` never misses a
//! committed file. What is in the making or being removed (a footer before its commit, the output of a compaction) is not counted: the reserve is for it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::index::files::Named;
use crate::journal::manifest::{Content, Edit};
use crate::units::PAGE;

/// What is done when there is no room for a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullPolicy {
    /// Writes wait; whoever watches gives up history, so that compaction makes room.
    #[default]
    DropOldest,
    /// Writes wait.
    Stall,
    /// Writes fail with NoSpace.
    Fail,
}

/// Bytes of a volume's files, and what holds writes back. Bytes unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What the volume is charged for: all its files, of a clone those that only it holds.
    pub used: u64,
    pub budget: Option<u64>,
    /// Where writes begin to be delayed, and where they wait or fail; None where no bound is known.
    pub soft: Option<u64>,
    pub hard: Option<u64>,
    /// Segments without their footers.
    pub segments_bytes: u64,
    /// Footers, checkpoints and merged runs.
    pub index_bytes: u64,
    /// Both copies.
    pub manifest_bytes: u64,
    /// Files that another volume holds too.
    pub shared: u64,
    /// What no instant needs, by the last look of compaction.
    pub dead: u64,
    /// The horizon and the number of points that it went by.
    pub looked_at: (u64, usize),
    /// Kept free for compaction, control records and rollbacks: of the budget, and on the disk.
    pub reserve: u64,
    pub reserve_file: u64,
    /// Written since the volume was opened: batches; compacted segments; footers, checkpoints and runs.
    pub foreground_bytes: u64,
    pub compaction_bytes: u64,
    pub index_written_bytes: u64,
    /// Nanoseconds for which writes were held back above the soft mark.
    pub delayed_ns: u64,
    /// Writes wait for room, now.
    pub stalled: bool,
    /// The disk itself had no room when it was last tried.
    pub disk_full: bool,
}

/// What admission does with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// After this time.
    Slow(Duration),
    Full,
}

/// Data is slowed down and stopped; zeros free space in the end: they are not slowed, and may use half of the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Data,
    Zeros,
}

/// Segments of a volume with a budget: so many fill it, so that what the writer and compaction hold besides is small.
const SEGMENTS_A_BUDGET: u64 = 192;
const SEGMENT_MIN: u64 = 4 << 20;
/// Segments of room that compaction may use.
const RESERVE_SEGMENTS: u64 = 3;
/// Bytes a second half-way between the marks.
const RATE_HALFWAY: f64 = (64 << 20) as f64;
/// One write is held back for no longer than this.
const DELAY_MAX: f64 = 1.0;
/// The mark's value where there is none.
const NONE: u64 = u64::MAX;

/// Budget, reserve and the marks that follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    pub soft: u64,
    pub hard: u64,
    pub reserve: u64,
    pub segment_bytes: u64,
}

impl Marks {
    /// `segment_bytes`: what a segment has without a budget, and at most.
    pub fn of(budget: Option<u64>, segment_bytes: u64) -> Marks {
        let Some(budget) = budget else {
            return Marks { soft: NONE, hard: NONE, reserve: 0, segment_bytes };
        };
        let segment_bytes = (budget / SEGMENTS_A_BUDGET).max(SEGMENT_MIN).min(segment_bytes);
        let reserve = (RESERVE_SEGMENTS * segment_bytes).min(budget / 4);
        let hard = budget - reserve;
        // Little lies between the marks: what is above the soft one is lost to history and makes compaction dearer.
        Marks { soft: hard / 64 * 63, hard, reserve, segment_bytes }
    }

    /// Where compaction begins: before writes are slowed down.
    fn begin(&self) -> u64 {
        if self.hard == NONE {
            NONE
        } else {
            self.soft - (self.hard - self.soft)
        }
    }

    /// How far above the soft mark: 1 at the hard one, -1 where compaction begins.
    fn debt(&self, used: u64) -> f64 {
        (used as f64 - self.soft as f64) / (self.hard - self.soft).max(1) as f64
    }

    /// Pure: may `bytes` more be written when `used` are used?
    pub fn judge(&self, used: u64, bytes: u64, class: Class) -> Verdict {
        if self.hard == NONE {
            return Verdict::Go;
        }
        // One write that is larger than the room between the marks must not wait for ever.
        let weight = bytes.min((self.hard - self.soft) / 2);
        if class == Class::Zeros {
            let fits = used.saturating_add(weight) <= self.hard + self.reserve / 2;
            return if fits { Verdict::Go } else { Verdict::Full };
        }
        if used.saturating_add(weight) > self.hard {
            return Verdict::Full;
        }
        if used <= self.soft {
            return Verdict::Go;
        }
        let debt = self.debt(used);
        let seconds = bytes as f64 / RATE_HALFWAY * debt / (1.0 - debt).max(1e-6);
        Verdict::Slow(Duration::from_secs_f64(seconds.min(DELAY_MAX)))
    }
}

#[derive(Default)]
struct Tally {
    segments: u64,
    index: u64,
    manifest: u64,
    shared: u64,
    /// Only what it holds alone is charged.
    is_clone: bool,
    links: HashSet<Named>,
    /// Ends of the segments that are not sealed.
    open: HashMap<u32, u64>,
    reserve_file: u64,
}

impl Tally {
    fn recount(&mut self, content: &Content) {
        (self.segments, self.index, self.shared) = (0, 0, 0);
        self.is_clone = !content.ancestors.is_empty();
        let open = &mut self.open;
        open.retain(|&id, _| content.segments.get(&crate::units::SegmentId(id)).is_some_and(|s| !s.sealed));
        for segment in content.segments.values() {
            if segment.sealed {
                self.segments += segment.footer_offset;
                self.index += segment.file_bytes - segment.footer_offset.min(segment.file_bytes);
                self.shared += if self.links.contains(&Named::Segment(segment.id.0)) { segment.file_bytes } else { 0 };
            } else {
                open.entry(segment.id.0).or_insert(PAGE);
            }
        }
        let checkpoints = content.checkpoints.values().map(|c| (Named::Checkpoint(c.id), c.file_bytes));
        let runs = content.runs.values().map(|r| (Named::Run(r.id), r.file_bytes));
        for (name, bytes) in checkpoints.chain(runs) {
            self.index += bytes;
            self.shared += if self.links.contains(&name) { bytes } else { 0 };
        }
    }

    fn open_bytes(&self) -> u64 {
        self.open.values().sum()
    }

    fn used(&self) -> u64 {
        let all = self.segments + self.open_bytes() + self.index + self.manifest + self.reserve_file;
        if self.is_clone {
            all - self.shared
        } else {
            all
        }
    }
}

/// Counts, and says what fits.
pub struct Meter {
    tally: Mutex<Tally>,
    used: AtomicU64,
    /// Admitted and not appended yet.
    promised: AtomicU64,
    marks: Mutex<(Option<u64>, Marks)>,
    soft: AtomicU64,
    /// Where compaction begins.
    begin: AtomicU64,
    segment_bytes: AtomicU64,
    /// Bytes used when the disk refused more; NONE while it does not.
    full_at: AtomicU64,
    /// The reserve on the disk was given up: what is free there is not for writes.
    reserve_is_out: AtomicBool,
    policy: AtomicU8,
    /// Bytes used from which the reserve file has not the right size any more.
    pub reserve_due: AtomicU64,
    /// What no instant needs; the horizon and the number of points that say so.
    look: Mutex<(u64, u64, usize)>,
    foreground: AtomicU64,
    compaction: AtomicU64,
    index_written: AtomicU64,
}

impl Meter {
    pub fn new(segment_bytes: u64, policy: FullPolicy) -> Meter {
        Meter {
            tally: Mutex::default(),
            used: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            marks: Mutex::new((None, Marks::of(None, segment_bytes))),
            soft: AtomicU64::new(NONE),
            begin: AtomicU64::new(NONE),
            segment_bytes: AtomicU64::new(segment_bytes),
            full_at: AtomicU64::new(NONE),
            reserve_is_out: AtomicBool::new(false),
            policy: AtomicU8::new(policy as u8),
            reserve_due: AtomicU64::new(0),
            look: Mutex::default(),
            foreground: AtomicU64::new(0),
            compaction: AtomicU64::new(0),
            index_written: AtomicU64::new(0),
        }
    }

    /// What the manifest names from now on. True if less is used than before.
    pub fn committed(&self, edits: &[Edit], content: &Content, manifest_bytes: u64) -> bool {
        for edit in edits {
            match edit {
                Edit::SetSegment(s) if s.sealed && s.compacted => self.compaction.fetch_add(s.file_bytes, Relaxed),
                Edit::SetSegment(s) if s.sealed => {
                    self.index_written.fetch_add(s.file_bytes - s.footer_offset, Relaxed)
                }
                Edit::SetCheckpoint(c) => self.index_written.fetch_add(c.file_bytes, Relaxed),
                Edit::SetRun(r) => self.index_written.fetch_add(r.file_bytes, Relaxed),
                _ => 0,
            };
        }
        let mut tally = self.tally.lock();
        tally.recount(content);
        tally.manifest = manifest_bytes;
        self.publish(&tally)
    }

    fn publish(&self, tally: &Tally) -> bool {
        let now = tally.used();
        self.used.swap(now, Relaxed) > now
    }

    /// The segment ends at `end` now. True if compaction has to begin.
    pub fn appended(&self, segment: u32, end: u64) -> bool {
        let mut tally = self.tally.lock();
        let used = self.used();
        let before = tally.open.insert(segment, end).unwrap_or(PAGE);
        self.foreground.fetch_add(end.saturating_sub(before), Relaxed);
        self.publish(&tally);
        (used + 1..=self.used()).contains(&self.begin.load(Relaxed))
    }

    /// The files that other volumes hold too.
    pub fn set_links(&self, links: HashSet<Named>, content: &Content) -> bool {
        let mut tally = self.tally.lock();
        tally.links = links;
        tally.recount(content);
        self.publish(&tally)
    }

    pub fn set_reserve_file(&self, bytes: u64) {
        let mut tally = self.tally.lock();
        tally.reserve_file = bytes;
        self.publish(&tally);
    }

    pub fn reserve_file(&self) -> u64 {
        self.tally.lock().reserve_file
    }

    /// `segment_bytes`: what a segment has without a budget, and at most.
    pub fn set_budget(&self, budget: Option<u64>, policy: FullPolicy, segment_bytes: u64) {
        let marks = Marks::of(budget, segment_bytes);
        *self.marks.lock() = (budget, marks);
        self.soft.store(marks.soft, Relaxed);
        self.begin.store(marks.begin(), Relaxed);
        self.segment_bytes.store(marks.segment_bytes, Relaxed);
        self.policy.store(policy as u8, Relaxed);
        self.reserve_due.store(0, Relaxed);
    }

    /// Bytes that the disk has besides. What it has for the volume is a bound as a budget is one: segments are to be a small part of it.
    pub fn set_room(&self, room: u64) {
        let part = self.used().saturating_add(room) / SEGMENTS_A_BUDGET;
        let most = self.marks.lock().1.segment_bytes;
        self.segment_bytes.store(part.max(SEGMENT_MIN).min(most), Relaxed);
    }

    /// Bytes after which a segment is full.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes.load(Relaxed)
    }

    pub fn policy(&self) -> FullPolicy {
        let all = [FullPolicy::DropOldest, FullPolicy::Stall, FullPolicy::Fail];
        let now = self.policy.load(Relaxed);
        all.into_iter().find(|&policy| policy as u8 == now).unwrap_or_default()
    }

    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub fn promise(&self, bytes: u64) {
        self.promised.fetch_add(bytes, Relaxed);
    }

    pub fn unpromise(&self, bytes: u64) {
        self.promised.fetch_sub(bytes, Relaxed);
    }

    pub fn set_reserve_is_out(&self, out: bool) {
        self.reserve_is_out.store(out, Relaxed);
    }

    /// The disk refused more.
    pub fn disk_filled(&self) {
        self.full_at.store(self.used(), Relaxed);
    }

    pub fn disk_has_room(&self) {
        self.full_at.store(NONE, Relaxed);
    }

    pub fn is_disk_full(&self) -> bool {
        self.full_at.load(Relaxed) != NONE
    }

    /// True if a write can go on without a closer look.
    pub fn is_roomy(&self) -> bool {
        self.committed_bytes() < self.soft.load(Relaxed) && !self.is_disk_full()
    }

    fn committed_bytes(&self) -> u64 {
        self.used().saturating_add(self.promised.load(Relaxed))
    }

    pub fn judge(&self, bytes: u64, class: Class) -> Verdict {
        let full_at = self.full_at.load(Relaxed);
        if full_at != NONE && (self.reserve_is_out.load(Relaxed) || self.used().saturating_add(bytes) > full_at) {
            return Verdict::Full;
        }
        self.marks.lock().1.judge(self.committed_bytes(), bytes, class)
    }

    /// Bytes that compaction has to free; 0 where there is room.
    pub fn room_needed(&self) -> u64 {
        let marks = self.marks.lock().1;
        if self.is_disk_full() {
            return RESERVE_SEGMENTS * marks.segment_bytes;
        }
        if marks.hard == NONE {
            return 0;
        }
        let needed = self.used().saturating_sub(marks.begin());
        if needed > 0 {
            needed + (marks.hard - marks.soft) / 2
        } else {
            0
        }
    }

    /// How much compaction is wanted: 0 where it begins, 1 from the soft mark on, where writes are slowed down.
    pub fn pressure(&self) -> f64 {
        let marks = self.marks.lock().1;
        if self.is_disk_full() {
            return 1.0;
        }
        if marks.hard == NONE {
            return 0.0;
        }
        (1.0 + marks.debt(self.committed_bytes())).clamp(0.0, 1.0)
    }

    /// Compaction has looked, by this horizon and so many points.
    pub fn looked(&self, dead: u64, horizon: u64, points: usize) {
        *self.look.lock() = (dead, horizon, points);
    }

    pub fn space(&self) -> Space {
        let (budget, marks) = *self.marks.lock();
        let full_at = self.full_at.load(Relaxed);
        let bound = |mark: u64| Some(mark.min(full_at)).filter(|&mark| mark != NONE);
        let look = *self.look.lock();
        let tally = self.tally.lock();
        let footers_apart = tally.segments + tally.open_bytes();
        Space {
            used: tally.used(),
            budget,
            soft: bound(marks.soft),
            hard: bound(marks.hard),
            segments_bytes: footers_apart,
            index_bytes: tally.index,
            manifest_bytes: tally.manifest,
            shared: tally.shared,
            dead: look.0,
            looked_at: (look.1, look.2),
            reserve: marks.reserve,
            reserve_file: tally.reserve_file,
            foreground_bytes: self.foreground.load(Relaxed),
            compaction_bytes: self.compaction.load(Relaxed),
            index_written_bytes: self.index_written.load(Relaxed),
            delayed_ns: 0,
            stalled: false,
            disk_full: full_at != NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::manifest::{AncestorItem, CheckpointItem, SegmentItem};
    use crate::units::{Lsn, SegmentId};

    const MIB: u64 = 1 << 20;

    #[test]
    fn segments_shrink_with_the_budget_and_the_reserve_stays_a_part_of_it() {
        let sizes = |budget| {
            let marks = Marks::of(Some(budget), 64 * MIB);
            (marks.segment_bytes / MIB, marks.reserve / MIB, marks.hard / MIB)
        };
        assert_eq!(sizes(24 << 30), (64, 192, (24 << 10) - 192));
        assert_eq!(sizes(1536 * MIB), (8, 24, 1512));
        assert_eq!(sizes(64 * MIB), (4, 12, 52));
        assert_eq!(sizes(16 * MIB), (4, 4, 12));
        assert_eq!(Marks::of(None, 64 * MIB).judge(u64::MAX / 2, MIB, Class::Data), Verdict::Go);
    }

    #[test]
    fn delay_grows_with_debt_and_with_bytes_until_writes_stop() {
        let marks = Marks::of(Some(1 << 30), 64 * MIB);
        let delay = |used, bytes| match marks.judge(used, bytes, Class::Data) {
            Verdict::Go => Duration::ZERO,
            Verdict::Slow(time) => time,
            Verdict::Full => Duration::MAX,
        };
        assert_eq!(delay(marks.soft, 4096), Duration::ZERO);
        let steps: Vec<Duration> =
            (1..=8).map(|i| delay(marks.soft + (marks.hard - marks.soft) / 8 * i, 4096)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
        assert_eq!(steps[7], Duration::MAX);
        let middle = (marks.soft + marks.hard) / 2;
        let (one, ten) = (delay(middle, 4096).as_secs_f64(), delay(middle, 40960).as_secs_f64());
        assert!((ten / one - 10.0).abs() < 0.01);
        assert!(delay(marks.hard - 8192, 4096) <= Duration::from_secs(1));
        // One that can never fit goes once there is room for half.
        assert!(delay(marks.soft, 64 * MIB) < Duration::MAX);
    }

    #[test]
    fn zeros_may_use_half_of_the_reserve() {
        let marks = Marks::of(Some(1 << 30), 64 * MIB);
        assert_eq!(marks.judge(marks.hard, 4096, Class::Zeros), Verdict::Go);
        assert_eq!(marks.judge(marks.hard + marks.reserve / 2, 4096, Class::Zeros), Verdict::Full);
    }

    fn sealed(id: u32, file_bytes: u64) -> Edit {
        let item = SegmentItem { sealed: true, id: SegmentId(id), file_bytes, ..SegmentItem::default() };
        Edit::SetSegment(SegmentItem { footer_offset: file_bytes - 4096, ..item })
    }

    fn content(edits: &[Edit]) -> Content {
        let mut content = Content::default();
        edits.iter().for_each(|edit| content.apply(edit));
        content
    }

    #[test]
    fn sums_follow_the_manifest_and_the_appends() {
        let meter = Meter::new(64 * MIB, FullPolicy::Stall);
        let open = Edit::SetSegment(SegmentItem { id: SegmentId(2), ..SegmentItem::default() });
        let checkpoint = Edit::SetCheckpoint(CheckpointItem { id: 1, file_bytes: 8192, ..CheckpointItem::default() });
        let edits = [sealed(1, 100 * PAGE), open, checkpoint.clone()];
        assert!(!meter.committed(&edits, &content(&edits), 1000));
        assert_eq!(meter.used(), 100 * PAGE + PAGE + 8192 + 1000);
        meter.appended(2, 5 * PAGE);
        assert_eq!(meter.used(), 105 * PAGE + 8192 + 1000);
        let space = meter.space();
        assert_eq!((space.segments_bytes, space.index_bytes), (104 * PAGE, PAGE + 8192));
        assert_eq!((space.foreground_bytes, space.index_written_bytes), (4 * PAGE, PAGE + 8192));
        // Sealed: its length is the manifest's. Dropped: it is gone.
        let edits = [sealed(2, 7 * PAGE), checkpoint];
        assert!(meter.committed(&edits, &content(&edits), 1000));
        assert_eq!(meter.used(), 7 * PAGE + 8192 + 1000);
    }

    #[test]
    fn a_clone_is_charged_for_what_only_it_holds() {
        let meter = Meter::new(64 * MIB, FullPolicy::Stall);
        let ancestor = Edit::SetAncestor(AncestorItem { base: Lsn(5), floor: Lsn(5), id: [1; 16] });
        let (plain, clone) =
            (content(&[sealed(1, 40960), sealed(2, 8192)]), [sealed(1, 40960), sealed(2, 8192), ancestor]);
        meter.committed(&[], &plain, 0);
        meter.set_links(HashSet::from([Named::Segment(1)]), &plain);
        assert_eq!((meter.used(), meter.space().shared), (49152, 40960));
        meter.committed(&[], &content(&clone), 0);
        assert_eq!((meter.used(), meter.space().shared), (8192, 40960));
        meter.set_links(HashSet::new(), &content(&clone));
        assert_eq!((meter.used(), meter.space().shared), (49152, 0));
    }

    #[test]
    fn a_full_disk_is_a_mark_at_the_bytes_used() {
        let meter = Meter::new(64 * MIB, FullPolicy::Stall);
        meter.committed(&[], &content(&[sealed(1, 40960)]), 0);
        assert!(meter.is_roomy());
        meter.disk_filled();
        assert!(!meter.is_roomy() && meter.is_disk_full());
        assert_eq!(meter.judge(1, Class::Data), Verdict::Full);
        assert_eq!(meter.space().hard, Some(40960));
        // What compaction frees may be written.
        assert!(meter.committed(&[], &content(&[sealed(1, 20480)]), 0));
        assert_eq!(meter.judge(4096, Class::Data), Verdict::Go);
        meter.disk_has_room();
        assert_eq!((meter.space().hard, meter.space().disk_full), (None, false));
    }
}
