//! Image records: the engine's names, and what we make of them.

use std::collections::{HashMap, HashSet};

use proto::{Descriptor, Digest, Reference};
use tonic::Code;

use super::api::images::{CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest};
use super::api::types;
use super::connection::found;
use super::labels::{Labels, MANAGED};
use super::{Flavour, Shared};
use crate::store::StoreError;
use crate::store::names::Named;

/// What Docker calls an image that lost its name.
const DANGLING: &str = "moby-dangling@";
/// On what Docker has built: the step that it was made of.
const PARENT: &str = "org.mobyproject.image.parent";
/// What we call it elsewhere.
const UNTAGGED: &str = "imgd.local/untagged@";

/// A name, or an image without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// `None`: no record of this root has a name that a person would use.
    pub(super) reference: Option<Reference>,
    /// The manifest or index.
    pub(super) root: Descriptor,
    /// When it last moved.
    pub(super) tagged_unix_s: u64,
    /// The engine's names for it.
    pub(super) records: Vec<String>,
    /// A step of a build: it has no name, and another image was made of it.
    pub(super) is_step: bool,
}

/// All records of the namespace.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) entries: Vec<Entry>,
    /// The engine's other names of images that have a name, by root.
    aliases: HashMap<Digest, Vec<String>>,
}

impl Records {
    /// For [`crate::store::names`].
    pub(super) fn named(&self) -> Vec<Named> {
        self.entries.iter().map(|entry| Named { reference: entry.reference.clone(), root: entry.root.digest }).collect()
    }

    /// The record of exactly this name with a digest, where it is one of the further records of an image that has names; and what it points to.
    pub(super) fn alias(&self, name: &Reference) -> Option<(String, Digest)> {
        let (root, name) = (name.digest().filter(|_| name.tag().is_none())?, name.to_string());
        self.aliases.get(&root)?.contains(&name).then_some((name, root))
    }

    /// The records that go when these entries go: with the last name of an image its other records.
    pub(super) fn to_remove(&self, positions: &[usize]) -> Vec<String> {
        let stays = |(position, _): &(usize, &Entry)| !positions.contains(position);
        let kept: HashSet<Digest> = self.entries.iter().enumerate().filter(stays).map(|(_, entry)| entry.root.digest).collect();
        let mut names = vec![];
        let mut roots = HashSet::new();
        for entry in positions.iter().filter_map(|&position| self.entries.get(position)) {
            names.extend(entry.records.iter().cloned());
            if !kept.contains(&entry.root.digest) && roots.insert(entry.root.digest) {
                names.extend(self.aliases.get(&entry.root.digest).into_iter().flatten().cloned());
            }
        }
        names
    }

    /// True when a record points to this root, but for the one of this name.
    pub(super) fn has_root(&self, root: &Digest, but: &str) -> bool {
        self.of_root(root).any(|name| name != but)
    }

    /// A record that points to this root.
    pub(super) fn record_of(&self, root: &Digest) -> Option<&str> {
        self.of_root(root).next()
    }

    /// The records that point to this root.
    pub(super) fn of_root(&self, root: &Digest) -> impl Iterator<Item = &str> {
        let records = self.entries.iter().filter(|entry| entry.root.digest == *root).flat_map(|entry| &entry.records);
        records.chain(self.aliases.get(root).into_iter().flatten()).map(String::as_str)
    }

    fn read(images: Vec<Image>, flavour: Flavour) -> Self {
        let mut records = Self::default();
        let mut nameless: Vec<Entry> = vec![];
        let parents: HashSet<String> = images.iter().filter_map(|image| image.labels.get(PARENT)).cloned().collect();
        for image in images {
            let Some(root) = image.target.and_then(read_descriptor) else { continue };
            let seconds = image.updated_at.or(image.created_at).map_or(0, |at| at.seconds);
            let reference = reference_of(&image.name, &root.digest);
            let is_step = reference.is_none() && parents.contains(&root.digest.to_string());
            let tagged_unix_s = u64::try_from(seconds).unwrap_or(0);
            let entry = Entry { reference, root, tagged_unix_s, records: vec![image.name], is_step };
            if entry.reference.is_some() { records.entries.push(entry) } else { nameless.push(entry) }
        }
        if flavour == Flavour::Kubernetes {
            // Kubernetes makes a record with a digest of every image: it is a name where there is no other of that repository.
            let tagged: HashSet<(Digest, String)> = records
                .entries
                .iter()
                .filter_map(|entry| Some((entry.root.digest, entry.reference.as_ref().filter(|name| name.tag().is_some())?.repository())))
                .collect();
            let is_alias = |entry: &Entry| {
                let pinned = entry.reference.as_ref().filter(|name| name.tag().is_none());
                pinned.is_some_and(|name| tagged.contains(&(entry.root.digest, name.repository())))
            };
            let (aliases, entries): (Vec<Entry>, Vec<Entry>) = records.entries.into_iter().partition(is_alias);
            records.entries = entries;
            nameless.extend(aliases.into_iter().map(|entry| Entry { reference: None, ..entry }));
        }
        let named: HashSet<Digest> = records.entries.iter().map(|entry| entry.root.digest).collect();
        for entry in nameless {
            let same = |other: &&mut Entry| other.reference.is_none() && other.root.digest == entry.root.digest;
            if named.contains(&entry.root.digest) {
                records.aliases.entry(entry.root.digest).or_default().extend(entry.records);
            } else if let Some(other) = records.entries.iter_mut().find(same) {
                other.records.extend(entry.records);
            } else {
                records.entries.push(entry);
            }
        }
        records
    }
}

/// The name of the record of an image that has none.
pub(super) fn untagged(flavour: Flavour, root: &Digest) -> String {
    match flavour {
        Flavour::Docker => format!("{DANGLING}{root}"),
        Flavour::Plain | Flavour::Kubernetes => format!("{UNTAGGED}{root}"),
    }
}

impl Shared {
    /// All of them; none while the namespace is absent.
    pub(super) async fn records(&self) -> Result<Records, StoreError> {
        let request = self.connection.request(ListImagesRequest::default());
        let answer = self.connection.ask(self.connection.images().list(request)).await;
        let images = answer.map_err(|status| self.connection.failed("list its images", &status))?.images;
        Ok(Records::read(images, self.flavour))
    }

    /// What a record points to.
    pub(super) async fn target(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let request = self.connection.request(GetImageRequest { name: name.to_owned() });
        let answer = self.connection.ask(self.connection.images().get(request)).await;
        let image = found(answer).map_err(|status| self.connection.failed(format!("look for {name}"), &status))?;
        Ok(image.and_then(|answer| answer.image).and_then(|image| image.target).and_then(read_descriptor))
    }

    /// Makes `name` point to `root`.
    pub(super) async fn point(&self, name: &str, root: &Descriptor) -> Result<(), StoreError> {
        let mut labels = Labels::new();
        if self.flavour == Flavour::Kubernetes {
            labels.insert(MANAGED.0.to_owned(), MANAGED.1.to_owned());
        }
        let mut paths: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
        paths.push("target".to_owned());
        let image = Image { name: name.to_owned(), labels, target: Some(write_descriptor(root)), created_at: None, updated_at: None };
        // Created or updated: somebody else may do the other between two questions.
        for _ in 0..3 {
            let request = self.connection.request(CreateImageRequest { image: Some(image.clone()) });
            match self.connection.ask(self.connection.images().create(request)).await {
                Err(status) if status.code() == Code::AlreadyExists => {}
                answer => return answer.map(|_| ()).map_err(|status| self.connection.failed(format!("name {name}"), &status)),
            }
            let update_mask = Some(prost_types::FieldMask { paths: paths.clone() });
            let request = self.connection.request(UpdateImageRequest { image: Some(image.clone()), update_mask });
            match self.connection.ask(self.connection.images().update(request)).await {
                Err(status) if status.code() == Code::NotFound => {}
                answer => return answer.map(|_| ()).map_err(|status| self.connection.failed(format!("move {name}"), &status)),
            }
        }
        let status = tonic::Status::aborted("somebody else creates and removes it all the time");
        Err(self.connection.failed(format!("name {name}"), &status))
    }

    /// Deletes records; after the last one the engine collects what only they kept, before this ends.
    pub(super) async fn delete_records(&self, names: &[String]) -> Result<(), StoreError> {
        let last = names.len().saturating_sub(1);
        for (position, name) in names.iter().enumerate() {
            let request = self.connection.request(DeleteImageRequest { name: name.clone(), sync: position == last });
            let answer = self.connection.ask(self.connection.images().delete(request)).await;
            found(answer).map_err(|status| self.connection.failed(format!("remove {name}"), &status))?;
        }
        Ok(())
    }
}

/// As the engine writes a descriptor.
pub(super) fn write_descriptor(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size_bytes).unwrap_or(i64::MAX),
        annotations: Labels::new(),
    }
}

fn read_descriptor(descriptor: types::Descriptor) -> Option<Descriptor> {
    let digest = descriptor.digest.parse().ok()?;
    Some(Descriptor { media_type: descriptor.media_type, digest, size_bytes: u64::try_from(descriptor.size).ok()? })
}

/// The name that a person would use, when the record has one.
fn reference_of(name: &str, root: &Digest) -> Option<Reference> {
    if name.starts_with(DANGLING) || name.starts_with(UNTAGGED) {
        return None;
    }
    let reference: Reference = name.parse().ok()?;
    // What does not come out as it went in is not a full name, but `sha256:…` or some tool's own.
    (reference.to_string() == name && reference.fits(root)).then_some(reference)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn image(name: &str, root: &[u8]) -> Image {
        let target = Some(write_descriptor(&Descriptor::of("x", root)));
        Image { name: name.to_owned(), labels: Labels::new(), target, created_at: None, updated_at: None }
    }

    fn shown(images: &[Image], flavour: Flavour) -> Vec<String> {
        let entries = Records::read(images.to_vec(), flavour).entries;
        entries.iter().map(|entry| entry.reference.as_ref().map_or("-".to_owned(), Reference::familiar)).collect()
    }

    #[test]
    fn what_no_person_would_write_is_no_name() {
        let root = Digest::of(b"1");
        let config = format!("sha256:{}", Digest::of(b"config").hex());
        let pinned = format!("docker.io/library/demo@{root}");
        let images = [image("docker.io/library/demo:v1", b"1"), image(&config, b"1"), image(&pinned, b"1")];
        assert_eq!(shown(&images, Flavour::Kubernetes), ["demo:v1"]);
        assert_eq!(shown(&images, Flavour::Plain), ["demo:v1".to_owned(), format!("demo@{root}")]);
        assert_eq!(shown(&images[1..], Flavour::Kubernetes), [format!("demo@{root}")], "what is pinned by its digest alone has that name");
        let records = Records::read(images.to_vec(), Flavour::Kubernetes);
        assert_eq!(records.alias(&pinned.parse().unwrap()), Some((pinned.clone(), root)), "it can be removed alone");
        assert_eq!(records.alias(&"demo:v1".parse().unwrap()), None);
        assert_eq!(shown(&images[1..2], Flavour::Kubernetes), ["-"]);
        for flavour in [Flavour::Plain, Flavour::Docker, Flavour::Kubernetes] {
            assert_eq!(shown(&[image(&untagged(flavour, &root), b"1"), image("import-2026", b"2")], flavour), ["-", "-"]);
        }
    }

    #[test]
    fn what_an_image_was_built_on_is_a_step_while_it_has_no_name() {
        let step = untagged(Flavour::Docker, &Digest::of(b"1"));
        let mut built = image("docker.io/library/demo:v1", b"2");
        built.labels.insert(PARENT.to_owned(), Digest::of(b"1").to_string());
        let is_step = |images: &[Image]| Records::read(images.to_vec(), Flavour::Docker).entries.iter().any(|entry| entry.is_step);
        assert!(is_step(&[image(&step, b"1"), built.clone()]));
        assert!(!is_step(&[image("docker.io/library/base:v1", b"1"), built]));
        assert!(!is_step(&[image(&step, b"1")]));
    }

    #[test]
    fn with_its_last_name_an_image_goes() {
        let config = format!("sha256:{}", Digest::of(b"config").hex());
        let images = vec![image("docker.io/library/demo:v1", b"1"), image(&config, b"1"), image("docker.io/library/demo:v2", b"1")];
        let records = Records::read(images, Flavour::Kubernetes);
        assert_eq!(records.to_remove(&[0]), ["docker.io/library/demo:v1"]);
        assert_eq!(records.to_remove(&[0, 1]), ["docker.io/library/demo:v1", &config, "docker.io/library/demo:v2"]);
        assert!(records.has_root(&Digest::of(b"1"), "docker.io/library/demo:v1"));
        assert!(!records.has_root(&Digest::of(b"2"), ""));
    }
}
