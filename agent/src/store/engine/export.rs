//! Where the engine's own files may not be read: it saves the whole image once, and its layers lie here as long as somebody reads them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use proto::Digest;
use proto::hash::BlobHasher;
use proto::limits::{BLOCK_BYTES, CONFIG_BYTES};

use super::Shared;
use super::save::{broken, files};
use crate::store::StoreError;

/// The layers and the config of one image, each in a file named by its digest. Removed when it is dropped.
#[derive(Debug)]
pub(super) struct Export {
    directory: PathBuf,
}

impl Drop for Export {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Export {
    /// A layer and its size.
    pub(super) fn layer(&self, diff_id: &Digest) -> Result<(File, u64), StoreError> {
        let path = self.directory.join(diff_id.hex());
        let opened = File::open(&path).and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        opened.map_err(|_| StoreError::BlobMissing(*diff_id))
    }

    /// The config.
    pub(super) fn config(&self, id: &Digest) -> Result<Bytes, StoreError> {
        let (file, _) = self.layer(id)?;
        let mut bytes = vec![];
        file.take(CONFIG_BYTES).read_to_end(&mut bytes).map_err(StoreError::io("read", self.directory.join(id.hex())))?;
        Ok(bytes.into())
    }
}

impl Shared {
    /// Has the engine save an image, unless that is here already. One at a time for each image.
    pub(super) async fn export(&self, id: &Digest) -> Result<Arc<Export>, StoreError> {
        let _turn = self.turns.take(*id).await;
        let known = self.exports.lock().unwrap_or_else(PoisonError::into_inner).get(id).and_then(std::sync::Weak::upgrade);
        if let Some(known) = known {
            return Ok(known);
        }
        let row = self.inspect(&id.to_string()).await?.ok_or(StoreError::BlobMissing(*id))?;
        let wanted: HashSet<Digest> = row.diff_ids().unwrap_or_default().into_iter().chain([*id]).collect();
        let directory = self.spool().join(format!("export-{}", super::random_hex()));
        std::fs::create_dir(&directory).map_err(StoreError::io("create", &directory))?;
        let export = Arc::new(Export { directory: directory.clone() });
        self.save(id, move |archive| unpack(archive, &directory, &wanted)).await?;
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.retain(|_, export| export.strong_count() > 0);
        exports.insert(*id, Arc::downgrade(&export));
        Ok(export)
    }
}

/// Keeps the files whose content is wanted, whatever they are called: each version of each engine names them in its own way.
fn unpack(archive: impl Read, directory: &Path, wanted: &HashSet<Digest>) -> Result<(), StoreError> {
    let mut block = vec![0; BLOCK_BYTES as usize];
    let path = directory.join("next");
    files(archive, |_, content| {
        let mut file = File::create(&path).map_err(StoreError::io("create", &path))?;
        let mut hasher = BlobHasher::default();
        loop {
            let read = content.read(&mut block).map_err(broken)?;
            if read == 0 {
                break;
            }
            hasher.update(&block[..read]);
            file.write_all(&block[..read]).map_err(StoreError::io("write", &path))?;
        }
        let digest = hasher.finish();
        if wanted.contains(&digest) {
            std::fs::rename(&path, directory.join(digest.hex())).map_err(StoreError::io("rename", &path))?;
        }
        Ok(())
    })?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_kept_whatever_it_is_called() {
        let mut archive = tar::Builder::new(vec![]);
        for (name, content) in [("a/layer.tar", &b"layer"[..]), ("b.json", b"config"), ("c", b"neither")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let export = Export { directory: directory.path().join("e") };
        std::fs::create_dir(&export.directory).unwrap();
        let wanted = HashSet::from([Digest::of(b"layer"), Digest::of(b"config"), Digest::of(b"absent")]);
        unpack(&archive.into_inner().unwrap()[..], &export.directory, &wanted).unwrap();
        assert_eq!(std::fs::read_dir(&export.directory).unwrap().count(), 2);
        assert_eq!(export.layer(&Digest::of(b"layer")).unwrap().1, 5);
        assert_eq!(export.config(&Digest::of(b"config")).unwrap(), &b"config"[..]);
        assert!(matches!(export.layer(&Digest::of(b"absent")), Err(StoreError::BlobMissing(_))));
        drop(export);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
