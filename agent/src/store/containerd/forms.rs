//! Plain layers that need not travel, because they are here compressed: they are made here, and verified as they are made.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use proto::limits::BLOCK_BYTES;
use proto::{Descriptor, Digest, Image};
use tokio::sync::mpsc;

use super::Shared;
use super::import::Ready;
use super::ingest::ContainerdIngest;
use super::labels::UNCOMPRESSED;
use super::lease::EngineLease;
use crate::packing::{Packing, unpacked};
use crate::store::{Ingest, Reader, StoreError};
use crate::sys::thread;

impl Shared {
    /// Of the missing blobs those that are plain layers, and what they can be made of, which is kept.
    pub(super) async fn forms(
        &self,
        image: &Image,
        missing: &[Descriptor],
        lease: &EngineLease,
    ) -> Result<HashMap<Digest, Descriptor>, StoreError> {
        let is_plain =
            |digest: &Digest| image.layers().iter().any(|layer| layer.descriptor.digest == *digest && layer.diff_id == Some(*digest));
        let wanted: Vec<Digest> = missing.iter().map(|blob| blob.digest).filter(is_plain).collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let filters = wanted.iter().map(|digest| format!("labels.{UNCOMPRESSED:?}=={:?}", digest.to_string())).collect();
        let mut forms = HashMap::new();
        for (digest, info) in self.all_infos(filters).await? {
            let plain = info.labels.get(UNCOMPRESSED).and_then(|label| label.parse::<Digest>().ok());
            let Some(plain) = plain.filter(|plain| wanted.contains(plain) && *plain != digest) else { continue };
            lease.add_blob(&digest).await?;
            forms.insert(plain, Descriptor { media_type: String::new(), digest, size_bytes: info.size_bytes });
        }
        Ok(forms)
    }

    /// Makes a plain layer. When what it is made of turns out to be something else, that is forgotten, and the next import asks for the layer.
    pub(super) async fn make(
        self: &Arc<Self>,
        lease: &Arc<EngineLease>,
        plain: &Descriptor,
        packed: &Descriptor,
        ready: &Ready,
    ) -> Result<(), StoreError> {
        let Some(mut ingest) = ContainerdIngest::begin(self, lease, plain, ready).await? else { return Ok(()) };
        let reader = self.read(packed.digest, packed.size_bytes, 0..packed.size_bytes).await?;
        let (sender, mut blocks) = mpsc::channel(2);
        let (offset, digest) = (ingest.offset(), packed.digest);
        let unpacking = thread("unpack", move || unpack(reader, offset, &sender).map_err(|_| StoreError::Corrupt(digest)));
        let appending = async {
            while let Some(block) = blocks.recv().await {
                ingest.append(block).await?;
            }
            drop(blocks);
            ingest.commit().await
        };
        let (unpacked, appended) = tokio::join!(unpacking, appending);
        match (unpacked.map_err(StoreError::io("start a thread for", "unpacking"))?, appended) {
            (_, Ok(())) => Ok(()),
            (Err(_), _) | (_, Err(StoreError::Corrupt(_))) => {
                tracing::warn!(layer = %plain.digest, made_of = %packed.digest, "a compressed layer is not what its label says");
                // With another label it is not found again.
                let label = [(UNCOMPRESSED.to_owned(), String::new())].into();
                self.label(&packed.digest, None, label).await?;
                Err(StoreError::Gone(plain.digest))
            }
            (_, Err(error)) => Err(error),
        }
    }
}

/// Sends what is in the blob that `reader` gives, without the first `skip` bytes. Blocking.
fn unpack(reader: Reader, skip: u64, sender: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut packed = BufReader::with_capacity(BLOCK_BYTES as usize, Blocks { reader, block: Bytes::new() });
    let packing = Packing::of(packed.fill_buf()?);
    let mut plain = unpacked(packed, packing)?;
    io::copy(&mut plain.by_ref().take(skip), &mut io::sink())?;
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
        plain.by_ref().take(BLOCK_BYTES).read_to_end(&mut block)?;
        if block.is_empty() || sender.blocking_send(block.into()).is_err() {
            return Ok(());
        }
    }
}

/// A reader for a thread.
struct Blocks {
    reader: Reader,
    block: Bytes,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            match self.reader.blocks.blocking_recv() {
                Some(block) => self.block = block.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let size = buffer.len().min(self.block.len());
        self.block.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}
