//! Two agents.

use proto::hash::RangeHash;
use proto::host::{ListDate, Member, MemberList, Role, SignedMemberList};
use proto::job::{Fault, JobId, Share, Sources, Trouble};
use proto::peer::{
    Answer, Block, BlockHeader, Committed, Encoding, Get, Greeting, GreetingRefusal, HashingProgress, Hello, ImageRow, Instance, Missing,
    Offer, Progress, Pull, Refusal, Request, Want,
};
use proto::{Descriptor, Image, Layer, Manifest};

use super::{Golden, digest, id, platform, reference, text};

fn hello() -> Hello {
    Hello {
        major: 1,
        capabilities: 5,
        software: text("imgd 0.1.0"),
        name: text("stapp01"),
        platform: platform(),
        store: text("layout"),
        members_epoch: 300,
    }
}

fn list() -> SignedMemberList {
    SignedMemberList { list: vec![1, 2, 3], signature: vec![4; 64] }
}

fn descriptor(name: &str) -> Descriptor {
    Descriptor::of("text/plain", name.as_bytes())
}

fn image() -> Image {
    let layers = vec![
        Layer { descriptor: descriptor("layer"), diff_id: Some(digest("diff")) },
        Layer { descriptor: descriptor("signature"), diff_id: None },
    ];
    let manifest = Manifest { descriptor: descriptor("manifest"), platform: Some(platform()), config: descriptor("config"), layers };
    Image { reference: Some(reference()), root: descriptor("index"), indexes: vec![descriptor("index")], manifests: vec![manifest] }
}

fn bare() -> Image {
    let manifest = Manifest { descriptor: descriptor("manifest"), platform: None, config: descriptor("config"), layers: vec![] };
    Image { reference: None, root: descriptor("manifest"), indexes: vec![], manifests: vec![manifest] }
}

fn greeting_refusals() -> Vec<GreetingRefusal> {
    vec![
        GreetingRefusal::NotMember(id("a")),
        GreetingRefusal::Version { ours: 1, theirs: 2 },
        GreetingRefusal::TooManyConnections,
        GreetingRefusal::TwoMachines(vec!["10.0.0.2:7117".parse().unwrap(), "10.0.0.3:7117".parse().unwrap()]),
    ]
}

fn job() -> JobId {
    JobId([7; 16])
}

fn send() -> proto::control::Send {
    proto::control::Send {
        images: vec![text("demo")],
        hosts: proto::control::Hosts { names: vec![text("c")], all: false, except: vec![] },
        rename: None,
        platforms: proto::control::Platforms::Receiver,
        all_tags: false,
        dry_run: false,
        limit_bytes_per_s: None,
        host_limit_bytes_per_s: Some(1),
        max_parallel: None,
        canary: None,
        stop_on_failure: false,
        detach: false,
        from: None,
    }
}

fn faults() -> Vec<Fault> {
    vec![Fault::Lost, Fault::Lacks(digest("layer")), Fault::Lied(digest("layer"))]
}

fn requests() -> Vec<Request> {
    vec![
        Request::Offer(Offer { image: image(), dry_run: false }),
        Request::Offer(Offer { image: bare(), dry_run: true }),
        Request::Pull(Pull { reference: reference(), platform: None, dry_run: false }),
        Request::Pull(Pull { reference: reference(), platform: Some(platform()), dry_run: true }),
        Request::Get(Get { digest: digest("layer"), offset: 65_536, length_bytes: 1_000_000 }),
        Request::List,
        Request::Describe(reference()),
        Request::Members(list()),
        Request::Where(id("c")),
        Request::Share(Share {
            offer: Offer { image: bare(), dry_run: false },
            job: job(),
            members: vec![id("a"), id("b")],
            on_behalf_of: Some(id("c")),
            limit_bytes_per_s: None,
        }),
        Request::Sources(Sources { job: job(), number: 3, hosts: vec![id("b"), id("a")] }),
        Request::EndJob(job()),
        Request::Hashes(digest("layer")),
        Request::Proof(digest("layer")),
        Request::Send(send()),
        Request::Instance,
        Request::Date(ListDate { list: digest("list"), unix_s: 1_800_000_000, signature: vec![3; 64] }),
        Request::OfferUnpacked(Offer { image: bare(), dry_run: false }),
        Request::PullUnpacked(Pull { reference: reference(), platform: Some(platform()), dry_run: false }),
    ]
}

fn rows() -> Vec<ImageRow> {
    let row = ImageRow {
        reference: Some(reference()),
        image_id: digest("id"),
        root: digest("root"),
        platforms: vec![platform()],
        size_bytes: 187_000_000,
        complete: true,
        tagged_unix_s: 1_700_000_000,
    };
    vec![row.clone(), ImageRow { reference: None, platforms: vec![], ..row }]
}

fn answers() -> Vec<Answer> {
    let committed = Committed { image_id: digest("id"), config_digest: digest("config"), received_bytes: 251, replaced: None };
    vec![
        Answer::Offer(Offer { image: bare(), dry_run: false }),
        Answer::Want(Want { missing: vec![] }),
        Answer::Want(Want { missing: vec![Missing { digest: digest("layer"), size_bytes: 70_000, staged_bytes: 65_536 }] }),
        Answer::Progress(Progress { digest: digest("layer"), verified_bytes: 1 << 40 }),
        Answer::Corrupt(digest("layer")),
        Answer::Committed(committed.clone()),
        Answer::Committed(Committed { replaced: Some(digest("old")), ..committed }),
        Answer::Images(rows()),
        Answer::Images(vec![]),
        Answer::Described(Some(bare())),
        Answer::Described(None),
        Answer::Done,
        Answer::Refused(Refusal::Busy),
        Answer::Where(vec!["10.0.0.2:7117".parse().unwrap(), "[2001:db8::2]:7117".parse().unwrap()]),
        Answer::Hashes(vec![RangeHash::START, digest("layer").into()]),
        Answer::Trouble(Trouble { source: id("b"), fault: Fault::Lost }),
        Answer::Proof(digest("hashes")),
        Answer::Drawn(vec![(id("b"), 65_536)]),
        Answer::Event(proto::control::Event::End),
        Answer::Hashing(hashing()),
        Answer::Working,
        Answer::Instance(Instance([9; 16])),
    ]
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::NoSpace { needed_bytes: 1 << 33, free_bytes: 250 },
        Refusal::PlatformAbsent { wanted: platform(), available: vec![platform(), "linux/amd64".parse().unwrap()] },
        Refusal::Policy(text("rule 1")),
        Refusal::ImageNotFound(reference()),
        Refusal::BlobNotOffered(digest("layer")),
        Refusal::InvalidImage(text("no layers")),
        Refusal::Store(text("full")),
        Refusal::Busy,
        Refusal::Cancelled,
        Refusal::Corrupt(digest("layer")),
        Refusal::ShuttingDown,
        Refusal::OutOfTurn,
        Refusal::StoreChanged,
        Refusal::Unsupported(text("docker")),
        Refusal::StoreUnavailable(text("down")),
        Refusal::UnpackedOnly(digest("layer")),
    ]
}

fn hashing() -> HashingProgress {
    HashingProgress { done_bytes: 3 << 30, total_bytes: 14 << 30 }
}

fn blocks() -> Vec<Block> {
    let header = BlockHeader { encoding: Encoding::Raw, encoded_bytes: 5, before: RangeHash::START, after: vec![digest("hello").into()] };
    vec![Block::Bytes(header), Block::Refused(Refusal::OutOfTurn), Block::Waiting, Block::Hashing(hashing())]
}

#[test]
fn peer_messages_keep_their_bytes() {
    let mut golden = Golden::default();
    golden.message("Hello", &hello());
    let greetings = vec![Greeting::Members(list()), Greeting::Welcome, Greeting::Refused(GreetingRefusal::TooManyConnections)];
    golden.variants("Greeting", greetings, |greeting| greeting);
    golden.variants("Greeting::Refused", greeting_refusals(), Greeting::Refused);
    golden.variants("Request", requests(), |request| request);
    golden.variants("Answer", answers(), |answer| answer);
    golden.variants("Answer::Refused", refusals(), Answer::Refused);
    golden.variants("Block", blocks(), |block| block);
    golden.variants("Block::Refused", refusals(), Block::Refused);
    golden.variants("Fault", faults(), |fault| Answer::Trouble(Trouble { source: id("b"), fault }));
    golden.variants("Encoding", vec![Encoding::Raw], |encoding| {
        Block::Bytes(BlockHeader { encoding, encoded_bytes: 0, before: RangeHash::START, after: vec![digest("").into()] })
    });
    golden.compare(include_str!("peer.txt"));
}

#[test]
fn the_member_list_keeps_its_bytes() {
    let mut golden = Golden::default();
    let member = |roles| Member { id: id("a"), name: text("a"), roles, groups: vec![text("web")] };
    let list = |member| MemberList { fleet: id("fleet"), epoch: 7, members: vec![member], removed: vec![id("b")] };
    golden.message("MemberList", &list(member(vec![])));
    golden.variants("Role", vec![Role::Signer], |role| list(member(vec![role])));
    golden.message("SignedMemberList", &self::list());
    golden.compare(include_str!("members.txt"));
}
