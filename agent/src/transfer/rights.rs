//! What members may do with images of this host: judged by what an image is and by the names under which the store holds it, not by what somebody
//! called it.

use proto::image::Image;
use proto::peer::Refusal;
use proto::{Digest, HostId, Reference};

use super::{Context, refusal};
use crate::store::{Store, StoreError};
use crate::trust::Decision;

/// The name under which an image that somebody brings is kept: without the digest where there is a tag. A digest in it has to be that of the image.
pub(super) fn canonical(mut image: Image) -> Result<Image, Refusal> {
    if let Some(reference) = &image.reference {
        if !reference.fits(&image.root.digest) {
            let (name, root) = (reference.familiar(), image.root.digest);
            return Err(Refusal::Unsupported(format!("{name} is the name of another image: this one is {root}")));
        }
        image.reference = Some(reference.without_digest());
    }
    Ok(image)
}

/// Whether a member may get images of a repository from here.
pub(super) fn may_pull<S>(context: &Context<S>, member: &HostId, repository: &str) -> Option<Decision> {
    let member = context.trust.members().and_then(|list| list.by_id(member).cloned())?;
    Some(context.policy.decide_pull(&member, repository)).filter(|decision| decision.allowed)
}

/// Whether a member may get the image with this root, for which it asked by this name, or by its ID: the name has to be allowed, and one of the names
/// that the image really has here. The rule that says so.
pub async fn may_get<S: Store>(
    context: &Context<S>,
    member: &HostId,
    asked: Option<&Reference>,
    root: &Digest,
) -> Result<Option<Decision>, StoreError> {
    let asked = asked.map(Reference::repository);
    if let Some(repository) = &asked {
        let decision = may_pull(context, member, repository);
        if decision.is_none() || !context.policy.restricts_pull() {
            return Ok(decision);
        }
    }
    let rows = context.store.list().await?;
    let held = rows.iter().filter(|row| row.root == *root).filter_map(|row| row.reference.as_ref()).map(Reference::repository);
    let mut held: Vec<String> = held.collect();
    if held.is_empty() {
        // In no repository.
        held.push(asked.unwrap_or_default());
    }
    Ok(held.iter().find_map(|repository| may_pull(context, member, repository)))
}

/// What the policy of this host says to an image that these hosts want to bring here, the one that offers it and the one that had it do so, each of
/// which has to be allowed to: the rules that allow it.
pub(super) async fn check_push<S: Store>(context: &Context<S>, pushers: &[HostId], image: &Image) -> Result<String, Refusal> {
    let mut rules = vec![];
    for pusher in pushers {
        rules.push(check_pusher(context, pusher, image).await?);
    }
    let members = context.trust.members();
    let asker = pushers.get(1).and_then(|asker| members.as_ref().and_then(|list| list.by_id(asker)));
    Ok(asker.map_or_else(|| rules.join(", "), |asker| format!("{}, on behalf of {}", rules.join(", "), asker.name)))
}

async fn check_pusher<S: Store>(context: &Context<S>, pusher: &HostId, image: &Image) -> Result<String, Refusal> {
    let member = context.trust.members().and_then(|list| list.by_id(pusher).cloned());
    let member = member.ok_or_else(|| Refusal::Policy(format!("host {pusher} is not a member")))?;
    let repository = image.reference.as_ref().map(Reference::repository).unwrap_or_default();
    let size_bytes = image.size_bytes();
    let decide = |moves_tag| context.policy.decide_push(&member, &repository, size_bytes, moves_tag);
    let still = decide(false);
    if !still.allowed {
        return Err(Refusal::Policy(still.rule));
    }
    let moving = decide(true);
    if moving.allowed {
        return Ok(still.rule);
    }
    // Only where a rule forbids to move tags it matters what is there.
    let Some(reference) = &image.reference else { return Ok(still.rule) };
    let rows = context.store.list().await.map_err(|error| refusal(&error))?;
    let there = rows.iter().find(|row| row.reference.as_ref() == Some(reference));
    if there.is_some_and(|row| row.root != image.root.digest) { Err(Refusal::Policy(moving.rule)) } else { Ok(still.rule) }
}
