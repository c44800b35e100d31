//! A machine that fails on purpose, for the engine's tests.
//!
//! [`Machine`] stands for disk, page cache, folder and clock of one volume; [`Machine::boot`] gives a process on it, as
//! the engine's [`Storage`](cdp_engine::storage::Storage). What happens to it is chosen by a seed and by the
//! plan of the test: the same seed, plan and calls give the same bytes, whatever the real machine does.
//!
//! The medium is as bad as docs/format.md allows, and no worse:
//! - bytes under a successful `sync` stay, as do names under a successful `sync_folder`, until a test lets them rot;
//! - all else may be lost, kept, torn, garbled or reordered by a power cut, piece by piece;
//! - garbage stays in the pages that were in flight.

pub mod campaign;
mod clock;
mod fault;
mod folder;
mod inode;
mod machine;
pub mod oracle;
mod process;
pub mod scenario;
mod seed;
pub mod story;
mod subfolder;

pub use clock::Clock;
pub use fault::{Call, Death, Fault, Op, EIO, ENOSPC};
pub use machine::{Machine, Restart};
pub use process::Process;
pub use seed::Rng;
pub use subfolder::Subfolder;
