//! Giving an image a name.

use proto::{Digest, Reference};

use super::Shared;
use super::api::{Answer, encoded};
use crate::store::StoreError;

impl Shared {
    /// Names an image, whatever had that name before.
    pub(super) async fn name(&self, id: &Digest, tag: &Reference) -> Result<(), StoreError> {
        let answer = self.tag(id, &tag.repository(), tag.tag().unwrap_or_default()).await?;
        if answer.is_success() { Ok(()) } else { Err(self.client.refusal(format!("tag {}", tag.familiar()), answer.reason())) }
    }

    /// What the engine answers to it.
    pub(super) async fn tag(&self, id: &Digest, repository: &str, tag: &str) -> Result<Answer, StoreError> {
        self.client.post(&format!("/images/{id}/tag?repo={}&tag={}", encoded(repository), encoded(tag)), "tag an image").await
    }
}
