//! One load: an archive that goes into the engine as it comes to be.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use proto::limits::BLOCK_BYTES;
use proto::{Descriptor, Digest};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::api::Client;
use super::{Shared, thin};
use crate::store::StoreError;
use crate::sys::{Lane, blocking_in};

/// Blocks between us and the engine.
const QUEUE: usize = 2;

/// An open load. Dropping it cuts the connection: the engine forgets what came.
#[derive(Debug)]
pub(super) struct Load {
    body: mpsc::Sender<Option<Bytes>>,
    outcome: AbortOnDropHandle<Result<(), StoreError>>,
    client: Client,
    action: String,
}

/// A layer that has come in and waits to be loaded.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// A small one.
    Memory(Arc<[Bytes]>, u64),
    /// In a file without a name.
    Spooled(Arc<File>, u64),
}

impl Kept {
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Memory(_, size_bytes) | Self::Spooled(_, size_bytes) => *size_bytes,
        }
    }
}

impl Load {
    /// Opens a connection; errors come with the first bytes, or at the end.
    pub(super) fn start(client: &Client, action: &str) -> Self {
        let (body, archive) = mpsc::channel(QUEUE);
        let (to, of) = (client.clone(), action.to_owned());
        let outcome = AbortOnDropHandle::new(tokio::spawn(async move { to.load(archive, &of).await }));
        Self { body, outcome, client: client.clone(), action: action.to_owned() }
    }

    /// The next bytes of the archive.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.is_empty() || self.body.send(Some(bytes)).await.is_ok() {
            return Ok(());
        }
        self.outcome().await?;
        Err(self.client.refusal(&self.action, "it answered before the archive had come"))
    }

    /// A layer that was kept.
    pub(super) async fn layer(&mut self, diff_id: &Digest, kept: &Kept) -> Result<(), StoreError> {
        self.write(thin::layer_head(diff_id, kept.size_bytes())).await?;
        match kept {
            Kept::Memory(blocks, _) => {
                for block in blocks.iter() {
                    self.write(block.clone()).await?;
                }
            }
            Kept::Spooled(file, size_bytes) => {
                let mut offset = 0;
                while offset < *size_bytes {
                    let (file, length) = (file.clone(), (size_bytes - offset).min(BLOCK_BYTES));
                    let read = blocking_in(Lane::Read, move || {
                        let mut block = vec![0; length as usize];
                        file.read_exact_at(&mut block, offset).map(|()| block)
                    });
                    self.write(read.await.map_err(StoreError::io("read", "spool"))?.into()).await?;
                    offset += length;
                }
            }
        }
        self.write(thin::padding(kept.size_bytes())).await
    }

    /// The archive is complete: waits for the engine's answer.
    pub(super) async fn finish(mut self) -> Result<(), StoreError> {
        self.write(thin::end()).await?;
        // When it does not want the end any more, the answer says why.
        let _ = self.body.send(None).await;
        self.outcome().await
    }

    async fn outcome(&mut self) -> Result<(), StoreError> {
        match (&mut self.outcome).await {
            Ok(outcome) => outcome,
            Err(error) => Err(self.client.refusal(&self.action, error.to_string())),
        }
    }
}

impl Shared {
    /// Loads an archive that is at hand.
    pub(super) async fn load_whole(&self, archive: Bytes, action: &str) -> Result<(), StoreError> {
        let mut load = Load::start(&self.client, action);
        load.write(archive).await?;
        load.finish().await
    }
}

/// The layer whose absence the engine complains about, when that is what it complains about.
pub(super) fn absent_layer(error: &StoreError, layers: &[Descriptor]) -> Option<Digest> {
    let StoreError::Engine { reason, .. } = error else { return None };
    let complains = ["no such file", "missing", "not found", "not known"].iter().any(|words| reason.contains(words));
    layers.iter().map(|layer| layer.digest).find(|digest| complains && reason.contains(&digest.hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_layer_is_found_in_the_words_of_the_engine() {
        let layers = [Descriptor::of("x", b"a"), Descriptor::of("x", b"b")];
        let error = |reason: String| StoreError::Engine { engine: "Docker Engine", action: "load".to_owned(), reason };
        let hex = layers[1].digest.hex();
        let docker = error(format!("open /var/lib/docker/tmp/docker-import-1868122192/blobs/sha256/{hex}: no such file or directory"));
        assert_eq!(absent_layer(&docker, &layers), Some(layers[1].digest));
        let podman = error(format!("oci-archive: reading blob sha256:{hex}: open /var/tmp/oci3720028351/blobs/sha256/{hex}: no such file"));
        assert_eq!(absent_layer(&podman, &layers), Some(layers[1].digest));
        assert_eq!(absent_layer(&error("no space left on device".to_owned()), &layers), None);
        assert_eq!(absent_layer(&error(format!("{hex} is odd")), &layers), None);
    }
}
