//! Names of images.

use proto::{Digest, Reference};

use super::Shared;
use super::api::{Answer, encoded};
use super::pin::CHANGES;
use crate::store::StoreError;

impl Shared {
    /// Names an image, whatever image had the name before, and looks whether it has it; returns the image that had the name.
    pub(super) async fn name(&self, id: &Digest, tag: &Reference) -> Result<Option<Digest>, StoreError> {
        let action = || format!("tag {}", tag.familiar());
        let _names = self.names.lock().await;
        self.pins.keep(id);
        let before = self.named(tag).await?;
        let mut now = before;
        // Another client of Podman 4.3 can undo a change, see `pin.rs`.
        for _ in 0..CHANGES {
            if now == Some(*id) {
                break;
            }
            let answer = self.tag(id, &tag.repository(), tag.tag().unwrap_or_default()).await?;
            if answer.is_absent() {
                // It was loaded without a name, and the engine's users may prune such images.
                return Err(StoreError::Gone(*id));
            }
            if !answer.is_success() {
                return Err(self.client.refusal(action(), answer.reason()));
            }
            now = self.named(tag).await?;
        }
        if now != Some(*id) {
            return Err(self.client.refusal(action(), "the image does not have its name"));
        }
        Ok(before.filter(|before| before != id))
    }

    /// The image that has a name.
    pub(super) async fn named(&self, tag: &Reference) -> Result<Option<Digest>, StoreError> {
        let found = self.inspect(&tag.to_string()).await?;
        Ok(found.filter(|image| image.is_named(tag)).and_then(|image| image.id()))
    }

    /// Sets a tag; returns the engine's answer. The caller holds the lock of names.
    pub(super) async fn tag(&self, id: &Digest, repository: &str, tag: &str) -> Result<Answer, StoreError> {
        self.client.post(&format!("/images/{id}/tag?repo={}&tag={}", encoded(repository), encoded(tag)), "tag an image").await
    }
}
