//! Plain layers that need not travel, because they are here compressed: they are made here, and verified as they are made.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::{Arc, PoisonError};

use proto::image::Selection;
use proto::limits::BLOCK_BYTES;
use proto::{Descriptor, Digest, Image};

use super::Layout;
use super::blobs::Presence;
use super::index::Names;
use super::ingest::Part;
use crate::packing::{Packing, unpacked};
use crate::store::StoreError;
use crate::sys::{Lane, blocking_in};

impl Layout {
    /// Of the missing blobs those that are plain layers, and the packed ones of images here that hold the same. Blocking.
    pub(super) fn forms(&self, names: &Names, image: &Image, missing: &[Descriptor]) -> Result<HashMap<Digest, Descriptor>, StoreError> {
        let lacks = |digest: &Digest| missing.iter().any(|blob| blob.digest == *digest);
        let plain = image.layers().into_iter().filter(|layer| layer.diff_id == Some(layer.descriptor.digest));
        let wanted: HashSet<Digest> = plain.map(|layer| layer.descriptor.digest).filter(lacks).collect();
        let mut forms = HashMap::new();
        if wanted.is_empty() {
            return Ok(forms);
        }
        for entry in &names.entries {
            // An image that cannot be read has nothing to give.
            let Ok(known) = self.image(None, &entry.root, Selection::Present) else { continue };
            for layer in known.layers() {
                let Some(diff_id) = layer.diff_id.filter(|diff_id| wanted.contains(diff_id) && *diff_id != layer.descriptor.digest) else {
                    continue;
                };
                let is_false = self.false_forms.lock().unwrap_or_else(PoisonError::into_inner).contains(&layer.descriptor.digest);
                if !is_false && matches!(self.blobs.presence(&layer.descriptor), Ok(Presence::Verified)) {
                    forms.insert(diff_id, layer.descriptor.clone());
                }
            }
        }
        Ok(forms)
    }

    /// Makes a plain layer. When what it is made of turns out to be something else, that is remembered, and the next import asks for the layer.
    pub(super) async fn make(self: &Arc<Self>, plain: &Descriptor, packed: &Descriptor) -> Result<(), StoreError> {
        let turn = self.turns.take(plain.digest).await;
        if self.is_recorded(plain).await? {
            return Ok(());
        }
        let (layout, plain, packed) = (self.clone(), plain.clone(), packed.clone());
        blocking_in(Lane::Unpack, move || {
            let part = Part::open(layout.blobs.ingest_path(&plain.digest), plain.size_bytes, turn)?;
            match unpack(&layout, part, &plain, &packed) {
                Err(StoreError::Corrupt(_)) => {
                    tracing::warn!(layer = %plain.digest, made_of = %packed.digest, "a compressed layer is not what its image says");
                    layout.false_forms.lock().unwrap_or_else(PoisonError::into_inner).insert(packed.digest);
                    Err(StoreError::Gone(plain.digest))
                }
                made => made,
            }
        })
        .await
    }
}

fn unpack(layout: &Layout, mut part: Part, plain: &Descriptor, packed: &Descriptor) -> Result<(), StoreError> {
    // Whatever is wrong with the packed bytes: they do not hold this layer.
    let wrong = |_: std::io::Error| StoreError::Corrupt(packed.digest);
    let mut file: File = layout.open(packed)?;
    let mut first = vec![];
    (&mut file).take(Packing::MAGIC_BYTES as u64).read_to_end(&mut first).map_err(wrong)?;
    let packing = Packing::of(&first);
    let whole = BufReader::with_capacity(128 * 1024, std::io::Cursor::new(first).chain(file));
    let mut content = unpacked(whole, packing).map_err(wrong)?;
    // A part of an earlier try stands: it was hashed when it was opened.
    let skipped_bytes = part.length_bytes();
    std::io::copy(&mut (&mut content).take(skipped_bytes), &mut std::io::sink()).map_err(wrong)?;
    let mut block = vec![0; BLOCK_BYTES as usize];
    loop {
        match content.read(&mut block).map_err(wrong)? {
            0 => return part.commit(layout, plain),
            length => part = part.append(&block[..length], plain.digest, plain.size_bytes)?,
        }
    }
}
