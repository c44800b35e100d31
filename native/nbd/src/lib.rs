//! The transmission phase of NBD over an engine volume or view (docs/nbd.md).
//!
//! Negotiation is somebody else's: a session begins with a connected socket, its TLS connection if it has one, and what was agreed on. A fixed set of
//! threads serves all sessions over epoll; an idle session is a small struct. Bytes flow one way: socket → window
//! → gate (`request`) → engine → outbox → socket. Nothing here knows of Python or of files.

mod aside;
mod batch;
mod desk;
mod execute;
mod foresight;
mod intake;
mod memory;
mod outbox;
mod read;
pub mod reply;
pub mod request;
mod server;
mod session;
mod socket;
mod succession;
mod sys;
mod tally;
pub mod tls;
mod turn;
mod watch;
pub mod wire;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use cdp_engine::{View, Volume};

pub use server::{Account, Server, SessionFacts, Totals};
pub use tally::{Kind, Row, BUCKETS, FIRST_BUCKET_BITS, KINDS};

/// What a session serves.
pub enum Export {
    /// The live volume, writable.
    Live(Arc<Volume>),
    /// An instant (or the live volume for looking only), read-only.
    View(View),
}

/// What negotiation settled.
#[derive(Clone, Default)]
pub struct Mode {
    /// Structured replies; implied by `extended`.
    pub structured: bool,
    pub extended: bool,
    /// Id and name of each metadata context that needs no more: `base:allocation`.
    pub contexts: Vec<(u32, String)>,
    /// Id of each context that tells what changed since an instant, and the instant.
    pub since: Vec<(u32, View)>,
    /// Under what the session's requests are counted (`Server::accounts`).
    pub account: String,
}

/// Bounds of a server; see docs/nbd.md, "Bounds".
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads, at least one.
    pub workers: usize,
    /// Bytes of payload memory for all sessions together, at least 64 MiB.
    pub memory_bytes: u64,
    /// How long a client that holds memory may make no progress.
    pub stall: Duration,
    /// Live sessions at most.
    pub sessions_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { workers: 16, memory_bytes: 128 << 20, stall: Duration::from_secs(30), sessions_max: 1024 }
    }
}
