//! Arrival of an image at a host: layers from claim to store, documents, and the name at the end.

use proto::limits::BLOBS_AT_ONCE;
use proto::peer::{Block, Progress, Refusal};
use proto::session::receive::Input;
use proto::{Descriptor, Digest};

use crate::node::Place;
use crate::scenario::{MS, layers_of};
use crate::session::{Arriving, Session};
use crate::world::{Timer, World};

impl World {
    /// The right to write a layer is asked for.
    pub(crate) fn claim(&mut self, session: usize, layer: Descriptor) {
        let Session { host, ref image, ref claims, ref layers, ref missing, .. } = self.sessions[session];
        let lacks = |digest: &Digest| missing.iter().any(|missing| missing.digest == *digest);
        let next = layers_of(image).into_iter().filter(lacks).find(|digest| !claims.contains(digest));
        assert_eq!(next, Some(layer.digest), "layers are claimed once, lowest first");
        let has_claim = |digest: &Digest| layers.contains_key(digest) || self.nodes[host].disk.store.contains_key(digest);
        assert!(claims.iter().all(has_claim), "a layer is claimed while the claim of another one is awaited");
        let is_arriving = |digest: &&Digest| {
            let blob = &self.scenario.blobs[*digest];
            self.nodes[host].disk.staged_bytes(blob) < blob.descriptor.size_bytes
        };
        assert!(layers.keys().filter(is_arriving).count() < BLOBS_AT_ONCE, "too many layers at once");
        self.sessions[session].claims.push(layer.digest);
        let claim = self.nodes[host].claims.entry(layer.digest).or_default();
        match claim.holder {
            None => {
                claim.holder = Some(session);
                self.work(host, 5 * MS, Timer::Claimed(session, layer.digest));
            }
            Some(_) => claim.waiting.push_back(session),
        }
    }

    /// The layer is this session's to write, if the store has not got it meanwhile.
    pub(crate) fn claimed(&mut self, session: usize, digest: Digest) {
        let host = self.sessions[session].host;
        if self.sessions[session].result.is_some() {
            return;
        }
        if self.nodes[host].disk.store.contains_key(&digest) {
            self.nodes[host].disk.discard(&digest);
            self.release(host, session, &digest);
            self.place(session, &digest, Place::Store);
            return self.tell(session, Input::StoredElsewhere(digest));
        }
        let blob = self.scenario.blobs[&digest].clone();
        let missing = self.nodes[host].disk.claim(&blob);
        let staged_bytes = self.nodes[host].disk.staged_bytes(&blob);
        self.sessions[session].layers.insert(digest, Arriving { staged_bytes, verified_bytes: staged_bytes, reported_bytes: 0 });
        self.place(session, &digest, Place::Staged);
        self.tell(session, Input::Claimed { digest, missing });
    }

    /// A complete layer goes into the store.
    pub(crate) fn stored(&mut self, session: usize, digest: Digest) {
        let host = self.sessions[session].host;
        if self.sessions[session].result.is_some() {
            return;
        }
        let blob = self.scenario.blobs[&digest].clone();
        let Some(arriving) = self.sessions[session].layers.remove(&digest) else { return };
        let node = &mut self.nodes[host];
        if std::mem::take(&mut node.store_fails) {
            node.had_disk_fault = true;
            node.disk.discard(&digest);
            return self.tell(session, Input::Failed(Refusal::Store(String::from("disk"))));
        }
        let Some(content) = node.disk.finish(&blob) else {
            self.counts.corrupt += 1;
            // Where a part of it came in an earlier session this source is not to blame.
            let refusal = if arriving.staged_bytes > 0 { Refusal::StoreChanged } else { Refusal::Corrupt(digest) };
            return self.tell(session, Input::Failed(refusal));
        };
        node.disk.keep(&blob, content);
        self.sessions[session].finished.push(Progress { digest, verified_bytes: blob.descriptor.size_bytes });
        self.release(host, session, &digest);
        self.wake(host, &digest);
        self.tell(session, Input::Stored(digest));
    }

    /// Another session may write the layer.
    pub(crate) fn release(&mut self, host: usize, session: usize, digest: &Digest) {
        let Some(claim) = self.nodes[host].claims.get_mut(digest) else { return };
        claim.waiting.retain(|waiting| *waiting != session);
        if claim.holder == Some(session) {
            claim.holder = claim.waiting.pop_front();
            if let Some(next) = claim.holder {
                self.work(host, 5 * MS, Timer::Claimed(next, *digest));
            }
        }
    }

    /// A document has come, with the content that its digest names, or not.
    pub(crate) fn document_came(&mut self, session: usize, digest: Digest, stream: usize, block: &Block, content: &[u64]) {
        self.close(stream);
        if self.sessions[session].result.is_some() {
            return;
        }
        match block {
            Block::Waiting | Block::Hashing(_) => {}
            Block::Refused(refusal) => self.tell(session, Input::Failed(refusal.clone())),
            Block::Bytes(_) if self.scenario.blobs[&digest].ranges == content => {
                self.sessions[session].documents.insert(digest);
                self.tell(session, Input::DocumentFetched(digest));
            }
            Block::Bytes(_) => self.tell(session, Input::Failed(Refusal::Corrupt(digest))),
        }
    }

    /// A document will not come.
    pub(crate) fn document_lost(&mut self, session: usize) {
        if self.sessions[session].result.is_none() {
            self.tell(session, Input::Failed(Refusal::Store(String::from("a document did not arrive"))));
        }
    }

    /// All documents are here.
    pub(crate) fn documents_checked(&mut self, session: usize) {
        let Session { host, ref documents, ref image, .. } = self.sessions[session];
        if self.sessions[session].result.is_some() {
            return;
        }
        let store = &self.nodes[host].disk.store;
        let is_here = |document: &&Descriptor| documents.contains(&document.digest) || store.contains_key(&document.digest);
        assert!(image.documents().iter().all(is_here), "documents are checked before all are here");
        self.tell(session, Input::DocumentsChecked);
    }

    /// Children before parents; the name comes later.
    pub(crate) fn store_documents(&mut self, session: usize) {
        let (host, image) = (self.sessions[session].host, self.sessions[session].image.clone());
        for document in image.documents().into_iter().rev() {
            let blob = &self.scenario.blobs[&document.digest];
            if !self.nodes[host].disk.store.contains_key(&document.digest) {
                self.nodes[host].disk.keep(blob, blob.ranges.clone());
            }
        }
        self.work(host, 20 * MS, Timer::MoveName(session));
    }

    /// The image becomes visible.
    pub(crate) fn move_name(&mut self, session: usize) {
        let (host, image) = (self.sessions[session].host, self.sessions[session].image.clone());
        let name = image.reference.as_ref().map(ToString::to_string).unwrap_or_default();
        self.nodes[host].disk.names.insert(name, image.root.digest);
        self.check_names(host);
        self.tell(session, Input::Committed);
    }
}
