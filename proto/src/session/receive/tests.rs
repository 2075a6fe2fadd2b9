use proptest::prelude::*;

use super::*;
use crate::{Layer as ImageLayer, Manifest};

fn blob(name: &str, size_bytes: u64) -> Descriptor {
    Descriptor { media_type: "x".to_owned(), digest: Digest::of(name.as_bytes()), size_bytes }
}

fn offer(layers: &[u64], dry_run: bool) -> Offer {
    let layers = layers.iter().enumerate().map(|(i, size)| ImageLayer { descriptor: blob(&format!("layer {i}"), *size), diff_id: None });
    let manifest = Manifest { descriptor: blob("manifest", 500), platform: None, config: blob("config", 900), layers: layers.collect() };
    let image = Image { reference: None, root: blob("manifest", 500), indexes: vec![], manifests: vec![manifest] };
    Offer { image, dry_run }
}

fn missing(offer: &Offer) -> Vec<Missing> {
    let missing = |blob: &Descriptor| Missing { digest: blob.digest, size_bytes: blob.size_bytes, staged_bytes: 0 };
    offer.image.blobs().into_iter().map(missing).collect()
}

fn actions(session: &mut Receive) -> Vec<Action> {
    std::iter::from_fn(|| session.poll()).collect()
}

#[test]
fn an_image_that_is_there_needs_no_fetch() {
    let mut session = Receive::new(&offer(&[10, 20], false));
    session.handle(Input::Admitted { missing: vec![] }).unwrap();
    assert_eq!(actions(&mut session), [Action::Want(Want { missing: vec![] }), Action::CheckDocuments]);
    session.handle(Input::DocumentsChecked).unwrap();
    assert_eq!(actions(&mut session), [Action::Commit]);
    session.handle(Input::Committed).unwrap();
    assert_eq!(actions(&mut session), [Action::Finish(Ok(()))]);
}

#[test]
fn a_dry_run_ends_with_the_plan() {
    let offer = offer(&[10], true);
    let mut session = Receive::new(&offer);
    session.handle(Input::Admitted { missing: missing(&offer) }).unwrap();
    assert_eq!(actions(&mut session), [Action::Want(Want { missing: missing(&offer) }), Action::Finish(Ok(()))]);
}

#[test]
fn nothing_is_fetched_before_the_documents_are_checked() {
    let offer = offer(&[10], false);
    let mut session = Receive::new(&offer);
    session.handle(Input::Admitted { missing: missing(&offer) }).unwrap();
    assert_eq!(actions(&mut session).len(), 3, "want, manifest, config");
    assert!(session.handle(Input::DocumentsChecked).is_err());
    session.handle(Input::DocumentFetched(offer.image.root.digest)).unwrap();
    assert_eq!(actions(&mut session), []);
    session.handle(Input::DocumentFetched(offer.image.root.digest)).unwrap();
    assert_eq!(actions(&mut session), [Action::CheckDocuments]);
    assert!(session.handle(Input::DocumentFetched(offer.image.root.digest)).is_err(), "one more than there are");
}

#[test]
fn large_layers_are_fetched_in_extents_at_their_boundaries() {
    let cut: Vec<_> = extents(5..EXTENT_BYTES * 2 + 1, EXTENT_BYTES).collect();
    assert_eq!(cut, [5..EXTENT_BYTES, EXTENT_BYTES..EXTENT_BYTES * 2, EXTENT_BYTES * 2..EXTENT_BYTES * 2 + 1]);
    assert!(extents(0..0, EXTENT_BYTES).eq(std::iter::once(0..0)));
}

#[test]
fn a_failure_ends_it_at_once() {
    let offer = offer(&[10], false);
    let mut session = Receive::new(&offer);
    session.handle(Input::Admitted { missing: missing(&offer) }).unwrap();
    session.handle(Input::Failed(Refusal::Cancelled)).unwrap();
    assert_eq!(actions(&mut session), [Action::Finish(Err(Refusal::Cancelled))]);
    session.handle(Input::Committed).unwrap();
    assert_eq!(actions(&mut session), []);
}

/// A session that fetches the three extents of its only layer.
fn fetching() -> (Receive, Digest) {
    let offer = offer(&[3 * EXTENT_BYTES], false);
    let layer = offer.image.layers()[0].descriptor.digest;
    let mut session = Receive::new(&offer);
    session.handle(Input::Admitted { missing: missing(&offer) }).unwrap();
    for document in offer.image.documents() {
        session.handle(Input::DocumentFetched(document.digest)).unwrap();
    }
    session.handle(Input::DocumentsChecked).unwrap();
    session.handle(Input::Claimed { digest: layer, missing: std::iter::once(0..3 * EXTENT_BYTES).collect() }).unwrap();
    assert_eq!(actions(&mut session).iter().filter(|action| matches!(action, Action::Fetch { .. })).count(), 3);
    (session, layer)
}

#[test]
fn extents_end_after_their_layer_was_stored_elsewhere() {
    let (mut session, layer) = fetching();
    session.handle(Input::StoredElsewhere(layer)).unwrap();
    assert_eq!(actions(&mut session), [Action::Commit]);
    session.handle(Input::Fetched { digest: layer }).unwrap();
    session.handle(Input::Unfetched { digest: layer, range: 0..EXTENT_BYTES }).unwrap();
    assert_eq!(actions(&mut session), [], "it is committed once, and nothing is fetched again");
    session.handle(Input::Committed).unwrap();
    assert_eq!(actions(&mut session), [Action::Finish(Ok(()))]);
}

#[test]
fn what_is_refused_changes_nothing() {
    let (mut session, layer) = fetching();
    let other = Digest::of(b"other");
    for _ in 0..3 {
        assert!(session.handle(Input::Fetched { digest: other }).is_err());
        assert!(session.handle(Input::Unfetched { digest: other, range: 0..1 }).is_err());
    }
    for _ in 0..3 {
        session.handle(Input::Fetched { digest: layer }).unwrap();
    }
    assert_eq!(actions(&mut session), [Action::Store(layer)]);
    assert!(session.handle(Input::Fetched { digest: layer }).is_err(), "there was no fourth one");
}

proptest! {
    /// Whatever the order in which things end, and however often an extent fails: every layer is claimed once, stored once, never more is under way
    /// than allowed, and the session commits.
    #[test]
    fn every_schedule_commits(sizes in proptest::collection::vec(0..EXTENT_BYTES * 3, 0..8), choices in proptest::collection::vec(any::<u16>(), 200..400)) {
        let offer = offer(&sizes, false);
        let mut session = Receive::new(&offer);
        session.handle(Input::Admitted { missing: missing(&offer) }).unwrap();
        let mut pending: Vec<Action> = vec![];
        let mut choices = choices.into_iter().cycle();
        let (mut stored, mut faults, mut finished) = (0, 0, None);
        for _ in 0..2000 {
            pending.extend(actions(&mut session));
            let fetching = pending.iter().filter(|action| matches!(action, Action::Fetch { .. })).count();
            prop_assert!(fetching <= EXTENTS_AT_ONCE);
            if pending.is_empty() {
                break;
            }
            let choice = choices.next().unwrap();
            let input = match pending.swap_remove(usize::from(choice) % pending.len()) {
                Action::Want(_) => continue,
                Action::FetchDocument(document) => Input::DocumentFetched(document.digest),
                Action::CheckDocuments => Input::DocumentsChecked,
                Action::Claim(layer) if choice % 7 == 0 => { stored += 1; Input::StoredElsewhere(layer.digest) }
                Action::Claim(layer) => Input::Claimed { digest: layer.digest, missing: std::iter::once(0..layer.size_bytes).collect() },
                Action::Fetch { digest, range } if choice % 5 == 0 && faults < 50 => { faults += 1; Input::Unfetched { digest, range } }
                Action::Fetch { digest, .. } => Input::Fetched { digest },
                Action::Store(digest) => { stored += 1; Input::Stored(digest) }
                Action::Commit => Input::Committed,
                Action::Finish(result) => { finished = Some(result); continue }
            };
            session.handle(input).unwrap();
        }
        prop_assert_eq!(finished, Some(Ok(())));
        prop_assert_eq!(stored, sizes.len());
    }
}
