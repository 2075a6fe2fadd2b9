//! Events of a send of one image, for tests.

use proto::Digest;
use proto::control::{Done, Drawn, Event, Failure, FailureKind, Planned, PlannedLayer, Progress, Source};

use super::fleet::Fleet;

/// A megabyte.
pub(super) const MB: u64 = 1_000_000;

/// `total` MB of one layer have to go to `host`.
pub(super) fn planned(host: &str, total_mb: u64) -> Event {
    let layer = PlannedLayer { digest: Digest::of(b"layer"), size_bytes: total_mb * MB, present_bytes: 0 };
    let send_bytes = layer.size_bytes;
    Event::Planned(Planned { host: host.to_owned(), image: "demo:1".to_owned(), layers: vec![layer], send_bytes, present_bytes: 0 })
}

/// So much of it is there.
pub(super) fn progress(host: &str, verified_mb: u64) -> Event {
    let (digest, verified_bytes) = (Digest::of(b"layer"), verified_mb * MB);
    Event::Progress(Progress { host: host.to_owned(), image: "demo:1".to_owned(), digest, verified_bytes })
}

/// `from` has served `host`.
pub(super) fn drawn(host: &str, from: &[(&str, u64)]) -> Event {
    let sources = from.iter().map(|&(host, received_bytes)| Source { host: host.to_owned(), received_bytes }).collect();
    Event::Drawn(Drawn { host: host.to_owned(), image: "demo:1".to_owned(), sources })
}

/// It is there.
pub(super) fn done(host: &str) -> Event {
    let id = Digest::of(b"image");
    Event::Done(Done {
        host: host.to_owned(),
        image: "demo:1".to_owned(),
        image_id: id,
        source_image_id: id,
        config_digest: id,
        sent_bytes: 0,
        sources: vec![],
        wire_bytes: 0,
        present_bytes: 0,
        layers_sent: 1,
        layers_total: 1,
        elapsed_ms: 0,
        replaced: None,
        dry_run: false,
    })
}

/// It will not be there.
pub(super) fn failed(host: &str) -> Event {
    let failure = Failure { kind: FailureKind::NoSpace, causes: vec!["full".to_owned()] };
    Event::HostFailed { host: host.to_owned(), image: "demo".to_owned(), failure }
}

/// It will have its turn.
pub(super) fn queued(host: &str) -> Event {
    Event::Queued { host: host.to_owned(), image: "demo".to_owned() }
}

/// The connection is lost.
pub(super) fn waiting(host: &str) -> Event {
    Event::Waiting { host: host.to_owned(), reason: "timed out".to_owned() }
}

/// After these events, all at once.
pub(super) fn fleet(events: &[Event]) -> Fleet {
    let mut fleet = Fleet::default();
    events.iter().for_each(|event| fleet.event(0, event));
    fleet
}
