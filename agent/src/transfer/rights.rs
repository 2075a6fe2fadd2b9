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

/// An image that may come in.
pub(super) struct Checked {
    /// The rules that allow it.
    pub(super) rule: String,
    /// Root of the image that its name showed before, where a rule asks for that.
    before: Option<Digest>,
}

/// What the policy of this host says to an image that these hosts want to bring here, the one that offers it and the one that had it do so, each of
/// which has to be allowed to.
pub(super) async fn check_push<S: Store>(context: &Context<S>, pushers: &[HostId], image: &Image) -> Result<Checked, Refusal> {
    let members = context.trust.members();
    let member = |pusher: &HostId| members.as_ref().and_then(|list| list.by_id(pusher));
    let repository = image.reference.as_ref().map(Reference::repository).unwrap_or_default();
    let size_bytes = image.size_bytes();
    let decide = |pusher: &HostId, tag_move| {
        let member = member(pusher).ok_or_else(|| Refusal::Policy(format!("host {pusher} is not a member")))?;
        let decision = context.policy.decide_push(member, &repository, size_bytes, tag_move);
        if decision.allowed { Ok(decision.rule) } else { Err(Refusal::Policy(decision.rule)) }
    };
    for pusher in pushers {
        decide(pusher, TagMove::None)?;
    }
    // Only where a rule restricts how tags move it matters what is there.
    let is_restricted = pushers.iter().any(|pusher| decide(pusher, TagMove::ForeignTag).is_err()) || context.policy.asks_for_senders();
    let shown = match image.reference.as_ref().filter(|_| is_restricted) {
        Some(reference) => shown(context, reference).await.map_err(|error| refusal(&error))?,
        None => None,
    };
    let tag_move = |pusher: &HostId| match (&shown, &image.reference) {
        (Some(row), Some(reference)) if !is_same(context, row, image) => {
            if context.senders.brought(pusher, reference, &row.root) {
                TagMove::OwnTag
            } else {
                TagMove::ForeignTag
            }
        }
        _ => TagMove::None,
    };
    let rules = pushers.iter().map(|pusher| decide(pusher, tag_move(pusher))).collect::<Result<Vec<_>, _>>()?.join(", ");
    let rule = match pushers.get(1).and_then(member) {
        Some(asker) => format!("{rules}, on behalf of {}", asker.name),
        None => rules,
    };
    Ok(Checked { rule, before: shown.map(|row| row.root) })
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

impl Checked {
    /// The image is in: records who brought its tag, where a rule asks for that.
    pub(super) async fn brought<S: Store>(self, context: &Context<S>, pushers: &[HostId], image: &Image, imported: &Imported) {
        let Some(tag) = image.reference.as_ref().filter(|_| context.policy.asks_for_senders()) else { return };
        match context.store.list().await {
            Ok(rows) => {
                // The root as the store shows it: an engine may keep another manifest than the one that came. Where the tag shows something else
                // again, or showed this image before, it was not brought by this push.
                let is_tag = |row: &&ImageRow| row.reference.as_ref() == Some(tag);
                let now = rows.iter().find(is_tag).filter(|row| row.image_id == imported.image_id);
                if now.is_some_and(|row| self.before != Some(row.root)) {
                    context.senders.record(tag, pushers, &rows).await;
                }
            }
            Err(error) => warn!(%error, "which member brought a tag is not recorded"),
        }
    }
}
