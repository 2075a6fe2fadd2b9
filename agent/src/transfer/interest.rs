//! Who has to do with a session that receives, and how.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proto::HostId;
use proto::job::JobId;
use proto::peer::{HashingProgress, Missing, Progress};
use tokio::sync::mpsc;

use super::job::Job;
use super::{Limit, Transfer};

/// News of a session, for whoever is interested in it on this host.
#[derive(Debug)]
pub(super) enum News {
    /// The plan stands.
    Wanted(Vec<Missing>),
    /// A blob is further.
    Progress(Progress),
    /// The source hashes a blob before it serves it.
    Hashing(HashingProgress),
}

/// What somebody on this host has to do with a session.
#[derive(Debug, Default)]
pub(super) struct Interest<'a> {
    /// Somebody on this host asked for the image, and who: then the policy for what others bring does not matter.
    pub(super) asked_here: Option<&'a str>,
    /// Is shown how far it is.
    pub(super) transfer: Option<&'a Transfer>,
    /// Wants to know how it goes.
    pub(super) news: Option<mpsc::Sender<News>>,
    /// Does not want it to be faster.
    pub(super) limit: Option<Arc<Limit>>,
    /// Becomes true when the session fails because the source does not give what it has offered.
    pub(super) is_refused: Arc<AtomicBool>,
    /// The image goes to others, too, and may come from them.
    pub(super) fan_out: Option<&'a mut FanOut>,
}

/// A fan-out that this host was asked into.
#[derive(Debug)]
pub(super) struct FanOut {
    /// Its name.
    pub(super) id: JobId,
    /// Who takes part.
    pub(super) members: Vec<HostId>,
    /// Who had it sent.
    pub(super) on_behalf_of: Option<HostId>,
    /// What others may read here, from the moment when it is known what is missing. Whoever holds it lets them.
    pub(super) job: Option<Arc<Job>>,
}
