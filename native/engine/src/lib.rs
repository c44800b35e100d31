//! The journal of a volume, and every view of it.
//!
//! The journal is the truth and everything else is a view of it. Bytes flow one way:
//! request → ring (LSN, stamp) → batch → segment → index → reply. Reads go from a view through the extent map to
//! segment, zeros or origin. This crate knows nothing of Python, NBD or sockets; the outside comes in through
//! [`storage::Storage`] and [`origin::Origin`]. The files are described in docs/format.md.

mod append;
pub mod changed;
mod checkpoint;
mod codec;
pub mod compact;
mod durable;
pub mod error;
mod faults;
mod fork;
pub mod full;
pub mod gate;
mod haste;
pub mod index;
pub mod instants;
pub mod journal;
mod lz4;
mod maintain;
mod merge;
mod opening;
pub mod options;
pub mod origin;
pub mod path;
mod prune;
pub mod reach;
mod read;
mod request;
pub mod restore;
mod ring;
mod rollback;
pub mod scrub;
mod shown;
mod sizes;
pub mod space;
pub mod storage;
pub mod timeline;
pub mod units;
pub mod verify;
mod verify_runs;
pub mod view;
pub mod volume;

pub use changed::Change;
pub use error::{Error, Kind, Result};
pub use fork::Fork;
pub use full::{Offer, Settled, Waiting};
pub use gate::{Permit, Waiter};
pub use instants::Instant;
pub use options::{Maintenance, Options};
pub use space::{FullPolicy, Space};
pub use units::{Lsn, SegmentId, Stamp, PAGE, SECTOR};
pub use view::{Extent, Fault, View};
pub use volume::{Status, Volume, Zeroing};
