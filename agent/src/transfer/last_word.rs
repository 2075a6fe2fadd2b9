//! What a receiver says at the end of a session.

use proto::peer::{Answer, Committed, Missing, Refusal};

use crate::net::{Peer, Stream};
use crate::sys;

/// How long the other side may not read what it is told, which is little.
pub(super) const SEND_MS: u64 = 5_000;

/// What a session came to.
#[derive(Debug)]
pub(super) struct Received {
    /// What was missing when it began.
    pub(super) missing: Vec<Missing>,
    /// `None`: it was a dry run.
    pub(super) committed: Option<Committed>,
    /// The rule of the policy that allowed it.
    pub(super) rule: String,
}

/// How it ended; a peer that does not listen does not hear it.
pub(super) async fn tell(stream: &mut Stream, peer: &Peer, result: &Result<Received, Refusal>) {
    let last = match result {
        Ok(received) => received.committed.clone().map(Answer::Committed).into_iter().collect(),
        Err(Refusal::Corrupt(digest)) => vec![Answer::Corrupt(*digest), Answer::Refused(Refusal::Corrupt(*digest))],
        Err(refusal) => vec![Answer::Refused(refusal.clone().for_capabilities(peer.hello().capabilities))],
    };
    for answer in last {
        if !matches!(sys::deadline(SEND_MS, stream.send(&answer)).await, Some(Ok(()))) {
            return;
        }
    }
    stream.finish();
}
