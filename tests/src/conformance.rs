//! The promises of `agent::store`, as checks that every store passes. Each takes a store with nothing in it.

use agent::store::{Form, Identity, Import, Imported, Ingest, Meter, Query, Store, StoreError};
use bytes::Bytes;
use proto::hash::{RangeHash, RangeHasher};
use proto::image::{ImageError, Selection};
use proto::limits::{BLOCK_BYTES, RANGE_BYTES};
use proto::{Descriptor, Digest, Image, Platform};

use crate::sample::{Packing, Recipe, Sample, noise};

/// Imports a sample, in blocks of odd sizes; says which blobs were written for it.
pub async fn bring<S: Store>(store: &S, sample: &Sample) -> Result<(Imported, Vec<Digest>), StoreError> {
    bring_image(store, sample.image.clone(), sample).await
}

/// Imports an image whose blobs are in `sample`.
pub async fn bring_image<S: Store>(store: &S, image: Image, sample: &Sample) -> Result<(Imported, Vec<Digest>), StoreError> {
    let mut import = store.import(image).await?;
    let mut written = vec![];
    for blob in import.missing().await? {
        if ingest(&import, &blob, &sample.blobs[&blob.digest]).await? {
            written.push(blob.digest);
        }
    }
    Ok((import.commit().await?, written))
}

/// A query, from what a person writes.
pub fn query(text: &str) -> Query {
    Query::parse(text).unwrap()
}

/// All bytes of a blob.
pub async fn content<S: Store>(store: &S, blob: &Descriptor) -> Result<Bytes, StoreError> {
    store.read(blob, 0..blob.size_bytes).await?.all().await
}

/// Blobs stay as they came, and what nothing refers to is collected.
fn is_packed<S: Store>(store: &S) -> bool {
    store.properties().form == Form::Packed
}

async fn ingest<I: Import>(import: &I, blob: &Descriptor, bytes: &Bytes) -> Result<bool, StoreError> {
    let Some(mut ingest) = import.ingest(blob).await? else { return Ok(false) };
    let mut offset = ingest.offset() as usize;
    while offset < bytes.len() {
        let end = (offset + 70_001).min(bytes.len());
        ingest.append(bytes.slice(offset..end)).await?;
        offset = end;
    }
    ingest.commit().await?;
    Ok(true)
}

async fn names<S: Store>(store: &S) -> Vec<Option<String>> {
    store.list().await.unwrap().iter().map(|row| row.reference.as_ref().map(|reference| reference.familiar())).collect()
}

/// What this store shows as the ID of a sample.
pub fn image_id<S: Store>(store: &S, sample: &Sample) -> Digest {
    match store.properties().identity {
        Identity::Config => sample.image_id(),
        Identity::Root => sample.image.root.digest,
    }
}

async fn assert_whole<S: Store>(store: &S, sample: &Sample, query: &Query) {
    let held = store.resolve(query, Selection::All).await.unwrap();
    assert_eq!(held.image, sample.image);
    assert_eq!(held.image_id, image_id(store, sample));
    for blob in held.image.blobs() {
        assert_eq!(content(store, blob).await.unwrap(), sample.blobs[&blob.digest]);
    }
}

/// What comes in is there, under its name and its IDs, byte for byte.
pub async fn round_trip<S: Store>(store: &S) {
    let sample = Sample::small("demo:nautilus", 1);
    let (imported, written) = bring(store, &sample).await.unwrap();
    assert_eq!(imported, Imported { image_id: image_id(store, &sample), replaced: None });
    assert_eq!(written.len(), sample.blobs.len());
    assert_whole(store, &sample, &query("demo:nautilus")).await;
    assert_whole(store, &sample, &query("docker.io/library/demo:nautilus")).await;
    let row = &store.list().await.unwrap()[0];
    assert_eq!((row.image_id, &row.platforms), (image_id(store, &sample), &vec![Platform::host()]));
    assert!(row.complete && row.size_bytes > 0);
    if is_packed(store) {
        // An engine says what its files take, and would have to read all of them to tell the manifest.
        assert_eq!((row.root, row.size_bytes), (sample.image.root.digest, sample.image.size_bytes()));
        assert!(row.tagged_unix_s > 1_700_000_000);
    }
    for id in [image_id(store, &sample).to_string(), image_id(store, &sample).short(), sample.image.root.digest.hex()] {
        let held = store.resolve(&query(&id), Selection::All).await.unwrap();
        assert_eq!((held.image.reference, held.image_id), (None, image_id(store, &sample)));
    }
    let pinned = format!("demo:other@{}", sample.image.root.digest);
    let held = store.resolve(&query(&pinned), Selection::All).await.unwrap();
    assert_eq!(held.image.reference.unwrap().familiar(), "demo:other");
    assert!(matches!(store.resolve(&query("demo:other"), Selection::All).await, Err(StoreError::NotFound(_))));
    assert!(store.room().await.unwrap().iter().all(|room| room.free_bytes > 0));
}

/// The second import finds everything and writes nothing.
pub async fn a_second_import_writes_nothing<S: Store>(store: &S) {
    let sample = Sample::small("demo:v1", 2);
    bring(store, &sample).await.unwrap();
    let mut import = store.import(sample.image.clone()).await.unwrap();
    assert_eq!(import.missing().await.unwrap(), vec![]);
    assert!(import.ingest(&sample.image.root).await.unwrap().is_none());
    assert_eq!(import.commit().await.unwrap(), Imported { image_id: image_id(store, &sample), replaced: None });
    assert_eq!(names(store).await, [Some("demo:v1".to_owned())]);
    let other = Sample::small("demo:v1", 2).named("demo:v2");
    assert_eq!(bring(store, &other).await.unwrap().1, vec![]);
    assert_eq!(names(store).await.len(), 2);
}

/// What was appended before an ingest was dropped is not asked for again.
pub async fn an_ingest_resumes<S: Store>(store: &S) {
    let sample = Sample::small("demo:v1", 3);
    let layer = sample.image.layers()[1].descriptor.clone();
    let bytes = &sample.blobs[&layer.digest];
    {
        let mut import = store.import(sample.image.clone()).await.unwrap();
        import.missing().await.unwrap();
        let mut ingest = import.ingest(&layer).await.unwrap().unwrap();
        assert_eq!(ingest.offset(), 0);
        ingest.append(bytes.slice(..150_000)).await.unwrap();
        assert_eq!(ingest.offset(), 0, "where it began, whatever came since");
    }
    let import = store.import(sample.image.clone()).await.unwrap();
    let mut ingest = import.ingest(&layer).await.unwrap().unwrap();
    let expected = if store.properties().resumable_ingests { 150_000 } else { 0 };
    assert_eq!(ingest.offset(), expected);
    ingest.append(bytes.slice(expected as usize..)).await.unwrap();
    ingest.commit().await.unwrap();
    drop(import);
    let (_, written) = bring(store, &sample).await.unwrap();
    let is_kept = !written.contains(&layer.digest);
    assert!(is_kept || !store.properties().resumable_ingests, "what an import that was given up has committed is kept");
    assert_whole(store, &sample, &query("demo:v1")).await;
}

/// Other bytes than named are refused, and nothing of them stays.
pub async fn wrong_bytes_are_refused<S: Store>(store: &S) {
    let sample = Sample::small("demo:v1", 4);
    let layer = sample.image.layers()[0].descriptor.clone();
    let good = &sample.blobs[&layer.digest];
    let mut wrong = good.to_vec();
    wrong[5_000] ^= 1;
    let mut import = store.import(sample.image.clone()).await.unwrap();
    import.missing().await.unwrap();
    for bytes in [wrong, good[..good.len() - 1].to_vec(), vec![]] {
        let result = ingest(&import, &layer, &bytes.into()).await;
        assert!(matches!(result, Err(StoreError::Corrupt(digest)) if digest == layer.digest), "{result:?}");
    }
    let mut too_long = good.to_vec();
    too_long.push(0);
    assert!(matches!(ingest(&import, &layer, &too_long.into()).await, Err(StoreError::Corrupt(_))));
    assert!(matches!(import.commit().await, Err(StoreError::BlobMissing(_))));
    assert!(store.list().await.unwrap().is_empty());
    assert!(matches!(content(store, &layer).await, Err(StoreError::BlobMissing(_))));
    bring(store, &sample).await.unwrap();
    assert_whole(store, &sample, &query("demo:v1")).await;
}

/// An image that is not what its documents say never gets a name.
pub async fn false_images_are_refused<S: Store>(store: &S) {
    let sample = Sample::small("demo:v1", 5);
    let mut fewer_layers = sample.image.clone();
    fewer_layers.manifests[0].layers.pop();
    let mut other_diff_id = sample.image.clone();
    other_diff_id.manifests[0].layers[0].diff_id = Some(Digest::of(b"other"));
    for image in [fewer_layers, other_diff_id] {
        let result = bring_image(store, image, &sample).await;
        assert!(matches!(result, Err(StoreError::Image(ImageError::Differs(_)))), "{result:?}");
    }
    assert!(store.list().await.unwrap().is_empty());
}

/// Nothing shows before the commit.
pub async fn invisible_before_commit<S: Store>(store: &S) {
    let sample = Sample::small("demo:v1", 6);
    let mut import = store.import(sample.image.clone()).await.unwrap();
    for blob in import.missing().await.unwrap() {
        assert!(ingest(&import, &blob, &sample.blobs[&blob.digest]).await.unwrap());
        assert!(store.list().await.unwrap().is_empty());
        assert!(matches!(store.resolve(&query("demo:v1"), Selection::Present).await, Err(StoreError::NotFound(_))));
    }
    import.commit().await.unwrap();
    assert_whole(store, &sample, &query("demo:v1")).await;
}

/// A name that moves says what it showed before, and what it alone kept is collected.
pub async fn a_name_moves<S: Store>(store: &S) {
    let old = Sample::small("demo:v1", 7);
    let new = Sample::small("demo:v1", 8);
    bring(store, &old).await.unwrap();
    let (imported, _) = bring(store, &new).await.unwrap();
    assert_eq!(imported, Imported { image_id: image_id(store, &new), replaced: Some(image_id(store, &old)) });
    assert_whole(store, &new, &query("demo:v1")).await;
    if !is_packed(store) {
        // Engines keep what has lost its name until they are told to prune.
        assert_eq!(names(store).await, [Some("demo:v1".to_owned()), None]);
        return assert_whole(store, &old.clone().untagged(), &query(&old.image_id().hex())).await;
    }
    assert_eq!(names(store).await, [Some("demo:v1".to_owned())]);
    assert!(matches!(content(store, &old.image.root).await, Err(StoreError::BlobMissing(_))));
    assert!(matches!(store.resolve(&query(&image_id(store, &old).hex()), Selection::All).await, Err(StoreError::NotFound(_))));
}

/// What a lease holds outlives its name, and goes when the lease is over.
pub async fn a_lease_keeps_blobs<S: Store>(store: &S) {
    let sample = Sample::small("demo:v1", 9);
    bring(store, &sample).await.unwrap();
    let held = store.resolve(&query("demo:v1"), Selection::All).await.unwrap();
    let removed = store.remove(&query("demo:v1")).await.unwrap();
    assert_eq!((removed.name.as_str(), removed.freed_bytes), ("demo:v1", 0));
    assert!(store.list().await.unwrap().is_empty());
    for blob in held.image.blobs() {
        assert_eq!(content(store, blob).await.unwrap(), sample.blobs[&blob.digest]);
    }
    let root = held.image.root.clone();
    drop(held);
    bring(store, &Sample::small("other:v1", 10)).await.unwrap();
    assert!(matches!(content(store, &root).await, Err(StoreError::BlobMissing(_))), "the next commit collects what the lease kept");
}

/// Removing frees what nothing else refers to.
pub async fn removal_frees_what_is_not_shared<S: Store>(store: &S) {
    let one = Recipe::new(11, &[100_000]).build("one");
    let mut recipe = Recipe::new(11, &[100_000, 50_000]);
    recipe.note = "two".to_owned();
    let two = recipe.build("two");
    bring(store, &one).await.unwrap();
    let (_, written) = bring(store, &two).await.unwrap();
    let removed = store.remove(&query("two")).await.unwrap();
    let own_bytes: u64 = written.iter().map(|digest| two.blobs[digest].len() as u64).sum();
    assert_eq!(removed.freed_bytes, own_bytes);
    assert_whole(store, &one, &query("one")).await;
    assert!(matches!(store.remove(&query("two")).await, Err(StoreError::NotFound(_))));
}

/// By ID goes what has one name or none; several names are told.
pub async fn removal_by_id<S: Store>(store: &S) {
    let sample = Sample::small("demo:v1", 12);
    let id = query(&image_id(store, &sample).short());
    bring(store, &sample).await.unwrap();
    bring(store, &sample.clone().named("demo:v2")).await.unwrap();
    match store.remove(&id).await {
        Err(StoreError::SeveralNames { names, .. }) => assert_eq!(names.len(), 2),
        other => panic!("{other:?}"),
    }
    // Nor does a digest say which one, where the store finds an image by that of its manifest.
    let pinned = query(&format!("demo@{}", sample.image.root.digest));
    match store.remove(&pinned).await {
        Err(StoreError::SeveralNames { .. } | StoreError::NotFound(_)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(store.list().await.unwrap().len(), 2);
    assert_eq!(store.remove(&query("demo:v2")).await.unwrap().freed_bytes, 0);
    assert_eq!(store.remove(&id).await.unwrap().freed_bytes, sample.image.size_bytes());
    bring(store, &sample.clone().untagged()).await.unwrap();
    assert_eq!(store.remove(&id).await.unwrap().name, image_id(store, &sample).to_string());
    assert!(store.list().await.unwrap().is_empty());
}

/// An ID that starts two images means neither.
pub async fn short_ids_are_ambiguous<S: Store>(store: &S) {
    let mut seen = std::collections::HashMap::new();
    for seed in 0.. {
        let sample = Recipe::new(1_000 + seed, &[10]).build(&format!("demo:{seed}"));
        let prefix = sample.image_id().hex()[..2].to_owned();
        if let Some(other) = seen.insert(prefix.clone(), sample.clone()) {
            bring(store, &sample).await.unwrap();
            bring(store, &other).await.unwrap();
            assert!(matches!(store.resolve(&query(&prefix), Selection::All).await, Err(StoreError::Ambiguous(_))));
            return;
        }
    }
}

/// Ranges that start and end anywhere.
pub async fn ranges_anywhere<S: Store>(store: &S) {
    let size = (2 * BLOCK_BYTES + 12_345) as usize;
    let sample = Recipe::new(13, &[size]).build("demo");
    bring(store, &sample).await.unwrap();
    let layer = sample.image.layers()[0].descriptor.clone();
    let bytes = &sample.blobs[&layer.digest];
    let end = layer.size_bytes;
    for range in [0..0, 0..1, 1..RANGE_BYTES + 1, 77_777..BLOCK_BYTES + 77_779, end - 1..end, end..end, 0..end] {
        let read = store.read(&layer, range.clone()).await.unwrap().all().await.unwrap();
        assert_eq!(read, bytes.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    // A reader that goes away in the middle leaves the store as it was.
    let mut reader = store.read(&layer, 0..end).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
    drop(reader);
    assert!(matches!(content(store, &Descriptor::of("x", b"not here")).await, Err(StoreError::BlobMissing(_))));
}

/// The hashes are those of `RangeHasher`.
pub async fn hashes_are_those_of_the_ranges<S: Store>(store: &S) {
    let sample = Recipe::new(14, &[0, 1, RANGE_BYTES as usize * 3, 200_001]).build("demo");
    bring(store, &sample).await.unwrap();
    for blob in sample.image.blobs() {
        let mut hasher = RangeHasher::default();
        hasher.update(&sample.blobs[&blob.digest]);
        let hashes = store.hashes(blob, &Meter::default()).await.unwrap();
        assert_eq!(hashes[..], hasher.finish().1);
        assert_eq!(hashes.last(), Some(&RangeHash::from(blob.digest)));
    }
    assert!(matches!(store.hashes(&Descriptor::of("x", b"not here"), &Meter::default()).await, Err(StoreError::BlobMissing(_))));
}

/// An image without a name is listed, found by ID, and named later.
pub async fn untagged_images<S: Store>(store: &S) {
    let sample = Sample::small("demo", 15).untagged();
    bring(store, &sample).await.unwrap();
    bring(store, &sample).await.unwrap();
    assert_eq!(names(store).await, [None]);
    assert_whole(store, &sample, &query(&image_id(store, &sample).to_string())).await;
    bring(store, &sample.clone().named("demo:named")).await.unwrap();
    assert_eq!(names(store).await, [Some("demo:named".to_owned())], "the name takes the place of the untagged image");
}

/// One, all and those that are here, of an image for several platforms.
pub async fn several_platforms<S: Store>(store: &S) {
    let recipes = [
        Recipe::new(16, &[50_000]).platform("linux/arm64"),
        Recipe::new(17, &[60_000]).platform("linux/amd64").packed(Packing::Gzip),
        Recipe::new(18, &[70_000]).platform("linux/arm/v7").packed(Packing::Zstd),
    ];
    let sample = Sample::index("multi", &recipes);
    let amd64: Platform = "linux/amd64".parse().unwrap();
    let one = sample.select(Selection::One(amd64.clone()));
    assert_eq!(one.manifests.len(), 1);
    if !is_packed(store) {
        let all = store.import(sample.image.clone()).await.map(drop);
        assert!(matches!(all, Err(StoreError::Unsupported { .. })), "{all:?}");
        assert_eq!(bring_image(store, one.clone(), &sample).await.unwrap().0.image_id, one.manifests[0].config.digest);
        let windows = Selection::One("windows/amd64".parse().unwrap());
        let result = store.resolve(const_query(), windows).await;
        assert!(matches!(result, Err(StoreError::Image(ImageError::PlatformAbsent { .. }))));
        // It comes out with the plain layer, under a manifest of its own.
        let held = store.resolve(const_query(), Selection::One(amd64)).await.unwrap();
        let (manifest, layer) = (&held.image.manifests[0], &one.manifests[0].layers[0]);
        assert_eq!((&manifest.config, manifest.layers[0].diff_id), (&one.manifests[0].config, layer.diff_id));
        assert_eq!(Some(Digest::of(&content(store, &manifest.layers[0].descriptor).await.unwrap())), layer.diff_id);
        return;
    }
    let (imported, written) = bring_image(store, one.clone(), &sample).await.unwrap();
    assert_eq!(written.len(), 4);
    let expected = match store.properties().identity {
        Identity::Config => one.manifests[0].config.digest,
        Identity::Root => one.root.digest,
    };
    assert_eq!(imported.image_id, expected);
    let resolve = |selection| store.resolve(const_query(), selection);
    assert_eq!(resolve(Selection::Present).await.unwrap().image, one);
    assert_eq!(resolve(Selection::One(amd64)).await.unwrap().image, one);
    assert!(matches!(resolve(Selection::All).await, Err(StoreError::Image(ImageError::Absent { .. }))));
    let windows = Selection::One("windows/amd64".parse().unwrap());
    assert!(matches!(resolve(windows).await, Err(StoreError::Image(ImageError::PlatformAbsent { .. }))));
    assert_eq!(store.list().await.unwrap()[0].platforms.len(), 1);

    let (imported, written) = bring(store, &sample).await.unwrap();
    assert_eq!((imported.replaced, written.len()), (None, 6));
    assert_eq!(resolve(Selection::All).await.unwrap().image, sample.image);
    assert_eq!(store.list().await.unwrap()[0].platforms.len(), 3);
    let freed_bytes = store.remove(const_query()).await.unwrap().freed_bytes;
    assert_eq!(freed_bytes, sample.image.size_bytes());
}

fn const_query() -> &'static Query {
    static QUERY: std::sync::LazyLock<Query> = std::sync::LazyLock::new(|| query("multi"));
    &QUERY
}

/// Two imports of one image at once write each blob once.
pub async fn imports_at_once<S: Store>(store: &S) {
    let sample = Recipe::new(19, &[300_000, 300_000, 300_000]).build("demo");
    let (a, b, c) = tokio::join!(bring(store, &sample), bring(store, &sample), bring(store, &sample));
    let written: usize = [a, b, c].map(|result| result.unwrap().1.len()).iter().sum();
    assert_eq!(written, sample.blobs.len());
    assert_whole(store, &sample, &query("demo")).await;
}

/// A layer of no bytes, and an image of no layers.
pub async fn empty_things<S: Store>(store: &S) {
    bring(store, &Recipe::new(20, &[]).build("none")).await.unwrap();
    let empty = Descriptor::of("application/octet-stream", b"");
    let sample = Recipe::new(21, &[0]).build("demo");
    bring(store, &sample).await.unwrap();
    if !is_packed(store) {
        return;
    }
    let mut image = sample.image.clone();
    image.root = empty.clone();
    image.indexes.clear();
    image.manifests[0].descriptor = empty.clone();
    let import = store.import(image).await.unwrap();
    import.ingest(&empty).await.unwrap().unwrap().commit().await.unwrap();
    assert_eq!(content(store, &empty).await.unwrap(), Bytes::new());
    assert_eq!(store.hashes(&empty, &Meter::default()).await.unwrap().len(), 1);
}

/// Names in order, those without one last.
pub async fn a_list_is_sorted<S: Store>(store: &S) {
    bring(store, &Sample::small("x", 22).untagged()).await.unwrap();
    for (i, name) in ["zeta:1", "alpha:2", "quay.io/a/b:1", "alpha:1"].iter().enumerate() {
        bring(store, &Recipe::new(23 + i as u64, &[10]).build(name)).await.unwrap();
    }
    let names: Vec<String> = names(store).await.into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(names, ["alpha:1", "alpha:2", "zeta:1", "quay.io/a/b:1", ""]);
}

/// A staged file is taken over, with its hashes.
pub async fn staged_files_are_adopted<S: Store>(store: &S) {
    if !store.properties().adopts_files {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let staging = agent::staging::Staging::open(directory.path()).unwrap();
    let sample = Sample::small("demo", 30);
    let mut import = store.import(sample.image.clone()).await.unwrap();
    for blob in import.missing().await.unwrap() {
        let mut writer = staging.writer().unwrap();
        writer.write(&sample.blobs[&blob.digest]).unwrap();
        let other = {
            let mut writer = staging.writer().unwrap();
            writer.write(&noise(1, 10)).unwrap();
            writer.finish()
        };
        let ingest = import.ingest(&blob).await.unwrap().unwrap();
        assert!(matches!(ingest.adopt(other).await, Err(StoreError::Corrupt(_))));
        import.ingest(&blob).await.unwrap().unwrap().adopt(writer.finish()).await.unwrap();
    }
    import.commit().await.unwrap();
    assert_whole(store, &sample, &query("demo")).await;
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
/// A plain layer that is here compressed is made here; what came is not believed to be what its image says.
pub async fn other_forms_do_not_travel<S: Store>(store: &S) {
    let plain = Recipe::new(31, &[300_000, 100_000]);
    let mut packed = plain.clone().packed(Packing::Gzip);
    packed.layers[1].1 = Packing::Zstd;
    packed.note = "packed".to_owned();
    bring(store, &packed.build("packed")).await.unwrap();
    let sample = plain.build("plain");
    let (_, written) = bring(store, &sample).await.unwrap();
    let layers = sample.image.layers();
    assert!(layers.iter().all(|layer| !written.contains(&layer.descriptor.digest)), "no layer travels");
    assert_whole(store, &sample, &query("plain")).await;
}
