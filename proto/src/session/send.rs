//! The offering side of a session: it follows what the receiver says, and believes nothing that does not fit the offer.

use std::collections::HashMap;

use crate::job::Trouble;
use crate::peer::{Answer, Committed, Missing, Progress, Refusal, Want};
use crate::session::OutOfTurn;
use crate::{Digest, HostId, Image};

/// One offer and what became of it.
#[derive(Debug)]
pub struct Send {
    sizes: HashMap<Digest, u64>,
    dry_run: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Offered,
    Wanted(HashMap<Digest, Wanted>),
    Ended,
}

#[derive(Debug)]
struct Wanted {
    size_bytes: u64,
    verified_bytes: u64,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These blobs will be asked for.
    Planned(Want),
    /// A blob is further.
    Progress(Progress),
    /// A source of a fan-out is not what it should be.
    Trouble(Trouble),
    /// From whom the receiver of a fan-out has received how many bytes so far.
    Drawn(Vec<(HostId, u64)>),
    /// A blob has to be looked at: its bytes were not what its digest says.
    Suspect(Digest),
    /// The image is there. The end.
    Committed(Committed),
    /// It was a dry run, and this is what it found. The end.
    Forecast(Want),
    /// It will not be there. The end.
    Refused(Refusal),
}

impl Send {
    /// The image has been offered.
    pub fn new(image: &Image, dry_run: bool) -> Self {
        let sizes = image.blobs().iter().map(|blob| (blob.digest, blob.size_bytes)).collect();
        Self { sizes, dry_run, state: State::Offered }
    }

    /// What the receiver said.
    pub fn handle(&mut self, answer: Answer) -> Result<Step, OutOfTurn> {
        match (&mut self.state, answer) {
            (State::Ended, _) => Err(OutOfTurn("an answer after the last one")),
            (_, Answer::Refused(refusal)) => {
                self.state = State::Ended;
                Ok(Step::Refused(refusal))
            }
            (State::Offered, Answer::Want(want)) => self.want(want),
            (State::Wanted(wanted), Answer::Progress(progress)) => {
                let blob = wanted.get_mut(&progress.digest).ok_or(OutOfTurn("progress of a blob that was not wanted"))?;
                if progress.verified_bytes < blob.verified_bytes || progress.verified_bytes > blob.size_bytes {
                    return Err(OutOfTurn("progress that goes back or beyond the end"));
                }
                blob.verified_bytes = progress.verified_bytes;
                Ok(Step::Progress(progress))
            }
            (State::Wanted(_), Answer::Trouble(trouble)) => Ok(Step::Trouble(trouble)),
            (State::Wanted(_), Answer::Drawn(sources)) => Ok(Step::Drawn(sources)),
            (State::Wanted(_), Answer::Corrupt(digest)) if self.sizes.contains_key(&digest) => Ok(Step::Suspect(digest)),
            (State::Wanted(_), Answer::Committed(committed)) => {
                self.state = State::Ended;
                Ok(Step::Committed(committed))
            }
            _ => Err(OutOfTurn("an answer that does not fit the offer")),
        }
    }

    fn want(&mut self, want: Want) -> Result<Step, OutOfTurn> {
        let offered = |blob: &Missing| self.sizes.get(&blob.digest) == Some(&blob.size_bytes) && blob.staged_bytes <= blob.size_bytes;
        if !want.missing.iter().all(offered) {
            return Err(OutOfTurn("a wish for a blob that was not offered"));
        }
        if self.dry_run {
            self.state = State::Ended;
            return Ok(Step::Forecast(want));
        }
        let wanted = |blob: &Missing| (blob.digest, Wanted { size_bytes: blob.size_bytes, verified_bytes: 0 });
        self.state = State::Wanted(want.missing.iter().map(wanted).collect());
        Ok(Step::Planned(want))
    }
}
