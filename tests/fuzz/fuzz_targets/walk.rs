//! Attacks the walk from a root to its image with documents that name each other in any way, some of them absent or damaged.
//!
//! Promises: the walk ends, however often a document is named; a damaged document is refused; the image is within the limits of an offer, consists of
//! supplied documents, and survives encoding; the image of one platform is a part of the image of all.
#![no_main]

use std::collections::HashSet;

use fuzz::Choices;
use fuzz::pool::{self, Blob};
use libfuzzer_sys::fuzz_target;
use proto::descriptor::media_type;
use proto::frame::{self, Bounded};
use proto::image::{ImageError, Selection, Walk};
use proto::limits::{FRAME, IMAGE_MANIFESTS};
use proto::peer::Offer;
use proto::{Digest, Image, Platform};

/// Most steps of a walk. A walk has at most a few times as many as an image has manifests; absent documents are steps, too.
const MOST_STEPS: usize = 8 * IMAGE_MANIFESTS;

fn walk(
    pool: &[Blob],
    root: &Blob,
    selection: Selection,
    absent: &HashSet<Digest>,
    damaged: &HashSet<Digest>,
) -> Result<Image, ImageError> {
    let mut walk = Walk::new(None, root.descriptor.clone(), selection.clone());
    let (mut supplied, mut steps) = (HashSet::new(), 0);
    while let Some(wanted) = walk.next() {
        let digest = wanted.digest;
        steps += 1;
        assert!(steps <= MOST_STEPS, "it does not end");
        let blob = pool.iter().find(|blob| blob.descriptor.digest == digest && !absent.contains(&digest));
        let mut bytes = blob.map(|blob| blob.bytes.clone());
        if damaged.contains(&digest) {
            bytes = bytes.map(|bytes| bytes.into_iter().chain([b' ']).collect());
        }
        let taken = walk.supply(bytes.as_deref());
        assert!(taken.is_err() || bytes.is_none() || !damaged.contains(&digest), "a damaged document is taken");
        taken?;
        supplied.extend(bytes.map(|_| digest));
    }
    let image = walk.finish()?;
    assert!(image.within_limits(), "no host would take the offer");
    assert!(image.documents().iter().all(|document| supplied.contains(&document.digest)));
    assert!(matches!(selection, Selection::One(_)) <= (image.manifests.len() == 1));
    for manifest in &image.manifests {
        let has_diff_ids = media_type::is_config(&manifest.config.media_type);
        assert!(manifest.layers.iter().all(|layer| layer.diff_id.is_some() == has_diff_ids));
        if let (Selection::One(wanted), Some(platform)) = (&selection, &manifest.platform) {
            assert!(wanted.rank(platform).is_some(), "{platform} does not run on {wanted}");
        }
    }
    let offer = Offer { image, dry_run: false };
    if let Ok(framed) = frame::encode(&proto::peer::Request::Offer(offer.clone()), FRAME) {
        let read = frame::decode::<proto::peer::Request>(&framed[frame::PREFIX_BYTES..]);
        assert_eq!(read, Ok(proto::peer::Request::Offer(offer.clone())));
    }
    Ok(offer.image)
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let pool = pool::pool(&mut choices);
    let root = pool::any(&mut choices, &pool);
    let some = |choices: &mut Choices<'_>| -> HashSet<Digest> {
        (0..choices.below(4).saturating_sub(1)).map(|_| pool::any(choices, &pool).descriptor.digest).collect()
    };
    let (absent, damaged) = (some(&mut choices), some(&mut choices));
    let all = walk(&pool, root, Selection::All, &absent, &damaged);
    let present = walk(&pool, root, Selection::Present, &absent, &damaged);
    if let Ok(all) = &all {
        assert_eq!(present.as_ref(), Ok(all), "nothing is absent");
    }
    for platform in ["linux/amd64", "linux/arm64"] {
        let platform: Platform = platform.parse().expect("a platform");
        let one = walk(&pool, root, Selection::One(platform), &absent, &damaged);
        if let (Ok(all), Ok(one)) = (&all, &one) {
            assert!(all.manifests.contains(&one.manifests[0]));
        }
    }
});
