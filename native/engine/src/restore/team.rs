//! Threads that take windows from one planner, each doing all there is to do with its own.
//!
//! Invariants: reports come from the caller's thread, in no order. The first error ends the work: nobody takes another window, and the call returns
//! when the ones under way are through.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;

use super::apply::{self, Written};
use super::buffer::Buffer;
use super::fetch::Fetcher;
use super::plan::{Planner, Window};
use super::{Order, Outcome, Report, Stretch, Target, FAULTS_MAX};
use crate::error::{Error, Kind, Result};
use crate::view::{Fault, View};

/// One computes while another waits for a disk. More would share the memory of the windows.
const THREADS: usize = 2;

/// A window that somebody is through with.
#[derive(Default)]
struct Finished {
    bytes: u64,
    stretch: Option<Stretch>,
    written: Written,
    was_done: bool,
    faults: Vec<Fault>,
    differs: Option<u64>,
}

pub(super) fn restore(view: &View, target: &dyn Target, order: &Order, report: Report) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let all = [(0, view.size())];
    let team = Team::new(view, order.ranges.unwrap_or(&all), order.done);
    team.run(
        |worker, window, done| worker.restore(view, target, window, done),
        |finished, handled, total| {
            outcome.written += finished.written.data;
            outcome.cleared += finished.written.cleared;
            outcome.found_done += if finished.was_done { finished.bytes } else { 0 };
            outcome.fault_bytes += finished.faults.iter().map(|fault| fault.bytes).sum::<u64>();
            outcome.faults.extend(finished.faults);
            outcome.faults.sort_by_key(|fault| fault.offset);
            outcome.faults.truncate(FAULTS_MAX);
            report(finished.stretch, handled, total)
        },
    )?;
    Ok(outcome)
}

pub(super) fn compare(view: &View, target: &dyn Target, report: Report) -> Result<Option<u64>> {
    let mut differs: Option<u64> = None;
    let team = Team::new(view, &[(0, view.size())], &[]);
    let found = AtomicBool::new(false);
    team.run(
        |worker, window, _| {
            // A window before this one may differ earlier, but it was taken earlier, too.
            if found.load(Ordering::Relaxed) {
                return Ok(Finished::default());
            }
            let finished = worker.compare(view, target, window)?;
            found.fetch_or(finished.differs.is_some(), Ordering::Relaxed);
            Ok(finished)
        },
        |finished, handled, total| {
            differs = [differs, finished.differs].into_iter().flatten().min();
            report(None, handled, total)
        },
    )?;
    Ok(differs)
}

struct Team<'a> {
    planner: Mutex<Planner<'a>>,
    total: u64,
    done: &'a [Stretch],
    stop: AtomicBool,
}

/// The memory of one thread.
struct Worker<'a> {
    planner: &'a Mutex<Planner<'a>>,
    fetcher: Fetcher,
    ours: Buffer,
    theirs: Buffer,
}

impl<'a> Team<'a> {
    fn new(view: &'a View, ranges: &[(u64, u64)], done: &'a [Stretch]) -> Team<'a> {
        let planner = Planner::new(view, ranges);
        Team { total: planner.total(), planner: Mutex::new(planner), done, stop: AtomicBool::new(false) }
    }

    /// Has `work` done for every window and tells `handle` of each, with the bytes handled so far and in all.
    fn run(
        &'a self,
        work: impl Fn(&mut Worker, Window, Option<Stretch>) -> Result<Finished> + Sync,
        mut handle: impl FnMut(Finished, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        handle(Finished::default(), 0, self.total)?;
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let (sender, work) = (sender.clone(), &work);
                scope.spawn(move || {
                    let mut worker = Worker::new(&self.planner);
                    while let Some(result) = self.take().map_or_else(
                        |error| Some(Err(error)),
                        |taken| taken.map(|(window, done)| work(&mut worker, window, done)),
                    ) {
                        let failed = result.is_err();
                        // Nobody listens any more only where the caller panics.
                        if sender.send(result).is_err() || failed {
                            self.stop.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
            drop(sender);
            let mut handled = 0;
            let mut outcome = Ok(());
            for result in receiver {
                // After the first error only the windows that are under way are waited for.
                if outcome.is_ok() {
                    outcome = result.and_then(|finished| {
                        handled += finished.bytes;
                        handle(finished, handled, self.total)
                    });
                    self.stop.fetch_or(outcome.is_err(), Ordering::Relaxed);
                }
            }
            outcome
        })
    }

    /// The next window, with the stretch that it was when it was done before.
    fn take(&self) -> Result<Option<(Window, Option<Stretch>)>> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut planner = self.planner.lock();
        let at = planner.position();
        let ahead = &self.done[self.done.partition_point(|stretch| stretch.start < at)..];
        let stop = ahead.first().map_or(u64::MAX, |next| if next.start == at { next.end } else { next.start });
        let taken = planner.next(stop)?;
        Ok(taken.map(|window| {
            let known = ahead.first().filter(|next| (next.start, next.end) == (window.start(), window.end()));
            (window, known.copied())
        }))
    }
}

impl<'a> Worker<'a> {
    fn new(planner: &'a Mutex<Planner<'a>>) -> Worker<'a> {
        Worker { planner, fetcher: Fetcher::new(), ours: Buffer::new(), theirs: Buffer::new() }
    }

    fn restore(&mut self, view: &View, target: &dyn Target, window: Window, done: Option<Stretch>) -> Result<Finished> {
        let bytes = window.spans.iter().map(|(start, end)| end - start).sum();
        if let Some(stretch) = done {
            if apply::holds(target, &window, stretch.sum, &mut self.theirs)? {
                return Ok(Finished { bytes, stretch: done, was_done: true, ..Finished::default() });
            }
        }
        let (window, faults) = self.fetch(view, window)?;
        let ours = self.ours.of(window.bytes);
        let written = apply::write(target, &window, ours, &mut self.theirs)?;
        let sum = apply::checksum(&window, ours);
        let stretch = Stretch { start: window.start(), end: window.end(), sum };
        let stretch = (window.spans.len() == 1 && faults.is_empty()).then_some(stretch);
        Ok(Finished { bytes, stretch, written, faults, ..Finished::default() })
    }

    fn compare(&mut self, view: &View, target: &dyn Target, window: Window) -> Result<Finished> {
        let bytes = window.end() - window.start();
        let (window, faults) = self.fetch(view, window)?;
        if let Some(fault) = faults.first() {
            return Err(Error::new(fault.kind, fault.message.clone()));
        }
        let differs = apply::compare(target, &window, self.ours.of(window.bytes), &mut self.theirs)?;
        Ok(Finished { bytes, differs, ..Finished::default() })
    }

    /// Brings the window's content into `ours`; plans the window again where its payloads were moved meanwhile.
    fn fetch(&mut self, view: &View, mut window: Window) -> Result<(Window, Vec<Fault>)> {
        loop {
            match self.fetcher.fetch(view.volume(), &window, self.ours.of(window.bytes)) {
                Err(error) if error.kind == Kind::Gone => window = self.planner.lock().again(&window.spans)?,
                other => {
                    // An instant that was given up may have lost payloads while they were being read.
                    view.check_held()?;
                    return other.map(|faults| (window, faults));
                }
            }
        }
    }
}
