//! Both machines of a transfer, told anything in any order: they refuse or go on, keep to their limits, and end.
#![no_main]

use std::collections::HashSet;

use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use proto::job::{Fault, Trouble};
use proto::limits::{EXTENT_BYTES, EXTENTS_AT_ONCE};
use proto::peer::{Answer, Committed, Missing, Offer, Progress, Refusal, Want};
use proto::session::receive::{Action, Input};
use proto::session::send::Step;
use proto::session::{Receive, Send};
use proto::{Descriptor, Digest, Image, Layer, Manifest};

fn blob(number: u8) -> Descriptor {
    let size_bytes = u64::from(number % 5) * EXTENT_BYTES / 2 + u64::from(number);
    Descriptor { media_type: String::new(), digest: Digest::of(&[number]), size_bytes }
}

/// An image of up to seven blobs; layers may be the same, or the same as a document.
fn offer(bytes: &mut Choices<'_>) -> Offer {
    let layers = (0..bytes.byte() % 6).map(|_| Layer { descriptor: blob(bytes.byte() % 8), diff_id: None }).collect();
    let manifest = Manifest { descriptor: blob(100), platform: None, config: blob(101), layers };
    Offer { image: Image { reference: None, root: blob(100), indexes: vec![], manifests: vec![manifest] }, dry_run: bytes.byte() % 16 == 1 }
}

fn any_blob(bytes: &mut Choices<'_>) -> Descriptor {
    match bytes.byte() % 10 {
        8 => blob(100),
        9 => blob(101),
        number => blob(number),
    }
}

fn missing(bytes: &mut Choices<'_>) -> Vec<Missing> {
    let one = |blob: Descriptor| Missing { digest: blob.digest, size_bytes: blob.size_bytes, staged_bytes: 0 };
    (0..bytes.byte() % 9).map(|_| one(any_blob(bytes))).collect()
}

/// The answer to an open action, or the news that a layer is stored elsewhere while it is fetched, and true; or anything, and false.
fn input(bytes: &mut Choices<'_>, open: &mut Vec<Action>, elsewhere: &mut HashSet<Digest>) -> (Input, bool) {
    let choice = bytes.byte();
    if choice & 0x80 == 0 && !open.is_empty() {
        let at = usize::from(bytes.byte()) % open.len();
        if let (Action::Fetch { digest, .. }, 5) = (&open[at], choice % 8)
            && elsewhere.insert(*digest)
        {
            return (Input::StoredElsewhere(*digest), true);
        }
        let answer = match open.swap_remove(at) {
            Action::FetchDocument(document) => Input::DocumentFetched(document.digest),
            Action::CheckDocuments => Input::DocumentsChecked,
            Action::Claim(layer) => Input::Claimed { digest: layer.digest, missing: std::iter::once(0..layer.size_bytes).collect() },
            Action::Fetch { digest, range } if choice % 4 == 1 => Input::Unfetched { digest, range },
            Action::Fetch { digest, .. } => Input::Fetched { digest },
            Action::Store(digest) => Input::Stored(digest),
            Action::Commit => Input::Committed,
            Action::Want(_) | Action::Finish(_) => Input::Failed(Refusal::Cancelled),
        };
        return (answer, true);
    }
    let digest = any_blob(bytes).digest;
    let anything = match choice % 10 {
        0 => Input::Admitted { missing: missing(bytes) },
        1 => Input::DocumentFetched(digest),
        2 => Input::DocumentsChecked,
        3 => Input::Claimed { digest, missing: vec![] },
        4 => Input::StoredElsewhere(digest),
        5 => Input::Fetched { digest },
        6 => Input::Unfetched { digest, range: 0..u64::from(bytes.byte()) },
        7 => Input::Stored(digest),
        8 => Input::Committed,
        _ => Input::Failed(Refusal::Busy),
    };
    (anything, false)
}

fn receive(bytes: &mut Choices<'_>) {
    let offer = offer(bytes);
    let mut machine = Receive::new(&offer);
    let (mut open, mut claimed, mut elsewhere) = (vec![], HashSet::new(), HashSet::new());
    let (mut finished, mut honest) = (0, true);
    if bytes.byte() % 8 > 0 {
        let all = |blob: &Descriptor| Missing { digest: blob.digest, size_bytes: blob.size_bytes, staged_bytes: 0 };
        let _ = machine.handle(Input::Admitted { missing: offer.image.blobs().into_iter().map(all).collect() });
    }
    while !bytes.is_empty() {
        while let Some(action) = machine.poll() {
            match action {
                Action::Want(_) => {}
                Action::Finish(_) => finished += 1,
                Action::Claim(layer) => {
                    assert!(claimed.insert(layer.digest), "claimed twice");
                    open.push(Action::Claim(layer));
                }
                action => open.push(action),
            }
        }
        assert!(finished <= 1);
        // Limits hold as long as whoever drives the machine does not lie to it: nobody else can.
        if honest {
            let count = |fits: fn(&Action) -> bool| open.iter().filter(|action| fits(action)).count();
            assert!(count(|action| matches!(action, Action::Claim(_))) <= 1, "two sessions could wait for each other");
            assert!(count(|action| matches!(action, Action::Fetch { .. })) <= EXTENTS_AT_ONCE);
        }
        let (input, answers) = input(bytes, &mut open, &mut elsewhere);
        let taken = machine.handle(input).is_ok();
        assert!(taken || !answers || !honest, "an answer is refused");
        honest &= answers || !taken;
    }
    // Whatever was before: this ends it, unless it has ended.
    let _ = machine.handle(Input::Failed(Refusal::Cancelled));
    let ends = std::iter::from_fn(|| machine.poll()).filter(|action| matches!(action, Action::Finish(_))).count();
    assert_eq!(finished + ends, 1);
}

fn send(bytes: &mut Choices<'_>) {
    let offer = offer(bytes);
    let mut machine = Send::new(&offer.image, offer.dry_run);
    let mut ended = false;
    while !bytes.is_empty() {
        let blob = any_blob(bytes);
        let digest = blob.digest;
        let answer = match bytes.byte() % 9 {
            0 | 1 => Answer::Want(Want { missing: missing(bytes) }),
            2 => Answer::Progress(Progress { digest, verified_bytes: u64::from(bytes.byte()) * EXTENT_BYTES / 64 }),
            3 => Answer::Corrupt(digest),
            4 => Answer::Committed(Committed { image_id: digest, config_digest: digest, received_bytes: 0, replaced: None }),
            5 => Answer::Refused(Refusal::Busy),
            6 => Answer::Drawn(vec![(proto::HostId::of_public_key(b"a"), u64::from(bytes.byte()))]),
            7 => Answer::Trouble(Trouble { source: proto::HostId::of_public_key(b"a"), fault: Fault::Lost }),
            _ => Answer::Done,
        };
        let Ok(step) = machine.handle(answer) else { continue };
        assert!(!ended, "a step behind the end");
        match step {
            Step::Planned(want) => {
                assert!(want.missing.iter().all(|missing| offer.image.blobs().iter().any(|blob| blob.digest == missing.digest)))
            }
            Step::Progress(progress) => assert!(progress.verified_bytes <= blob.size_bytes),
            Step::Suspect(_) | Step::Drawn(_) | Step::Trouble(_) => {}
            Step::Committed(_) | Step::Forecast(_) | Step::Refused(_) => ended = true,
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Choices::new(bytes);
    if bytes.byte() % 2 == 0 { receive(&mut bytes) } else { send(&mut bytes) }
});
