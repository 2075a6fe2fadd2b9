//! The first stream of a connection: two Hellos, at most one member list, two verdicts.

use std::sync::Arc;

use proto::HostId;
use proto::frame;
use proto::host::Member;
use proto::limits::{FRAME_BEFORE_WELCOME, FRAME_MEMBERS};
use proto::peer::{Greeting, GreetingRefusal, Hello, INSTANCES, MAJOR};

use super::{NetError, Stream};
use crate::trust::{Trust, TrustError};

/// What a greeting came to.
pub(super) struct Greeted {
    pub(super) hello: Hello,
    pub(super) member: Member,
}

/// Greets the host that the handshake proved to be `id`; `refusal`: why it is not welcome though it is a member.
pub(super) async fn greet(
    stream: &mut Stream,
    id: HostId,
    ours: &Hello,
    trust: &Arc<Trust>,
    refusal: Option<GreetingRefusal>,
) -> Result<Greeted, NetError> {
    stream.send(ours).await?;
    let theirs: Hello = stream.receive_within(FRAME_BEFORE_WELCOME).await?;
    if theirs.major != MAJOR {
        // Each side names itself as ours: the text is read by the other one.
        let refusal = GreetingRefusal::Version { ours: MAJOR, theirs: theirs.major };
        stream.send(&Greeting::Refused(refusal)).await?;
        stream.finish();
        return Err(NetError::Refused(GreetingRefusal::Version { ours: theirs.major, theirs: MAJOR }));
    }
    let mut next = exchange_members(stream, ours, &theirs, trust).await?;
    let member = trust.members().and_then(|list| list.by_id(&id).cloned());
    let verdict = match (&member, refusal) {
        (None, _) => Greeting::Refused(GreetingRefusal::NotMember(id)),
        (_, Some(GreetingRefusal::TwoMachines(_))) if theirs.capabilities & INSTANCES == 0 => {
            Greeting::Refused(GreetingRefusal::NotMember(id))
        }
        (_, Some(refusal)) => Greeting::Refused(refusal),
        _ => Greeting::Welcome,
    };
    stream.send(&verdict).await?;
    if next.is_none() {
        next = Some(stream.receive_within(FRAME_BEFORE_WELCOME).await?);
    }
    match (next, member, verdict) {
        (Some(Greeting::Refused(refusal)), ..) => Err(NetError::Refused(refusal)),
        (_, None, _) => Err(NetError::NotMember(id)),
        // Its own text is about the one who reads it.
        (_, _, Greeting::Refused(GreetingRefusal::TwoMachines(addresses))) => Err(NetError::TwoMachines(addresses)),
        (_, _, Greeting::Refused(refusal)) => Err(NetError::Refused(refusal)),
        (Some(Greeting::Welcome), Some(member), _) => Ok(Greeted { hello: theirs, member }),
        _ => Err(NetError::Frame(frame::FrameError::Malformed)),
    }
}

/// Whoever has the newer list shows it before anybody judges. Returns a verdict that came in its place.
async fn exchange_members(stream: &mut Stream, ours: &Hello, theirs: &Hello, trust: &Arc<Trust>) -> Result<Option<Greeting>, NetError> {
    if ours.members_epoch > theirs.members_epoch {
        if let Some(list) = trust.signed_members() {
            stream.send(&Greeting::Members(list)).await?;
        }
        return Ok(None);
    }
    if ours.members_epoch == theirs.members_epoch {
        return Ok(None);
    }
    match stream.receive_within(FRAME_MEMBERS + 1024).await? {
        Greeting::Members(list) => {
            let trust = trust.clone();
            match crate::sys::blocking(move || trust.accept_members(&list)).await {
                // A newer one has come by another way meanwhile.
                Ok(_) | Err(TrustError::StaleList { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
        verdict => Ok(Some(verdict)),
    }
}
