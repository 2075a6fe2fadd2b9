use proto::hash::RangeHasher;
use proto::limits::RANGE_BYTES;

use super::*;

fn sample(size: usize) -> (Vec<u8>, Descriptor, Vec<proto::hash::RangeHash>) {
    let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 253) as u8).collect();
    let mut hasher = RangeHasher::default();
    hasher.update(&bytes);
    let (_, hashes) = hasher.finish();
    (bytes.clone(), Descriptor::of("application/octet-stream", &bytes), hashes)
}

/// The right to bring it, for a session of one host.
async fn claim(staging: &Arc<Staging>, blob: &Descriptor) -> StagedBlob {
    staging.claim(blob, Source::Any, host("a")).await.unwrap()
}

fn host(name: &str) -> HostId {
    HostId::of_public_key(name.as_bytes())
}

fn put(staged: &StagedBlob, bytes: &[u8], hashes: &[proto::hash::RangeHash], index: usize) {
    let range = RANGE_BYTES as usize;
    let before = if index == 0 { proto::hash::RangeHash::START } else { hashes[index - 1] };
    let end = ((index + 1) * range).min(bytes.len());
    staged.put((index * range) as u64, &bytes[index * range..end], before, &hashes[index..=index]).unwrap().unwrap();
}

/// Makes the files of a blob so many hours old.
fn written_before(root: &Path, blob: &Descriptor, hours: u64) {
    for end in ["data", "map"] {
        let file = std::fs::File::options().write(true).open(root.join(format!("{}.{end}", stem(blob, Source::Any)))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).unwrap();
    }
}

#[tokio::test]
async fn ranges_in_any_order_become_the_blob() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    for size in [0, 1, 65_536, 300_000] {
        let (bytes, blob, hashes) = sample(size);
        let staged = claim(&staging, &blob).await;
        for index in (0..hashes.len()).rev() {
            put(&staged, &bytes, &hashes, index);
        }
        assert!(staged.missing().is_empty());
        assert_eq!(staged.reader().prefix(0).await, Some(size as u64));
        let file = staged.finish().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
        assert_eq!(file.hashes(), hashes);
        drop(file);
        // Until a store has it, it can be gone on from.
        let again = claim(&staging, &blob).await;
        assert_eq!((again.verified_bytes(), again.missing()), (size as u64, vec![]));
        again.finish().unwrap().stored();
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing stays behind");
}

/// What a blob is said to be costs nothing: memory and time go with what was verified.
#[tokio::test]
async fn a_claimed_size_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (bytes, blob, hashes) = sample(3 * RANGE_BYTES as usize);
    let blob = Descriptor { size_bytes: proto::limits::BLOB_BYTES, ..blob };
    let far = proto::limits::BLOB_BYTES / 2;
    let staging = Staging::open(directory.path()).unwrap();
    {
        let staged = claim(&staging, &blob).await;
        assert_eq!(staged.missing(), vec![0..proto::limits::BLOB_BYTES]);
        put(&staged, &bytes, &hashes, 0);
        // A range far from all others; hashes that fit its place cannot be made up, so the map is told directly.
        let mut map = map::Map::open(directory.path().join(format!("{}.map", stem(&blob, Source::Any))), blob.size_bytes).unwrap();
        map.record((far / RANGE_BYTES) as usize, &[(hashes[0], hashes[1])]).unwrap();
    }
    assert_eq!(staging.staged_bytes(&blob, Source::Any).unwrap(), 2 * RANGE_BYTES);
    let staged = claim(&staging, &blob).await;
    assert_eq!(staged.missing(), vec![RANGE_BYTES..proto::limits::BLOB_BYTES]);
}

/// Of one source alone: what others bring of the same blob is not its own.
#[tokio::test]
async fn sources_that_are_parted_do_not_share() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(200_000);
    let [one, other] = [b"one", b"two"].map(|key| Source::Only(HostId::of_public_key(key)));
    let (first, second) = (staging.claim(&blob, one, host("a")).await.unwrap(), staging.claim(&blob, other, host("b")).await.unwrap());
    let together = claim(&staging, &blob).await;
    put(&first, &bytes, &hashes, 0);
    assert_eq!([&first, &second, &together].map(StagedBlob::verified_bytes), [RANGE_BYTES, 0, 0]);
    assert!(!first.was_joined());
    assert_eq!(staging.staged_bytes(&blob, one).unwrap(), RANGE_BYTES);
    assert_eq!(staging.staged_bytes(&blob, Source::Any).unwrap(), 0);
    drop((first, second, together));
    assert_eq!(staging.unclaimed(std::slice::from_ref(&blob)).unwrap(), Unclaimed::default(), "all of them are this blob");
    assert!(!staging.is_parted(&blob.digest));
    staging.part_sources(blob.digest);
    assert!(staging.is_parted(&blob.digest));
}

#[tokio::test]
async fn a_restart_keeps_what_was_verified_and_drops_what_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let (bytes, blob, hashes) = sample(400_000);
    {
        let staging = Staging::open(directory.path()).unwrap();
        let staged = claim(&staging, &blob).await;
        for index in [0, 1, 3] {
            put(&staged, &bytes, &hashes, index);
        }
    }
    // A power cut: the map is ahead of the data.
    let data = std::fs::OpenOptions::new().write(true).open(directory.path().join(format!("{}.data", stem(&blob, Source::Any)))).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&data, &[0; 100], RANGE_BYTES + 5).unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    assert_eq!(staging.staged_bytes(&blob, Source::Any).unwrap(), 3 * RANGE_BYTES);
    let staged = claim(&staging, &blob).await;
    assert_eq!(staged.missing(), vec![RANGE_BYTES..3 * RANGE_BYTES, 4 * RANGE_BYTES..400_000]);
    assert_eq!(staged.verified_bytes(), 2 * RANGE_BYTES);
    drop(staged);
    assert_eq!(staging.staged_bytes(&blob, Source::Any).unwrap(), 2 * RANGE_BYTES, "the map says so, too");
    assert_eq!(claim(&staging, &blob).await.verified_bytes(), 2 * RANGE_BYTES);
}

#[tokio::test]
async fn wrong_bytes_and_lying_hashes_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(200_000);
    let staged = claim(&staging, &blob).await;
    let mut wrong = bytes.clone();
    wrong[70_000] ^= 1;
    assert_eq!(staged.put(0, &wrong, proto::hash::RangeHash::START, &hashes).unwrap(), Err(blob::Mismatch));
    assert_eq!(staged.reader().prefix(0).await, Some(RANGE_BYTES), "what stands before the wrong byte is kept");
    // A source that makes up hashes for its own bytes passes range by range until the last one, which has to end in the digest.
    let mut liar = RangeHasher::default();
    liar.update(&wrong);
    let (_, wrong_hashes) = liar.finish();
    assert_eq!(staged.put(0, &wrong, proto::hash::RangeHash::START, &wrong_hashes).unwrap(), Err(blob::Mismatch));
    assert_eq!(staged.missing(), vec![3 * RANGE_BYTES..200_000]);
    // With the right end of somebody else it fails as a whole.
    let end = 3 * RANGE_BYTES;
    staged.put(end, &bytes[end as usize..], hashes[2], &hashes[3..]).unwrap().unwrap();
    assert!(matches!(staged.finish(), Err(StoreError::Corrupt(digest)) if digest == blob.digest));
    assert!(claim(&staging, &blob).await.verified_bytes() == 0);
}

#[tokio::test]
async fn sessions_bring_a_blob_together_and_one_hands_it_over() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(300_000);
    let one = claim(&staging, &blob).await;
    let other = claim(&staging, &blob).await;
    assert!(one.was_joined() && other.was_joined());
    // What one of them fetches the other leaves alone, until it is there.
    let (range, fetching) = one.turn(0..300_000).await.unwrap();
    assert_eq!(range, 0..300_000);
    for index in 0..hashes.len() {
        put(&one, &bytes, &hashes, index);
    }
    drop(fetching);
    assert!(other.turn(0..300_000).await.is_none());
    assert_eq!((one.verified_bytes(), other.verified_bytes()), (300_000, 300_000));
    let file = one.finish().unwrap();
    // It is on its way into the store: nothing is written to it any more.
    put(&other, &bytes, &hashes, 0);
    assert!(matches!(other.finish(), Err(StoreError::Gone(digest)) if digest == blob.digest));
    let waiting = tokio::spawn({
        let (staging, blob) = (staging.clone(), blob.clone());
        async move { claim(&staging, &blob).await.verified_bytes() }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    file.stored();
    assert_eq!(waiting.await.unwrap(), 0);
    assert!(staging.opening.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_range_that_comes_slowly_is_fetched_from_its_end_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(64 * RANGE_BYTES as usize);
    let slow = claim(&staging, &blob).await;
    let fast = claim(&staging, &blob).await;
    let (_, fetching) = slow.turn(0..blob.size_bytes).await.unwrap();
    put(&slow, &bytes, &hashes, 0);
    let (part, rest) = fast.turn(0..blob.size_bytes).await.unwrap();
    assert_eq!(part.end, blob.size_bytes);
    assert!(part.start > 16 * RANGE_BYTES && part.start < 48 * RANGE_BYTES, "{part:?}");
    for index in (part.start / RANGE_BYTES) as usize..hashes.len() {
        put(&fast, &bytes, &hashes, index);
    }
    drop(rest);
    // And again, until nothing is left to wait for.
    let (next, _) = fast.turn(0..blob.size_bytes).await.unwrap();
    assert!(next.end == part.start && next.start > 0, "{next:?}");
    drop(fetching);
    assert_eq!(slow.turn(0..blob.size_bytes).await.unwrap().0.start, RANGE_BYTES);
}

#[tokio::test(start_paused = true)]
async fn of_what_comes_slowly_the_second_half_is_fetched_as_well_and_a_small_rest_as_a_whole() {
    // How many ranges, how many of them are there, and the first one that the other session fetches.
    for (ranges, there, first) in [(24, 8, 8), (25, 8, 16)] {
        let directory = tempfile::tempdir().unwrap();
        let staging = Staging::open(directory.path()).unwrap();
        let (bytes, blob, hashes) = sample(ranges * RANGE_BYTES as usize);
        let slow = claim(&staging, &blob).await;
        let fast = claim(&staging, &blob).await;
        (0..there).for_each(|index| put(&slow, &bytes, &hashes, index));
        let _fetching = slow.turn(0..blob.size_bytes).await.unwrap();
        let (part, _) = fast.turn(0..blob.size_bytes).await.unwrap();
        assert_eq!(part, first * RANGE_BYTES..blob.size_bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn what_would_be_there_within_five_seconds_is_left_to_the_session_that_fetches_it() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(6 * RANGE_BYTES as usize);
    let one = claim(&staging, &blob).await;
    let other = claim(&staging, &blob).await;
    let _fetching = one.turn(0..blob.size_bytes).await.unwrap();
    let begun = tokio::time::Instant::now();
    let comes = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        put(&one, &bytes, &hashes, 0);
        put(&one, &bytes, &hashes, 1);
    };
    let (turn, ()) = tokio::join!(other.turn(0..blob.size_bytes), comes);
    assert_eq!(turn.unwrap().0, 2 * RANGE_BYTES..blob.size_bytes);
    assert_eq!(begun.elapsed().as_secs(), 2, "a third in the first second, nothing in the next ones");
}

#[tokio::test]
async fn a_false_size_is_another_blob() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (_, blob, _) = sample(100_000);
    let _liar = claim(&staging, &Descriptor { size_bytes: 7, ..blob.clone() }).await;
    assert!(!claim(&staging, &blob).await.was_joined());
}

#[tokio::test]
async fn what_nobody_brings_goes_oldest_first_when_room_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let mut blobs = vec![];
    for size in [200_000, 200_001, 200_002, 200_003] {
        let (bytes, blob, hashes) = sample(size);
        put(&claim(&staging, &blob).await, &bytes, &hashes, 0);
        written_before(directory.path(), &blob, 300_000 - size as u64);
        blobs.push(blob);
    }
    let held = claim(&staging, &blobs[0]).await;
    let unclaimed = staging.unclaimed(&[]).unwrap();
    assert_eq!(unclaimed.blobs, 3);
    assert!(unclaimed.bytes >= 3 * RANGE_BYTES, "{unclaimed:?}");
    let freed_bytes = staging.reclaim(1, &blobs[1..2]).unwrap();
    assert!(freed_bytes > 0);
    let staged = |blob: &Descriptor| staging.staged_bytes(blob, Source::Any).unwrap() > 0;
    // The oldest of those that nobody holds or wants.
    assert_eq!(blobs.iter().map(staged).collect::<Vec<_>>(), [true, true, false, true]);
    drop(held);
    // A session has come for it after it was found to be nobody's.
    let found = staging.unclaimed_but(&blobs[1..]).unwrap();
    let claimed = claim(&staging, &blobs[0]).await;
    assert_eq!(staging.remove_unclaimed(&found).unwrap(), 0);
    assert!(staged(&blobs[0]));
    drop(claimed);
    staging.reclaim(u64::MAX, &[]).unwrap();
    assert_eq!(staging.unclaimed(&[]).unwrap(), Unclaimed::default());
}

#[tokio::test]
async fn old_bytes_go_and_held_ones_stay() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (_, blob, _) = sample(100);
    let held = claim(&staging, &blob).await;
    staging.sweep(Duration::ZERO).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    drop(held);
    staging.sweep(Duration::ZERO).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_was_not_written_to_for_a_day_goes() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    for (hours, files) in [(23, 2), (25, 0)] {
        let (_, blob, _) = sample(100);
        drop(claim(&staging, &blob).await);
        written_before(directory.path(), &blob, hours);
        staging.sweep_old().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), files, "{hours} hours");
    }
}

#[tokio::test]
async fn a_blob_is_known_as_long_as_somebody_brings_it_whatever_else_is_claimed() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let blobs = [100, 101, 102].map(|size| sample(size).1);
    let held = (claim(&staging, &blobs[0]).await, claim(&staging, &blobs[1]).await);
    assert!(claim(&staging, &blobs[0]).await.was_joined());
    drop(held);
    let _last = claim(&staging, &blobs[2]).await;
    assert_eq!(staging.opened().len(), 1, "nothing is left of the others");
}

#[tokio::test]
async fn files_that_go_meanwhile_are_no_error_and_others_that_cannot_be_removed_are() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (_, blob, _) = sample(100);
    drop(claim(&staging, &blob).await);
    let data = directory.path().join(format!("{}.data", stem(&blob, Source::Any)));
    let found = staging.unclaimed_but(&[]).unwrap();
    std::fs::remove_file(&data).unwrap();
    staging.remove_unclaimed(&found).unwrap();
    std::fs::create_dir(&data).unwrap();
    assert!(matches!(staging.reclaim(u64::MAX, &[]), Err(StoreError::Io { .. })));
}

#[test]
fn a_file_that_is_listed_and_gone_is_passed_over_and_one_that_cannot_be_looked_at_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, directory.path().join(name)).unwrap();
    link("nothing", "gone.data");
    assert_eq!(staging.unclaimed(&[]).unwrap(), Unclaimed::default());
    link("loop.data", "loop.data");
    assert!(matches!(staging.unclaimed(&[]), Err(StoreError::Io { .. })));
    let (_, blob, _) = sample(100);
    assert_eq!(staging.staged_bytes(&blob, Source::Any).unwrap(), 0);
    let map = format!("{}.map", stem(&blob, Source::Any));
    link(&map, &map);
    assert!(matches!(staging.staged_bytes(&blob, Source::Any), Err(StoreError::Io { .. })));
}

#[tokio::test]
async fn what_a_store_could_not_sync_has_to_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(100);
    let staged = claim(&staging, &blob).await;
    put(&staged, &bytes, &hashes, 0);
    staged.finish().unwrap().lost();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn bytes_whose_digest_is_not_known_are_a_file_for_as_long_as_somebody_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(100_000);
    let mut writer = staging.writer().unwrap();
    bytes.chunks(30_000).for_each(|bytes| writer.write(bytes).unwrap());
    let file = writer.finish();
    assert_eq!((file.digest(), file.size_bytes(), file.hashes()), (blob.digest, blob.size_bytes, &hashes[..]));
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    drop(file);
    staging.writer().unwrap().write(&bytes).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "finished or not");
}

#[tokio::test]
async fn a_reader_follows_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let staging = Staging::open(directory.path()).unwrap();
    let (bytes, blob, hashes) = sample(300_000);
    assert!(staging.reader(&blob).is_none());
    let staged = claim(&staging, &blob).await;
    let reader = staging.reader(&blob).unwrap();
    put(&staged, &bytes, &hashes, 2);
    assert_eq!(reader.available(2 * RANGE_BYTES, 1 << 20).await, Some(RANGE_BYTES));
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move { (reader.available(0, 1 << 20).await, reader.prefix(0).await) }
    });
    for index in [1, 0] {
        put(&staged, &bytes, &hashes, index);
    }
    assert!(matches!(waiting.await.unwrap(), (Some(_), Some(prefix)) if prefix == 3 * RANGE_BYTES));
    assert_eq!(reader.hashes(RANGE_BYTES..3 * RANGE_BYTES).unwrap(), (hashes[0], hashes[1..3].to_vec()));
    assert!(reader.hashes(0..300_000).is_none());
    // What has not come will not come any more; what has is still there.
    staged.discard();
    drop(staged);
    assert_eq!(reader.available(3 * RANGE_BYTES, 1 << 20).await, None);
    assert_eq!(reader.read(0..RANGE_BYTES).unwrap(), bytes[..RANGE_BYTES as usize]);
    assert!(staging.reader(&blob).is_some(), "as long as somebody reads");
}
