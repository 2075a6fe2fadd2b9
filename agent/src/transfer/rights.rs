//! What members may do with images of this host: judged by what an image is and by the names under which the store holds it, not by what somebody
//! called it.

use proto::image::Image;
use proto::peer::{ImageRow, Refusal};
use proto::{Digest, HostId, Reference};
use tracing::warn;

use super::{Context, refusal};
use crate::store::{Form, Held, Imported, Store, StoreError};
use crate::trust::{Decision, TagMove};

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

/// Whether a member may get this image, for which it asked by this name, or by its ID: the name has to be allowed, and one of the names
/// that the image really has here. The rule that says so.
pub async fn may_get<S: Store>(
    context: &Context<S>,
    member: &HostId,
    asked: Option<&Reference>,
    image: &Held,
) -> Result<Option<Decision>, StoreError> {
    let asked = asked.map(Reference::repository);
    if let Some(repository) = &asked {
        let decision = may_pull(context, member, repository);
        if decision.is_none() || !context.policy.restricts_pull() {
            return Ok(decision);
        }
    }
    let rows = context.store.list().await?;
    let held = rows.iter().filter(|row| is_of(row, image)).filter_map(|row| row.reference.as_ref()).map(Reference::repository);
    let mut held: Vec<String> = held.collect();
    if held.is_empty() {
        // In no repository.
        held.push(asked.unwrap_or_default());
    }
    Ok(held.iter().find_map(|repository| may_pull(context, member, repository)))
}

/// True for a name of this image. A store of unpacked layers shows no manifest: there its ID tells.
fn is_of(row: &ImageRow, image: &Held) -> bool {
    row.root == image.image.root.digest || row.image_id == image.image_id
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
    let decide = |tag_move| context.policy.decide_push(&member, &repository, size_bytes, tag_move);
    let still = decide(TagMove::None);
    if !still.allowed {
        return Err(Refusal::Policy(still.rule));
    }
    if decide(TagMove::ForeignTag).allowed {
        return Ok(still.rule);
    }
    // Only where a rule restricts how tags move it matters what is there.
    let Some(reference) = &image.reference else { return Ok(still.rule) };
    let shown = shown(context, reference).await.map_err(|error| refusal(&error))?;
    let tag_move = match shown {
        None => TagMove::None,
        Some(row) if is_same(context, &row, image) => TagMove::None,
        Some(row) if context.senders.brought(pusher, reference, &row.root) => TagMove::OwnTag,
        Some(_) => TagMove::ForeignTag,
    };
    let decision = decide(tag_move);
    if decision.allowed { Ok(decision.rule) } else { Err(Refusal::Policy(decision.rule)) }
}

/// What a name shows in the store.
async fn shown<S: Store>(context: &Context<S>, reference: &Reference) -> Result<Option<ImageRow>, StoreError> {
    let rows = context.store.list().await?;
    Ok(rows.into_iter().find(|row| row.reference.as_ref() == Some(reference)))
}

/// True when a name shows an image already. A store of unpacked layers knows an image by its config.
fn is_same<S: Store>(context: &Context<S>, row: &ImageRow, image: &Image) -> bool {
    let is_config = || image.manifests.iter().any(|manifest| manifest.config.digest == row.image_id);
    row.root == image.root.digest || (context.store.properties().form == Form::Unpacked && is_config())
}

/// A tag that a push is about to give away, where a rule asks who brought it, and what it showed before.
pub(super) struct Tagging<'a>(Option<(&'a Reference, Option<Digest>)>);

impl<'a> Tagging<'a> {
    /// Before the commit.
    pub(super) async fn before<S: Store>(context: &Context<S>, image: &'a Image) -> Result<Self, Refusal> {
        let Some(tag) = image.reference.as_ref().filter(|_| context.policy.asks_for_senders()) else { return Ok(Self(None)) };
        let shown = shown(context, tag).await.map_err(|error| refusal(&error))?;
        Ok(Self(Some((tag, shown.map(|row| row.root)))))
    }

    /// After it: records who brought the tag.
    pub(super) async fn after<S: Store>(self, context: &Context<S>, pushers: &[HostId], imported: &Imported) {
        let Some((tag, before)) = self.0 else { return };
        match context.store.list().await {
            Ok(rows) => {
                // The root as the store shows it: an engine may keep another manifest than the one that came. Where the tag shows something else
                // again, or showed this image before, it was not brought by this push.
                let is_tag = |row: &&ImageRow| row.reference.as_ref() == Some(tag);
                let now = rows.iter().find(is_tag).filter(|row| row.image_id == imported.image_id);
                if now.is_some_and(|row| before != Some(row.root)) {
                    context.senders.record(tag, pushers, &rows).await;
                }
            }
            Err(error) => warn!(%error, "which member brought a tag is not recorded"),
        }
    }
}
