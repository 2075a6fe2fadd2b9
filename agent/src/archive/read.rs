//! Loading an archive into a store.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::image::{ImageError, Selection, Walk};
use proto::limits::{BLOB_BYTES, BLOCK_BYTES, CONFIG_BYTES};
use proto::{Descriptor, Digest, Image, Manifest, Platform, Reference};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::contents::Contents;
use super::find::{Found, find};
use super::foreign::{FIRST_BYTES, Foreign};
use super::{ArchiveError, diff_id, input};
use crate::staging::Staging;
use crate::store::{Form, Import, Imported, Ingest, Store, StoreError};
use crate::sys::{Lane, blocking, blocking_in, thread};

/// How long an engine is waited for that is restarted during a load, and how often it is tried again.
const ENGINE_WAIT: Duration = Duration::from_secs(60);
const ENGINE_PAUSE: Duration = Duration::from_millis(500);

/// An image that was loaded, under one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// `None`: it has no name.
    pub reference: Option<Reference>,
    /// What the store shows as its ID.
    pub image_id: Digest,
    /// What the name showed before, when that was something else.
    pub replaced: Option<Digest>,
}

/// An image of an archive that was not loaded.
#[derive(Debug)]
pub struct NotLoaded {
    /// As it is called there; its digest where it has no name.
    pub name: String,
    /// Why.
    pub error: ArchiveError,
}

/// What an archive came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Under every name.
    pub loaded: Vec<Loaded>,
    /// Images and names.
    pub failed: Vec<NotLoaded>,
    /// What whoever loads the archive should know.
    pub notes: Vec<String>,
}

/// Loads every image of an archive that comes through `blocks`, in any format and packing, and tells `on_loaded` of each as soon as it is visible.
/// One that cannot be loaded does not keep the others out; an error is about the archive as a whole, of which nothing was loaded.
///
/// All images are read and checked before the first becomes visible. The channel's end is the archive's: an error in it is passed on. Blobs that the
/// archive does not have are taken from the store. Nothing stays staged. `stop` ends it before the next image.
///
/// # Errors
/// [`ArchiveError::Stopped`], after what `on_loaded` was told.
pub async fn load<S: Store>(
    store: &S,
    staging: &Arc<Staging>,
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    stop: &CancellationToken,
    mut on_loaded: impl FnMut(&Loaded) + Send,
) -> Result<Report, ArchiveError> {
    let (contents, found) = {
        let staging = staging.clone();
        // It waits for the client in the middle of its work.
        let read = thread("load", move || {
            let (input, tail) = input::open(blocks)?;
            let contents = Contents::read(&staging, input)?;
            let mut found = find(&contents, &staging)?;
            if tail.is_there() {
                found.notes.push("something follows the archive in the same file: it is passed over".to_owned());
            }
            Ok::<_, ArchiveError>((Arc::new(contents), found))
        });
        read.await.map_err(StoreError::io("start a thread for", "the archive"))??
    };
    let mut report = Report { loaded: vec![], failed: found.failed, notes: found.notes };
    let mut checked = HashMap::new();
    let mut prepared = Vec::with_capacity(found.images.len());
    for image in found.images {
        let name = image.references.first().map_or_else(|| image.root.digest.short(), Reference::familiar);
        match Prepared::new(store, &contents, image, &mut checked).await {
            Ok(image) => prepared.push((name, image)),
            Err(error) => report.failed.push(NotLoaded { name, error }),
        }
    }
    for (name, image) in prepared {
        let loading = image.load(store, &contents, stop, name, |row| {
            on_loaded(&row);
            report.loaded.push(row);
        });
        let failed = loading.await;
        if stop.is_cancelled() {
            return Err(ArchiveError::Stopped);
        }
        report.failed.extend(failed);
    }
    if contents.is_unmarked() {
        for failed in &mut report.failed {
            if matches!(failed.error, ArchiveError::BlobMissing(_) | ArchiveError::MemberMissing(_)) {
                let error = std::mem::replace(&mut failed.error, ArchiveError::Truncated);
                failed.error = ArchiveError::CutOff(Box::new(error));
            }
        }
    }
    Ok(report)
}

/// An image that was checked, and its open import.
struct Prepared<I> {
    image: Image,
    /// All names but the first, which is the image's.
    other_names: Vec<Reference>,
    import: I,
    missing: Vec<Descriptor>,
}

impl<I: Import> Prepared<I> {
    /// `checked` has the diff IDs of layers that other images of the archive have too.
    async fn new<S: Store<Import = I>>(
        store: &S,
        contents: &Arc<Contents>,
        found: Found,
        checked: &mut HashMap<Digest, Digest>,
    ) -> Result<Self, ArchiveError> {
        let is_unpacked = store.properties().form == Form::Unpacked;
        // A name with a digest alone is kept where manifests are.
        let mut names = found.references.into_iter().filter(|name| !is_unpacked || name.tag().is_some());
        let mut image = read_image(store, contents, names.next(), found.root).await?;
        if is_unpacked && image.manifests.len() > 1 {
            image.manifests = vec![for_this_host(&image)?];
        }
        let mut import = store.import(image.clone()).await?;
        let mut missing = import.missing().await?;
        let lost = lost(contents, &missing);
        if let Some(first) = lost.iter().min().copied() {
            // Of an index, the platforms that are complete; they must have been meant, because the others cannot be.
            image.manifests.retain(|manifest| !manifest.layers.iter().any(|layer| lost.contains(&layer.descriptor.digest)));
            if image.manifests.is_empty() {
                return Err(ArchiveError::BlobMissing(first));
            }
            import = store.import(image.clone()).await?;
            missing = import.missing().await?;
            if let Some(digest) = self::lost(contents, &missing).into_iter().min() {
                return Err(ArchiveError::BlobMissing(digest));
            }
        }
        check_layers(contents, &image, checked).await?;
        Ok(Self { image, other_names: names.collect(), import, missing })
    }

    async fn load<S: Store<Import = I>>(
        self,
        store: &S,
        contents: &Arc<Contents>,
        stop: &CancellationToken,
        name: String,
        mut on_loaded: impl FnMut(Loaded) + Send,
    ) -> Vec<NotLoaded> {
        let Self { mut image, other_names, import, missing } = self;
        let row = |reference: Option<Reference>, imported: Imported| Loaded {
            reference,
            image_id: imported.image_id,
            replaced: imported.replaced,
        };
        let mut failed = vec![];
        let mut first = bring_all(store, import, contents, &missing, stop).await;
        let since = Instant::now();
        // An engine that is restarted meanwhile is waited for.
        while matches!(first, Err(ArchiveError::Store(StoreError::Unreachable { .. } | StoreError::Silent { .. })))
            && since.elapsed() < ENGINE_WAIT
            && !stop.is_cancelled()
        {
            tokio::time::sleep(ENGINE_PAUSE).await;
            first = again(store, &image, contents, stop).await;
        }
        match first {
            Ok(imported) => on_loaded(row(image.reference.clone(), imported)),
            Err(error) => failed.push(NotLoaded { name, error }),
        }
        for name in other_names {
            if stop.is_cancelled() {
                break;
            }
            image.reference = Some(name.clone());
            match again(store, &image, contents, stop).await {
                Ok(imported) => on_loaded(row(Some(name), imported)),
                Err(error) => failed.push(NotLoaded { name: name.familiar(), error }),
            }
        }
        failed
    }
}

/// An import anew. A store that makes manifests anew wants to see the one that came once more.
async fn again<S: Store>(store: &S, image: &Image, contents: &Arc<Contents>, stop: &CancellationToken) -> Result<Imported, ArchiveError> {
    let mut import = store.import(image.clone()).await?;
    let missing = import.missing().await?;
    bring_all(store, import, contents, &missing, stop).await
}

/// An import from what is missing to its end. Once it is committed it is not stopped.
async fn bring_all<S: Store<Import = I>, I: Import>(
    store: &S,
    import: I,
    contents: &Arc<Contents>,
    missing: &[Descriptor],
    stop: &CancellationToken,
) -> Result<Imported, ArchiveError> {
    tokio::select! {
        brought = bring(store, &import, contents, missing) => brought?,
        () = stop.cancelled() => return Err(ArchiveError::Stopped),
    }
    Ok(import.commit().await?)
}

/// Brings what is missing of an image out of the archive.
async fn bring<S: Store<Import = I>, I: Import>(
    store: &S,
    import: &I,
    contents: &Arc<Contents>,
    missing: &[Descriptor],
) -> Result<(), ArchiveError> {
    let adopts = store.properties().adopts_files;
    for blob in missing {
        let Some(ingest) = import.ingest(blob).await? else { continue };
        let absent = || ArchiveError::BlobMissing(blob.digest);
        if adopts {
            let file = contents.files().remove(&blob.digest).ok_or_else(absent)?;
            ingest.adopt(file).await?;
        } else {
            // It stays staged: a store that keeps layers unpacked wants one again that lies on top of others in the next image.
            let staged = contents.files().get(&blob.digest).map(|file| (file.path().to_owned(), file.size_bytes()));
            let (path, size_bytes) = staged.ok_or_else(absent)?;
            append(ingest, path, size_bytes).await?;
        }
    }
    Ok(())
}

/// What a store that keeps one platform keeps of an image for several, or of one with attestations: what would run here.
fn for_this_host(image: &Image) -> Result<Manifest, ArchiveError> {
    let host = Platform::host();
    let fits = image.manifest_for(&host).filter(|best| best.platform.as_ref().is_some_and(|offered| host.rank(offered).is_some()));
    let images: Vec<&Manifest> = image.manifests.iter().filter(|manifest| manifest.is_image()).collect();
    match (fits, &images[..]) {
        (Some(best), _) => Ok(best.clone()),
        // One for another platform, and its attestations.
        (None, [only]) => Ok((*only).clone()),
        (None, several) => {
            let available = several.iter().filter_map(|manifest| manifest.platform.clone()).collect();
            Err(ImageError::PlatformAbsent { wanted: host, available }.into())
        }
    }
}

/// Reads an image's documents, from the archive where it has them, else from the store.
async fn read_image<S: Store>(
    store: &S,
    contents: &Arc<Contents>,
    reference: Option<Reference>,
    root: Descriptor,
) -> Result<Image, ArchiveError> {
    let mut walk = Walk::new(reference, root, Selection::Present);
    while let Some(document) = walk.next().cloned() {
        let (archive, digest) = (contents.clone(), document.digest);
        let mut bytes = blocking(move || archive.start_of(&digest, CONFIG_BYTES + 1)).await?;
        if bytes.is_none() && document.size_bytes <= CONFIG_BYTES {
            bytes = match store.read(&document, 0..document.size_bytes).await {
                Ok(reader) => Some(reader.all().await?.into()),
                Err(StoreError::BlobMissing(_)) => None,
                Err(error) => return Err(error.into()),
            };
        }
        walk.supply(bytes.as_deref())?;
    }
    Ok(walk.finish()?)
}

fn lost(contents: &Contents, missing: &[Descriptor]) -> HashSet<Digest> {
    let files = contents.files();
    missing.iter().map(|blob| blob.digest).filter(|digest| !files.contains_key(digest)).collect()
}

/// Unpacks every layer that came in the archive, and compares it with the config. A size that the manifest has wrong is found here too.
async fn check_layers(contents: &Arc<Contents>, image: &Image, checked: &mut HashMap<Digest, Digest>) -> Result<(), ArchiveError> {
    for layer in image.manifests.iter().flat_map(|manifest| &manifest.layers) {
        let digest = layer.descriptor.digest;
        let staged = contents.files().get(&digest).map(|file| (file.path().to_owned(), file.size_bytes()));
        let Some((path, size_bytes)) = staged else { continue };
        if size_bytes != layer.descriptor.size_bytes {
            return Err(ArchiveError::Layer { layer: digest, reason: format!("it is {size_bytes} bytes long, the manifest says other") });
        }
        let Some(expected) = layer.diff_id else { continue };
        let found = match checked.get(&digest) {
            Some(found) => *found,
            None => blocking_in(Lane::Unpack, move || diff_id::of(&path, digest, BLOB_BYTES)).await?,
        };
        checked.insert(digest, found);
        if found != expected {
            let archive = contents.clone();
            let first = blocking(move || archive.start_of(&digest, FIRST_BYTES as u64)).await?;
            if let Some(packing) = first.and_then(|first| Foreign::of(&first)) {
                return Err(ArchiveError::LayerPacked { layer: digest, packing });
            }
            return Err(ArchiveError::DiffIdMismatch { layer: digest, expected, found });
        }
    }
    Ok(())
}

/// Feeds a staged file into a store that does not take files over.
async fn append<I: Ingest>(mut ingest: I, path: PathBuf, size_bytes: u64) -> Result<(), ArchiveError> {
    let mut offset = ingest.offset();
    let file = Arc::new(std::fs::File::open(&path).map_err(StoreError::io("open", &path))?);
    while offset < size_bytes {
        let (file, length) = (file.clone(), (size_bytes - offset).min(BLOCK_BYTES));
        let read = blocking(move || {
            let mut block = vec![0; length as usize];
            file.read_exact_at(&mut block, offset).map(|()| block)
        });
        ingest.append(read.await.map_err(StoreError::io("read", &path))?.into()).await?;
        offset += length;
    }
    Ok(ingest.commit().await?)
}
