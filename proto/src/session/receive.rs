//! The receiving side of a session: what is fetched, in which order, how much at once, and when the image is complete.
//!
//! Documents come first, together: from them it is known that the offer told the truth. Then layers, lowest first, each claimed (so that two
//! sessions never write the same blob), fetched in extents, and stored. Documents are stored after the layers they name, the name moves last.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::limits::{BLOBS_AT_ONCE, EXTENT_BYTES, EXTENTS_AT_ONCE, SHARED_EXTENT_BYTES};
use crate::peer::{Missing, Offer, Refusal, Want};
use crate::session::OutOfTurn;
use crate::{Descriptor, Digest, Image};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The policy allows it, there is room for it, and this is missing.
    Admitted {
        /// What the store lacks, with what is staged of it.
        missing: Vec<Missing>,
    },
    /// A document has arrived, with the content that its digest names.
    DocumentFetched(Digest),
    /// The documents lead to exactly the image that was offered.
    DocumentsChecked,
    /// The layer is ours to write; these ranges of it are still to be fetched.
    Claimed {
        /// Which.
        digest: Digest,
        /// Joined, lowest first; none when all of it is staged.
        missing: Vec<Range<u64>>,
    },
    /// Another session has brought the layer in meanwhile.
    StoredElsewhere(Digest),
    /// An extent was fetched and verified.
    Fetched {
        /// Of which layer.
        digest: Digest,
    },
    /// An extent, or the rest of one, could not be fetched, but can be asked for again.
    Unfetched {
        /// Of which layer.
        digest: Digest,
        /// The rest.
        range: Range<u64>,
    },
    /// The layer is in the store.
    Stored(Digest),
    /// The image is in the store, under its name.
    Committed,
    /// It cannot go on, because.
    Failed(Refusal),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell the offering side what is missing.
    Want(Want),
    /// Fetch a document as a whole.
    FetchDocument(Descriptor),
    /// Walk the documents, fetched and present, and compare with the offer.
    CheckDocuments,
    /// Get the right to write a layer.
    Claim(Descriptor),
    /// Fetch an extent of a claimed layer, verify it and stage it.
    Fetch {
        /// Which layer.
        digest: Digest,
        /// Range of its bytes.
        range: Range<u64>,
    },
    /// Hand a complete layer over to the store.
    Store(Digest),
    /// Store the documents, and commit the import.
    Commit,
    /// The end.
    Finish(Result<(), Refusal>),
}

/// A session at the receiver.
#[derive(Debug)]
pub struct Receive {
    image: Image,
    dry_run: bool,
    extent_bytes: u64,
    phase: Phase,
    documents: usize,
    layers: Vec<Layer>,
    index: HashMap<Digest, usize>,
    extents: VecDeque<(Digest, Range<u64>)>,
    fetching: usize,
    actions: VecDeque<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Offered,
    Documents,
    Layers,
    Committing,
    Ended,
}

#[derive(Debug)]
struct Layer {
    descriptor: Descriptor,
    state: LayerState,
    /// Extents that are queued or under way.
    open_extents: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayerState {
    Waiting,
    Claiming,
    Fetching,
    Storing,
    Stored,
}

impl Receive {
    /// An image has been offered. Next comes `Admitted` or `Failed`.
    pub fn new(offer: &Offer) -> Self {
        Self {
            image: offer.image.clone(),
            dry_run: offer.dry_run,
            extent_bytes: EXTENT_BYTES,
            phase: Phase::Offered,
            documents: 0,
            layers: vec![],
            index: HashMap::new(),
            extents: VecDeque::new(),
            fetching: 0,
            actions: VecDeque::new(),
        }
    }

    /// The same in a fan-out.
    pub fn shared(offer: &Offer) -> Self {
        Self { extent_bytes: SHARED_EXTENT_BYTES, ..Self::new(offer) }
    }

    /// What is to be done next; `None` until something more has happened.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes in what happened. After the end everything is ignored: tasks may still report what they were doing.
    pub fn handle(&mut self, input: Input) -> Result<(), OutOfTurn> {
        match (self.phase, input) {
            (Phase::Ended, _) => {}
            (_, Input::Failed(refusal)) => self.end(Err(refusal)),
            (Phase::Offered, Input::Admitted { missing }) => self.admit(missing)?,
            (Phase::Documents, Input::DocumentFetched(_)) if self.documents > 0 => {
                self.documents -= 1;
                if self.documents == 0 {
                    self.actions.push_back(Action::CheckDocuments);
                }
            }
            (Phase::Documents, Input::DocumentsChecked) if self.documents == 0 => {
                self.phase = Phase::Layers;
                self.advance();
            }
            (Phase::Layers, Input::Claimed { digest, missing }) => self.claimed(digest, missing)?,
            (Phase::Layers, Input::StoredElsewhere(digest)) => self.stored_elsewhere(digest)?,
            // Extents of a layer that was stored elsewhere end later, even after the last layer.
            (Phase::Layers | Phase::Committing, Input::Fetched { digest }) => {
                if let Some(layer) = self.extent_ended(digest)? {
                    layer.open_extents -= 1;
                    self.store_when_complete(digest);
                }
                self.advance();
            }
            (Phase::Layers | Phase::Committing, Input::Unfetched { digest, range }) => {
                if self.extent_ended(digest)?.is_some() {
                    self.extents.push_front((digest, range));
                }
                self.advance();
            }
            (Phase::Layers, Input::Stored(digest)) => {
                self.layer(digest, LayerState::Storing)?.state = LayerState::Stored;
                self.advance();
            }
            (Phase::Committing, Input::Committed) => self.end(Ok(())),
            _ => return Err(OutOfTurn("an event of a receiving session")),
        }
        Ok(())
    }

    fn admit(&mut self, missing: Vec<Missing>) -> Result<(), OutOfTurn> {
        let lacks = |blob: &&Descriptor| missing.iter().any(|missing| missing.digest == blob.digest);
        let documents: Vec<Descriptor> = self.image.documents().into_iter().filter(lacks).cloned().collect();
        let document = |digest: &Digest| documents.iter().any(|document| document.digest == *digest);
        let layers = self.image.layers().into_iter().map(|layer| &layer.descriptor).filter(lacks);
        let layers: Vec<Descriptor> = layers.filter(|layer| !document(&layer.digest)).cloned().collect();
        if documents.len() + layers.len() != missing.len() {
            return Err(OutOfTurn("a missing blob that is not of the image"));
        }
        self.actions.push_back(Action::Want(Want { missing }));
        if self.dry_run {
            self.end(Ok(()));
            return Ok(());
        }
        self.phase = Phase::Documents;
        self.documents = documents.len();
        self.index = layers.iter().enumerate().map(|(i, layer)| (layer.digest, i)).collect();
        let layer = |descriptor| Layer { descriptor, state: LayerState::Waiting, open_extents: 0 };
        self.layers = layers.into_iter().map(layer).collect();
        if documents.is_empty() {
            self.actions.push_back(Action::CheckDocuments);
        }
        self.actions.extend(documents.into_iter().map(Action::FetchDocument));
        Ok(())
    }

    fn claimed(&mut self, digest: Digest, missing: Vec<Range<u64>>) -> Result<(), OutOfTurn> {
        let extents: Vec<Range<u64>> = missing.into_iter().flat_map(|range| extents(range, self.extent_bytes)).collect();
        let layer = self.layer(digest, LayerState::Claiming)?;
        layer.open_extents = extents.len();
        layer.state = LayerState::Fetching;
        self.extents.extend(extents.into_iter().map(|range| (digest, range)));
        self.store_when_complete(digest);
        self.advance();
        Ok(())
    }

    /// Counts an extent that is not under way any more. Returns the layer that waits for the extent; `None` when the layer is stored.
    fn extent_ended(&mut self, digest: Digest) -> Result<Option<&mut Layer>, OutOfTurn> {
        let is_stored = self.layer(digest, LayerState::Stored).is_ok();
        if self.fetching == 0 || (!is_stored && self.layer(digest, LayerState::Fetching)?.open_extents == 0) {
            return Err(OutOfTurn("the end of an extent"));
        }
        self.fetching -= 1;
        if is_stored { Ok(None) } else { self.layer(digest, LayerState::Fetching).map(Some) }
    }

    /// Before its claim, or while it is fetched: what is not under way yet is not fetched any more.
    fn stored_elsewhere(&mut self, digest: Digest) -> Result<(), OutOfTurn> {
        let is_claiming = self.layer(digest, LayerState::Claiming).is_ok();
        let state = if is_claiming { LayerState::Claiming } else { LayerState::Fetching };
        let layer = match self.layer(digest, state) {
            // All of it had come, too.
            Err(_) => self.layer(digest, LayerState::Storing)?,
            layer => layer?,
        };
        layer.state = LayerState::Stored;
        self.extents.retain(|(of, _)| *of != digest);
        self.advance();
        Ok(())
    }

    fn store_when_complete(&mut self, digest: Digest) {
        if let Ok(layer) = self.layer(digest, LayerState::Fetching)
            && layer.open_extents == 0
        {
            layer.state = LayerState::Storing;
            self.actions.push_back(Action::Store(digest));
        }
    }

    /// Claims and fetches as much as may be under way.
    fn advance(&mut self) {
        if self.phase != Phase::Layers {
            return;
        }
        // One claim after the other, lowest first: whoever waits for a layer that another session writes holds only layers below it, so that two
        // sessions never wait for each other.
        let claiming = self.layers.iter().any(|layer| layer.state == LayerState::Claiming);
        let fetching = self.layers.iter().filter(|layer| layer.state == LayerState::Fetching).count();
        if !claiming
            && fetching < BLOBS_AT_ONCE
            && let Some(layer) = self.layers.iter_mut().find(|layer| layer.state == LayerState::Waiting)
        {
            layer.state = LayerState::Claiming;
            self.actions.push_back(Action::Claim(layer.descriptor.clone()));
        }
        while self.fetching < EXTENTS_AT_ONCE
            && let Some((digest, range)) = self.extents.pop_front()
        {
            self.fetching += 1;
            self.actions.push_back(Action::Fetch { digest, range });
        }
        if self.layers.iter().all(|layer| layer.state == LayerState::Stored) {
            self.phase = Phase::Committing;
            self.actions.push_back(Action::Commit);
        }
    }

    fn layer(&mut self, digest: Digest, state: LayerState) -> Result<&mut Layer, OutOfTurn> {
        let layer = self.index.get(&digest).and_then(|&i| self.layers.get_mut(i));
        layer.filter(|layer| layer.state == state).ok_or(OutOfTurn("an event of a layer"))
    }

    fn end(&mut self, result: Result<(), Refusal>) {
        self.phase = Phase::Ended;
        if result.is_err() {
            self.actions.clear();
        }
        self.actions.push_back(Action::Finish(result));
    }
}

/// Cuts a range into pieces of at most `extent_bytes`, at multiples of it.
fn extents(range: Range<u64>, extent_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let mut next = range.start;
    // An empty blob has one empty extent: its one empty range is fetched like any other.
    let mut first = true;
    std::iter::from_fn(move || {
        if next >= range.end && !std::mem::take(&mut first) {
            return None;
        }
        first = false;
        let end = ((next / extent_bytes + 1) * extent_bytes).min(range.end);
        let extent = next..end;
        next = end;
        Some(extent)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
