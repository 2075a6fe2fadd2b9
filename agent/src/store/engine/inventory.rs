//! What the engine has: asked at each question, because anybody may change it at any time. Only what belongs to an ID for ever is remembered.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use proto::{Digest, Platform, Reference};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Shared;
use super::pin::{PARTIAL_LABEL, PIN_REPOSITORY};
use crate::store::StoreError;

/// How often a question is asked again that a removal got in the way of, and how long after.
const RACES: u32 = 10;
const RACE_PAUSE: Duration = Duration::from_millis(50);

/// Images whose details are remembered. Each is a few kilobytes.
const REMEMBERED: usize = 4096;

/// All images of the engine, those included that nobody sees.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) rows: Vec<Row>,
}

/// One image.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) id: Digest,
    /// Without our pins, sorted.
    pub(super) names: Vec<Reference>,
    /// Names with a digest by which it was pulled. The manifest of that digest is not here.
    pub(super) digests: Vec<Reference>,
    /// Tags of our own kind, as they stand.
    pub(super) pins: Vec<String>,
    /// Which agent left it as part of an image that did not arrive.
    pub(super) partial_of: Option<String>,
    /// A step of a build: it has no name, and another image was made of it.
    pub(super) is_step: bool,
    /// Only a pin of ours keeps it, and takes it along.
    pub(super) is_going: bool,
    pub(super) size_bytes: u64,
    pub(super) created_unix_s: u64,
    pub(super) details: Arc<Details>,
}

/// What an image is made of: the same as long as it has this ID.
#[derive(Debug, Default)]
pub(super) struct Details {
    /// Lowest first.
    pub(super) diff_ids: Vec<Digest>,
    /// For each layer, of it and all below it.
    pub(super) chain_ids: Vec<Digest>,
    pub(super) platform: Option<Platform>,
    pub(super) tagged_unix_s: Option<u64>,
    /// Why the engine cannot say what it is made of. All else is empty then.
    pub(super) unreadable: Option<String>,
    /// The names it had when this was asked: when they change, so does the time of the last one.
    names: Vec<Reference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRow {
    id: String,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    created: i64,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawImage {
    pub(super) id: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    #[serde(rename = "RootFS")]
    root_fs: Option<RawRootFs>,
    #[serde(default)]
    metadata: Option<RawMetadata>,
    #[serde(default)]
    config: Option<RawConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRootFs {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawMetadata {
    #[serde(default)]
    last_tag_time: Option<String>,
}

impl Inventory {
    /// What people see: neither parts of images nor steps of builds, nor what only a pin keeps.
    pub(super) fn visible(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_visible())
    }

    /// By its ID.
    pub(super) fn image(&self, id: &Digest) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == *id)
    }

    /// An image that has a layer with this diff ID, and the chain ID of the layer in it.
    pub(super) fn layer(&self, diff_id: &Digest) -> Option<(&Row, Digest)> {
        self.rows.iter().find_map(|row| {
            let at = row.details.diff_ids.iter().position(|found| found == diff_id)?;
            Some((row, row.details.chain_ids[at]))
        })
    }

    /// Every layer, by its chain ID.
    pub(super) fn chains(&self) -> HashMap<Digest, Digest> {
        let details = self.rows.iter().map(|row| &row.details);
        details.flat_map(|details| details.chain_ids.iter().copied().zip(details.diff_ids.iter().copied())).collect()
    }
}

impl Row {
    /// See [`Inventory::visible`].
    pub(super) fn is_visible(&self) -> bool {
        !self.names.is_empty() || (self.partial_of.is_none() && !self.is_going && !self.is_step)
    }

    /// Whether it is a part of an image that this agent has loaded. Other agents may be building on theirs.
    pub(super) fn is_part_of(&self, agent: &str) -> bool {
        self.partial_of.as_deref().is_some_and(|label| label.split(' ').next() == Some(agent))
    }
}

impl RawImage {
    /// Lowest first.
    pub(super) fn diff_ids(&self) -> Option<Vec<Digest>> {
        let layers = self.root_fs.as_ref().and_then(|root_fs| root_fs.layers.as_deref()).unwrap_or_default();
        layers.iter().map(|text| text.parse().ok()).collect()
    }

    /// Its ID; Podman writes it without the algorithm.
    pub(super) fn id(&self) -> Option<Digest> {
        image_id(&self.id)
    }

    /// Without our pins.
    pub(super) fn names(&self) -> impl Iterator<Item = Reference> {
        let tags = self.repo_tags.iter().flatten().filter(|tag| pin(tag).is_none());
        // `<none>:<none>` is no reference.
        tags.filter_map(|tag| tag.parse().ok())
    }

    /// Tags of our own kind.
    pub(super) fn pins(&self) -> impl Iterator<Item = &str> {
        self.repo_tags.iter().flatten().filter_map(|tag| pin(tag))
    }

    /// True when one of its names is this one.
    pub(super) fn is_named(&self, reference: &Reference) -> bool {
        self.names().any(|name| name == *reference)
    }

    /// An agent made it, as the lower part of another image or as an anchor.
    pub(super) fn is_partial(&self) -> bool {
        self.config.as_ref().and_then(|config| config.labels.as_ref()).is_some_and(|labels| labels.contains_key(PARTIAL_LABEL))
    }
}

impl Shared {
    /// All images, now.
    pub(super) async fn inventory(&self) -> Result<Inventory, StoreError> {
        let raw: Option<Vec<RawRow>> = self.settled("/images/json?all=1", "list images").await?;
        let raw = raw.ok_or_else(|| self.client.refusal("list images", "it does not know the question"))?;
        // Podman writes IDs in two ways.
        let parents: HashSet<Digest> = raw.iter().filter_map(|row| image_id(row.parent_id.as_deref()?)).collect();
        let mut rows = Vec::with_capacity(raw.len());
        for raw in raw {
            let Some(id) = image_id(&raw.id) else { continue };
            let (mut names, mut pins) = (vec![], vec![]);
            for tag in raw.repo_tags.iter().flatten() {
                match pin(tag) {
                    Some(pin) => pins.push(pin.to_owned()),
                    // `<none>:<none>` is no reference.
                    None => names.extend(tag.parse::<Reference>().ok()),
                }
            }
            names.sort();
            let digests = raw.repo_digests.iter().flatten().filter_map(|name| name.parse::<Reference>().ok());
            let digests = digests.filter(|name| name.digest().is_some() && name.repository() != PIN_REPOSITORY).collect();
            // It went away since the list was made.
            let details = match self.details(&id, &names).await {
                Ok(Some(details)) => details,
                Ok(None) => continue,
                // One that the engine itself stumbles over does not keep the others from being seen.
                Err(StoreError::Engine { reason, .. }) => {
                    tracing::warn!(image = %id.short(), reason, "the engine cannot show an image that it has");
                    Arc::new(Details { unreadable: Some(reason), ..Details::default() })
                }
                Err(error) => return Err(error),
            };
            let is_step = names.is_empty() && parents.contains(&id);
            let is_going = names.is_empty() && pins.iter().any(|pin| self.pins.takes_image(pin));
            let partial_of = raw.labels.as_ref().and_then(|labels| labels.get(PARTIAL_LABEL)).cloned();
            let created_unix_s = u64::try_from(raw.created).unwrap_or_default();
            let size_bytes = u64::try_from(raw.size).unwrap_or_default();
            rows.push(Row { id, names, digests, pins, partial_of, is_step, is_going, size_bytes, created_unix_s, details });
        }
        self.forget_details(&rows);
        Ok(Inventory { rows })
    }

    /// What the engine says of one image, by ID or name, not remembered.
    pub(super) async fn inspect(&self, name: &str) -> Result<Option<RawImage>, StoreError> {
        self.settled(&format!("/images/{}/json", super::api::encoded(name)), "inspect an image").await
    }

    /// Asks, and asks again while Podman stumbles over an image that somebody removes meanwhile.
    async fn settled<T: DeserializeOwned>(&self, path: &str, action: &str) -> Result<Option<T>, StoreError> {
        for _ in 0..RACES {
            match self.client.get(path, action).await {
                Err(StoreError::Engine { reason, .. }) if is_race(&reason) => tokio::time::sleep(RACE_PAUSE).await,
                answer => return answer,
            }
        }
        self.client.get(path, action).await
    }

    async fn details(&self, id: &Digest, names: &[Reference]) -> Result<Option<Arc<Details>>, StoreError> {
        let known = self.details.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(known) = known.filter(|known| known.names == names) {
            return Ok(Some(known));
        }
        let Some(raw) = self.inspect(&id.to_string()).await? else { return Ok(None) };
        // An image with layers that are no SHA-256: nothing that could be sent.
        let Some(diff_ids) = raw.diff_ids() else { return Ok(None) };
        let platform = match (raw.os.as_str(), raw.architecture.as_str()) {
            ("", _) | (_, "") => None,
            (os, architecture) => Some(Platform::new(os, architecture, &raw.variant)),
        };
        let tagged = raw.metadata.and_then(|metadata| metadata.last_tag_time);
        let details = Arc::new(Details {
            chain_ids: chain_ids(&diff_ids),
            diff_ids,
            platform,
            tagged_unix_s: tagged.and_then(|text| unix_s(&text)),
            unreadable: None,
            names: names.to_vec(),
        });
        self.details.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, details.clone());
        Ok(Some(details))
    }

    fn forget_details(&self, rows: &[Row]) {
        let mut details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        if details.len() > REMEMBERED.max(2 * rows.len()) {
            let here: HashSet<Digest> = rows.iter().map(|row| row.id).collect();
            details.retain(|id, _| here.contains(id));
        }
    }
}

/// The identity of each layer together with those below it (OCI image specification, "Layer ChainID").
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain_ids: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let chain_id = chain_ids.last().map_or(*diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes()));
        chain_ids.push(chain_id);
    }
    chain_ids
}

/// In the words of Podman's store, of an image or of a layer.
fn is_race(reason: &str) -> bool {
    reason.contains("not known")
}

/// What follows the colon in a tag of our own kind.
fn pin(tag: &str) -> Option<&str> {
    tag.strip_prefix(PIN_REPOSITORY)?.strip_prefix(':')
}

fn image_id(text: &str) -> Option<Digest> {
    text.parse().ok().or_else(|| Digest::from_hex(text).ok())
}

fn unix_s(text: &str) -> Option<u64> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp()).ok().filter(|&seconds| seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chains = chain_ids(&[a, b, b]);
        assert_eq!(chains[0], a);
        assert_eq!(chains[1], Digest::of(format!("{a} {b}").as_bytes()));
        assert_eq!(chains[2], Digest::of(format!("{} {b}", chains[1]).as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn times() {
        assert_eq!(unix_s("2026-11-21T14:29:51.454847761Z"), Some(1_795_271_391));
        assert_eq!(unix_s("0001-01-01T00:00:00Z"), None);
    }
}
