//! A client that comes back must not be overtaken by what its dead connection left in the socket.
//!
//! Before the first turn of a session on a volume, every other session of that volume whose peer is gone is ended:
//! what it had admitted is committed by then, and what it had only sent is never admitted. (Nothing of that was
//! replied to.)

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::session::Session;
use crate::sys::{self, Peer};
use crate::worker::Core;

const REASON: &str = "client gone; a successor took its place";

pub(crate) fn overtake(core: &Core, session: &Arc<Session>) {
    let Some(volume) = &session.volume else {
        return;
    };
    let others: Vec<Arc<Session>> = {
        let registry = core.registry.lock();
        let same = |other: &&Arc<Session>| {
            other.id != session.id && other.volume.as_ref().is_some_and(|theirs| Arc::ptr_eq(theirs, volume))
        };
        registry.live.values().filter(same).cloned().collect()
    };
    if others.is_empty() {
        return;
    }
    let sockets: Vec<_> = others.iter().map(|other| other.socket.as_fd()).collect();
    // If the kernel cannot say, all are taken for alive: they can only be overtaken by a client that did not wait for
    // replies.
    let Ok(peers) = sys::peers(&sockets) else {
        return;
    };
    let gone = |(other, peer): (&Arc<Session>, Peer)| other.socket.is_abandoned(peer).then(|| Arc::clone(other));
    let dead: Vec<Arc<Session>> = others.iter().zip(peers).filter_map(gone).collect();
    for other in &dead {
        other.cut(REASON);
    }
    for other in &dead {
        // Waits for a turn that is under way, and with it for its commits.
        let mut state = other.state.lock();
        if !state.ended {
            core.retire(other, &mut state);
            drop(state);
            core.announce(other, &other.reason());
        }
    }
}
