//! What follows an offer, whoever asked for it: the answers of the receiver, in turn.

use std::collections::HashMap;

use proto::control::{Planned, PlannedLayer, Platforms};
use proto::image::Selection;
use proto::peer::{ATTESTATIONS, Answer, Hello, Missing, SIGNS_OF_LIFE, Want};
use proto::session::{self, send::Step};
use proto::{Digest, Image, Platform};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Context, TransferError};
use crate::net::{NetError, Peer, Stream};
use crate::store::Store;
use crate::sys;

/// How long a receiver that gives signs of life may give none: three in a row are missing then.
const SILENCE_MS: u64 = 20_000;

/// How long a receiver that gives no signs of life may say nothing: it hashes, or its engine unpacks.
const SILENCE_OF_OLD_MS: u64 = 1_800_000;

/// An offer that was made on a stream.
pub(super) struct Offering<'a> {
    stream: &'a mut Stream,
    machine: session::Send,
    cancel: CancellationToken,
    leaves: Option<CancellationToken>,
    silence_ms: u64,
}

impl<'a> Offering<'a> {
    pub(super) fn new(stream: &'a mut Stream, peer: &Peer, image: &Image, dry_run: bool, cancel: CancellationToken) -> Self {
        let gives_signs = peer.hello().capabilities & SIGNS_OF_LIFE != 0;
        let silence_ms = if gives_signs { SILENCE_MS } else { SILENCE_OF_OLD_MS };
        Self { stream, machine: session::Send::new(image, dry_run), cancel, leaves: None, silence_ms }
    }

    /// When this host leaves, which `shutdown` says, the receiver goes on without it: it hears an end, and no reset.
    pub(super) fn leaves_with(&mut self, shutdown: &CancellationToken) {
        self.leaves = Some(shutdown.clone());
    }

    /// The next step. When it is cancelled the receiver is told by the reset of the stream.
    ///
    /// A receiver says every few seconds that it is at it, whatever it waits for; one that says nothing for [`SILENCE_MS`] is lost. An older
    /// one gives no such signs, and may take longer.
    pub(super) async fn next(&mut self) -> Result<Step, TransferError> {
        loop {
            let answer: Answer = tokio::select! {
                answer = sys::deadline(self.silence_ms, self.stream.receive()) => {
                    answer.unwrap_or(Err(NetError::Silent(self.silence_ms / 1000)))?
                }
                () = self.cancel.cancelled() => return Err(TransferError::Cancelled),
            };
            if answer != Answer::Working {
                return Ok(self.machine.handle(answer)?);
            }
        }
    }
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        if self.leaves.as_ref().is_some_and(CancellationToken::is_cancelled) {
            self.stream.finish();
        }
    }
}

/// A receiver says that a blob of ours is damaged: look, and put it aside when it is true.
pub(super) async fn inspect_suspect<S: Store>(context: &Context<S>, digest: Digest) {
    let (report, mut findings) = mpsc::channel(1);
    let scrub = context.store.scrub(Some(digest), report);
    let (scrubbed, finding) = tokio::join!(scrub, findings.recv());
    match (scrubbed, finding) {
        (Err(error), _) => error!(blob = %digest, %error, "a receiver reports a damaged blob, which cannot be looked at"),
        (_, Some(finding)) if finding.intact => warn!(blob = %digest, "a receiver reports a damaged blob, but it is intact here"),
        _ => error!(blob = %digest, "blob is damaged and was put aside: load or pull its image again"),
    }
}

/// The manifests that are meant for a receiver.
pub(super) fn selection(platforms: &Platforms, receiver: &Hello) -> Selection {
    match platforms {
        Platforms::Receiver => one(receiver.platform.clone(), receiver),
        Platforms::One(platform) => one(platform.clone(), receiver),
        Platforms::All => Selection::All,
    }
}

/// One platform, with what is said about it where the receiver knows what to do with that.
pub(super) fn one(platform: Platform, receiver: &Hello) -> Selection {
    if receiver.capabilities & ATTESTATIONS == 0 { Selection::One(platform) } else { Selection::Attested(platform) }
}

/// What a receiver's wish means for an image, for people.
pub(super) fn plan(host: &str, name: &str, image: &Image, want: &Want) -> Planned {
    let missing: HashMap<Digest, &Missing> = want.missing.iter().map(|missing| (missing.digest, missing)).collect();
    let present = |digest: &Digest, size_bytes: u64| missing.get(digest).map_or(size_bytes, |missing| missing.staged_bytes);
    let layers = image.layers().into_iter().map(|layer| {
        let (digest, size_bytes) = (layer.descriptor.digest, layer.descriptor.size_bytes);
        PlannedLayer { digest, size_bytes, present_bytes: present(&digest, size_bytes) }
    });
    let present_bytes: u64 = image.blobs().into_iter().map(|blob| present(&blob.digest, blob.size_bytes)).sum();
    Planned {
        host: host.to_owned(),
        image: name.to_owned(),
        layers: layers.collect(),
        send_bytes: image.size_bytes() - present_bytes,
        present_bytes,
    }
}
