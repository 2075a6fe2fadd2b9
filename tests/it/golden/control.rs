//! `imgctl` and `imgd`.

use proto::control::{
    ArchiveFormat, Check, Compression, Difference, Done, Drawn, Event, Failure, FailureKind, Fleet, Hashing, Hello, Hosts, MemberRow,
    Moved, PeerRow, PeerState, Planned, PlannedLayer, Platforms, Progress, Pull, Request, Resolved, Retry, Save, Send, Source, Status,
    Summary, TransferRow, TransferState, Verdict,
};
use proto::peer::ImageRow;

use super::{Golden, digest, id, platform, reference, text};

fn hosts() -> Hosts {
    Hosts { names: vec![text("web[01-40]"), text("@db")], all: false, except: vec![] }
}

fn send(platforms: Platforms) -> Request {
    Request::Send(send_of(platforms))
}

fn send_of(platforms: Platforms) -> Send {
    Send {
        images: vec![text("demo:nautilus")],
        hosts: hosts(),
        rename: Some(reference()),
        platforms,
        all_tags: true,
        dry_run: false,
        limit_bytes_per_s: Some(50_000_000),
        host_limit_bytes_per_s: None,
        max_parallel: Some(8),
        canary: Some(2),
        stop_on_failure: true,
        detach: true,
        from: Some(text("b")),
    }
}

fn save(format: ArchiveFormat, compression: Compression) -> Request {
    Request::Save(Save { images: vec![text("demo")], format, compression, platforms: Platforms::Receiver })
}

fn requests() -> Vec<Request> {
    let pull =
        Pull { image: reference(), from: Some(text("b")), platforms: Platforms::All, rename: None, dry_run: true, limit_bytes_per_s: None };
    vec![
        send(Platforms::Receiver),
        Request::Pull(pull),
        Request::List(Hosts { names: vec![], all: true, except: vec![text("web03")] }),
        Request::Peers,
        Request::Status(Status::default()),
        Request::Status(Status { id: Some(300), watch: true }),
        Request::Retry(Retry { id: 300, detach: true }),
        Request::Cancel(300),
        Request::Load,
        save(ArchiveFormat::Docker, Compression::None),
        Request::Tag { image: text("demo"), name: reference() },
        Request::Remove(vec![text("demo")]),
        Request::Inspect(vec![text("demo")]),
        Request::Diff { image: text("demo"), hosts: hosts() },
        Request::WhoHas(text("demo")),
        Request::Scrub,
        Request::Fleet(Fleet::Init),
        Request::Doctor(None),
        Request::Prune,
        Request::SendWaiting { send: send_of(Platforms::Receiver), wait_s: 600 },
        Request::Doctor(Some(text("b"))),
    ]
}

fn fleet() -> Vec<Fleet> {
    vec![
        Fleet::Init,
        Fleet::Invite { uses: 500, valid_s: 86_400, for_name: Some(text("c")), replace: None },
        Fleet::Join { token: text("imgj1-x"), address: Some(text("a:7117")) },
        Fleet::List,
        Fleet::Remove(vec![text("b")]),
        Fleet::Group { group: text("web"), hosts: vec![text("b")], add: true },
        Fleet::Backup,
        Fleet::Restore(vec![1, 2, 3]),
        Fleet::Rename { member: text("a"), name: text("b") },
    ]
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, causes: vec![text("cannot send"), text("it is full")] }
}

fn done() -> Done {
    Done {
        host: text("b"),
        image: text("demo"),
        image_id: digest("id"),
        source_image_id: digest("source"),
        config_digest: digest("config"),
        sent_bytes: 1,
        sources: vec![Source { host: text("c"), received_bytes: 1 }],
        wire_bytes: 2,
        present_bytes: 3,
        layers_sent: 4,
        layers_total: 5,
        elapsed_ms: 6,
        replaced: Some(digest("old")),
        dry_run: true,
    }
}

fn image_row() -> ImageRow {
    let (image_id, root) = (digest("id"), digest("root"));
    ImageRow { reference: Some(reference()), image_id, root, platforms: vec![platform()], size_bytes: 1, complete: true, tagged_unix_s: 2 }
}

fn peer_row(state: PeerState) -> Event {
    Event::Peer(PeerRow {
        name: Some(text("b")),
        id: Some(id("b")),
        addresses: vec![text("10.0.0.2:7117")],
        store: None,
        software: None,
        state,
        last_seen_unix_s: Some(9),
    })
}

fn transfer_row(state: TransferState) -> Event {
    let (image, host) = (text("demo"), text("b"));
    Event::Transfer(TransferRow { id: 1, incoming: true, image, host, state, done_bytes: 2, total_bytes: 3, elapsed_ms: 4 })
}

fn check(verdict: Verdict) -> Event {
    Event::Check(Check { verdict, subject: text("port"), finding: text("closed"), remedy: Some(text("open it")) })
}

/// What a transfer reports.
fn transfer_events() -> Vec<Event> {
    let (host, image) = (text("b"), text("demo"));
    let layers = vec![PlannedLayer { digest: digest("layer"), size_bytes: 2, present_bytes: 1 }];
    vec![
        Event::Accepted { id: 7 },
        Event::Queued { host: host.clone(), image: image.clone() },
        Event::Planned(Planned { host: host.clone(), image: image.clone(), layers, send_bytes: 3, present_bytes: 4 }),
        Event::Progress(Progress { host: host.clone(), image: image.clone(), digest: digest("layer"), verified_bytes: 5 }),
        Event::Drawn(Drawn { host: host.clone(), image: image.clone(), sources: vec![Source { host: text("c"), received_bytes: 5 }] }),
        Event::Waiting { host: host.clone(), reason: text("lost") },
        Event::Hashing(Hashing { host: host.clone(), image: image.clone(), source: text("a"), done_bytes: 6, total_bytes: 7 }),
        Event::Resolved(Resolved { image: image.clone(), root: digest("root"), image_id: digest("id") }),
        Event::Moved(Moved { image: image.clone(), sent: digest("id"), image_id: None }),
        Event::Unfinished { blobs: 3, bytes: 4 },
        Event::Pruned { staged_bytes: 5, stored_bytes: 6 },
        Event::Told { host: host.clone(), reached: true },
        Event::NotLoaded { image: image.clone(), failure: failure(FailureKind::InvalidArchive) },
        Event::Done(done()),
        Event::HostFailed { host, image, failure: failure(FailureKind::NoSpace) },
        Event::Summary(Summary { total: 1, done: 2, failed: 3, egress_bytes: 4, elapsed_ms: 5 }),
        transfer_row(TransferState::Running),
    ]
}

/// All others.
fn events() -> Vec<Event> {
    let (name, host) = (text("b"), Some(text("b")));
    let difference =
        Difference { host, image_id: Some(digest("id")), layers_shared: 1, layers_total: 2, missing_bytes: 3, layers_extra: 4 };
    let member = MemberRow { name: name.clone(), id: id("b"), signer: true, here: false, groups: vec![text("web")] };
    let mut events = transfer_events();
    events.extend([
        Event::Image { host: None, row: image_row() },
        Event::HostSilent { host: name.clone(), failure: failure(FailureKind::Other) },
        peer_row(PeerState::Connected),
        Event::Loaded { reference: Some(reference()), image_id: digest("id") },
        Event::Removed { name: text("demo"), deleted: true },
        Event::Inspected(text("{}")),
        Event::Difference(difference),
        Event::Damaged(digest("layer")),
        Event::Scrubbed { blobs: 1, bytes: 2, damaged: 3 },
        Event::Member(member),
        Event::Invited { token: text("imgj1-x"), expires_unix_s: 1, uses: 2 },
        Event::Joined { fleet: id("fleet"), name, members: 3 },
        Event::Backup(vec![1, 2, 3]),
        check(Verdict::Ok),
        Event::Data,
        Event::End,
        Event::Failed(failure(FailureKind::Other)),
    ]);
    events
}

fn failure_kinds() -> Vec<FailureKind> {
    vec![
        FailureKind::Other,
        FailureKind::Usage,
        FailureKind::ImageNotFound,
        FailureKind::HostNotFound(text("b")),
        FailureKind::HostUnreachable(text("b")),
        FailureKind::NotTrusted,
        FailureKind::NoFleet,
        FailureKind::InFleet,
        FailureKind::NotSigner(Some(text("a"))),
        FailureKind::Token,
        FailureKind::Denied,
        FailureKind::NoSpace,
        FailureKind::PlatformAbsent(vec![platform()]),
        FailureKind::NameTaken(text("b")),
        FailureKind::InvalidArchive,
        FailureKind::InvalidImage,
        FailureKind::Corrupt,
        FailureKind::Store,
        FailureKind::Cancelled,
        FailureKind::ShuttingDown,
        FailureKind::Version,
        FailureKind::TransferNotFound(7),
        FailureKind::Unsupported,
        FailureKind::Skipped(text("b")),
        FailureKind::NotPermitted(text("b")),
        FailureKind::Clock,
        FailureKind::UnpackedOnly,
    ]
}

#[test]
fn control_messages_keep_their_bytes() {
    let mut golden = Golden::default();
    golden.message("Hello", &Hello { major: 1, capabilities: 5, software: text("imgctl 0.1.0") });
    golden.variants("Request", requests(), |request| request);
    golden.variants("Platforms", vec![Platforms::Receiver, Platforms::One(platform()), Platforms::All], send);
    golden.variants("ArchiveFormat", vec![ArchiveFormat::Docker, ArchiveFormat::Oci], |format| save(format, Compression::None));
    let compressions = vec![Compression::None, Compression::Gzip, Compression::Zstd];
    golden.variants("Compression", compressions, |compression| save(ArchiveFormat::Docker, compression));
    golden.variants("Fleet", fleet(), Request::Fleet);
    golden.variants("Event", events(), |event| event);
    golden.variants("FailureKind", failure_kinds(), |kind| Event::Failed(failure(kind)));
    let states =
        vec![PeerState::Connected, PeerState::Trusted, PeerState::NotMember, PeerState::Removed, PeerState::Here, PeerState::TwoMachines];
    golden.variants("PeerState", states, peer_row);
    let failed = TransferState::Failed(text("it is full"));
    let states = vec![TransferState::Running, TransferState::Waiting, TransferState::Done, failed, TransferState::Cancelled];
    golden.variants("TransferState", states, transfer_row);
    golden.variants("Verdict", vec![Verdict::Ok, Verdict::Warning, Verdict::Wrong], check);
    golden.compare(include_str!("control.txt"));
}
