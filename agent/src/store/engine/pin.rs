//! Tags of our own, which keep the engine from removing an image while we read it or build on it.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use proto::{Digest, Reference};
use tokio::sync::Notify;

use super::{Shared, thin};
use crate::store::StoreError;

/// Where pins are: the engine's users see them for as long as an image is on its way.
pub(super) const PIN_REPOSITORY: &str = "imgctl.local/pin";
/// Says which agent left an image that is only the lower part of another one.
pub(super) const PARTIAL_LABEL: &str = "imgctl.partial";
/// A pin or a partial image of another agent, or of this one in another life, that is older than this belongs to nobody.
pub(super) const STALE_S: u64 = 24 * 3600;

/// When an engine that could not take a pin away is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// A tag on an image. Dropping it takes it away, soon.
#[derive(Debug)]
pub(super) struct Pin {
    tag: String,
    pins: Arc<Pins>,
}

/// The tags that are to go.
#[derive(Debug, Default)]
pub(super) struct Pins {
    released: Mutex<Vec<String>>,
    wake: Notify,
    /// Held while tags are taken away, so that whoever needs it done can wait.
    working: tokio::sync::Mutex<()>,
}

impl Pin {
    /// Its name in the engine.
    pub(super) fn reference(&self) -> Option<Reference> {
        format!("{PIN_REPOSITORY}:{}", self.tag).parse().ok()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.released.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.tag));
        self.pins.wake.notify_one();
    }
}

/// What a pin's tag says: who set it, when, and whether the image had no name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    pub(super) agent: &'a str,
    pub(super) unix_s: u64,
    pub(super) was_unnamed: bool,
}

impl<'a> Tag<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (agent, unix_s, kind) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { agent, unix_s: unix_s.parse().ok()?, was_unnamed: kind == "unnamed" })
    }
}

impl Shared {
    /// Pins an image. `None`: it is gone.
    pub(super) async fn pin(&self, id: &Digest, was_unnamed: bool) -> Result<Option<Pin>, StoreError> {
        let tag = self.pin_tag(was_unnamed);
        let answer = self.tag(id, PIN_REPOSITORY, &tag).await?;
        if answer.is_absent() {
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(self.client.refusal(format!("tag {}", id.short()), answer.reason()));
        }
        Ok(Some(Pin { tag, pins: self.pins.clone() }))
    }

    /// A pin for an image that will be loaded under its name: whatever becomes of that, it goes with the pin.
    pub(super) fn pin_ahead(&self) -> Pin {
        Pin { tag: self.pin_tag(false), pins: self.pins.clone() }
    }

    fn pin_tag(&self, was_unnamed: bool) -> String {
        let kind = if was_unnamed { "unnamed" } else { "named" };
        format!("{}-{}-{kind}-{}", self.agent, super::unix_s(), super::random_hex())
    }

    /// Takes away every tag that is to go. Whoever counts on an image being gone calls this first.
    pub(super) async fn flush_pins(&self) -> Result<(), StoreError> {
        let _working = self.pins.working.lock().await;
        loop {
            let next = self.pins.released.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(tag) = next else { return Ok(()) };
            if let Err(error) = self.untag(&tag).await {
                self.pins.released.lock().unwrap_or_else(PoisonError::into_inner).push(tag);
                self.pins.wake.notify_one();
                return Err(error);
            }
        }
    }

    /// The same as far as it goes now; the rest goes later.
    pub(super) async fn release_pins(&self) {
        if let Err(error) = self.flush_pins().await {
            tracing::debug!(%error, "tags of our own stay in the engine for now");
        }
    }

    /// Takes a pin away. An image that had a name and has lost it goes with its pin, as with its last name; one that never had a name stays.
    pub(super) async fn untag(&self, tag: &str) -> Result<(), StoreError> {
        let name = format!("{PIN_REPOSITORY}:{tag}");
        if Tag::parse(tag).is_some_and(|tag| tag.was_unnamed) {
            // Engines remove an image with its last tag, but not one whose tag moves to another image: so it moves, and that one goes.
            if self.inspect(&name).await?.is_none() {
                return Ok(());
            }
            self.load_whole(thin::anchor(&self.agent, &name), "move a tag").await?;
        }
        let answer = self.client.delete(&format!("/images/{name}"), "remove a tag").await?;
        if answer.is_success() || answer.is_absent() { Ok(()) } else { Err(self.client.refusal(format!("remove {name}"), answer.reason())) }
    }

    /// Removes what earlier lives of this agent left behind, and what nobody has come back to for a day.
    pub(super) async fn sweep(&self, is_first: bool) -> Result<(), StoreError> {
        let now = super::unix_s();
        let inventory = self.inventory().await?;
        for row in &inventory.rows {
            for pin in &row.pins {
                let of = Tag::parse(pin);
                let is_own = of.as_ref().is_some_and(|tag| tag.agent == self.agent);
                let is_old = of.as_ref().is_none_or(|tag| tag.unix_s.saturating_add(STALE_S) < now);
                if (is_first && is_own) || is_old {
                    self.untag(pin).await?;
                }
            }
            // The layers of a send that broke off are worth a day, across restarts too: the next try starts above them.
            let made_unix_s = row.partial_of.as_deref().and_then(|label| label.split_once(' ')).and_then(|(_, at)| at.parse::<u64>().ok());
            let is_old = made_unix_s.is_none_or(|at| at.saturating_add(STALE_S) < now);
            if row.partial_of.is_some() && row.names.is_empty() && is_old && !self.is_in_use(&row.id) {
                self.remove_partial(&row.id).await;
            }
        }
        Ok(())
    }

    /// Best effort: an image that something still needs stays until the next sweep.
    pub(super) async fn remove_partial(&self, id: &Digest) {
        match self.client.delete(&format!("/images/{id}"), "remove a part of an image").await {
            Ok(answer) if answer.is_success() || answer.is_absent() => {}
            Ok(answer) => tracing::debug!(image = %id.short(), reason = answer.reason(), "a part of an image stays"),
            Err(error) => tracing::debug!(image = %id.short(), %error, "a part of an image stays"),
        }
    }
}

/// Takes pins away as they are released, until the store goes. An engine that cannot do it now is asked again.
pub(super) async fn release(shared: Weak<Shared>, pins: Arc<Pins>) {
    loop {
        pins.wake.notified().await;
        loop {
            let Some(shared) = shared.upgrade() else { return };
            let Err(error) = shared.flush_pins().await else { break };
            tracing::debug!(%error, "tags of our own stay in the engine for now");
            drop(shared);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_say_whose_they_are() {
        let tag = Tag::parse("abc123-1700000000-unnamed-ff00");
        assert_eq!(tag, Some(Tag { agent: "abc123", unix_s: 1_700_000_000, was_unnamed: true }));
        assert_eq!(Tag::parse("x"), None);
    }
}
