//! `index.json`: the names. Other tools write it too, so it is read again whenever it has changed, and what we do not know in it stays.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::descriptor::media_type;
use proto::{Descriptor, Reference, shape};
use serde_json::{Value, json};

use crate::store::StoreError;
use crate::store::names::Named;
use crate::sys::durable;

/// Name of an image in full, as containerd and everybody after it writes it.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Name of an image as the specification has it: anything.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// When we moved the name, in seconds since 1970.
const TAGGED: &str = "internal.imgd.tagged";

/// More than 100,000 names.
const INDEX_BYTES: u64 = 64 * 1024 * 1024;

/// A file that was written this recently may be written again without its time changing.
const SETTLED: Duration = Duration::from_millis(100);

/// The file, and what it said last.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    known: Option<(Stamp, Arc<Names>)>,
}

/// What `index.json` says.
#[derive(Debug, Default)]
pub(super) struct Names {
    document: Value,
    /// The entries that we can make sense of, in the order of the file.
    pub(super) entries: Vec<Entry>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place in the file.
    position: usize,
    /// `None`: an untagged image.
    pub(super) reference: Option<Reference>,
    /// What it points to.
    pub(super) root: Descriptor,
    /// When we moved the name here.
    pub(super) tagged_unix_s: Option<u64>,
    /// Written by us for an image that had no name.
    bare: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size_bytes: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

impl Index {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), known: None }
    }

    /// An index without entries, for a new layout.
    pub(super) fn empty() -> Vec<u8> {
        json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": []}).to_string().into_bytes()
    }

    /// The names as they are now. [`StoreError::Malformed`] also while another tool is writing the file.
    pub(super) fn read(&mut self) -> Result<Arc<Names>, StoreError> {
        let metadata = std::fs::metadata(&self.path).map_err(StoreError::io("read", &self.path))?;
        let stamp = Stamp::of(&metadata);
        if let Some((known, names)) = &self.known
            && *known == stamp
        {
            return Ok(names.clone());
        }
        let names = Arc::new(self.parse()?);
        let settled = metadata.modified().is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > SETTLED));
        self.known = settled.then(|| (stamp, names.clone()));
        Ok(names)
    }

    /// Replaces the file, durably.
    pub(super) fn write(&mut self, document: &Value) -> Result<(), StoreError> {
        self.known = None;
        durable::write(&self.path, document.to_string().as_bytes(), 0o644)
    }

    fn parse(&self) -> Result<Names, StoreError> {
        let malformed = |reason| StoreError::Malformed { path: self.path.clone(), reason };
        let size_bytes = std::fs::metadata(&self.path).map_err(StoreError::io("read", &self.path))?.len();
        if size_bytes > INDEX_BYTES {
            return Err(malformed(format!("it is larger than {INDEX_BYTES} bytes")));
        }
        let bytes = std::fs::read(&self.path).map_err(StoreError::io("read", &self.path))?;
        Names::parse(&bytes).map_err(malformed)
    }
}

impl Names {
    /// For [`crate::store::names`].
    pub(super) fn named(&self) -> Vec<Named> {
        self.entries.iter().map(|entry| Named { reference: entry.reference.clone(), root: entry.root.digest }).collect()
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let decides: Value = shape::read(bytes, &shape::DOCUMENT)?;
        let document: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !document.is_object() {
            return Err("it is not an object".to_owned());
        }
        if document["manifests"].is_null() && !decides["manifests"].is_null() {
            return Err("its manifests have another key".to_owned());
        }
        let manifests = match &document["manifests"] {
            Value::Array(manifests) => manifests.as_slice(),
            Value::Null => &[],
            _ => return Err("\"manifests\" is not a list".to_owned()),
        };
        let mut entries: Vec<Entry> = manifests.iter().enumerate().filter_map(|(i, value)| Entry::parse(i, value)).collect();
        // Two tools may write one name in two spellings: the later one moved it.
        let mut last: HashMap<Reference, usize> = HashMap::new();
        for (i, entry) in entries.iter().enumerate() {
            last.extend(entry.reference.clone().map(|reference| (reference, i)));
        }
        for (i, entry) in entries.iter_mut().enumerate() {
            entry.reference.take_if(|reference| last[reference] != i);
        }
        Ok(Self { document, entries })
    }

    /// Everything that is pointed to, also by entries that we can make no sense of.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Value> {
        self.document["manifests"].as_array().into_iter().flatten()
    }

    /// The document after `reference` was moved to `root`; for `None`, after `root` was added without a name.
    pub(super) fn with(&self, reference: Option<&Reference>, root: &Descriptor, now_unix_s: u64) -> Value {
        let gone = |entry: &&Entry| match reference {
            Some(_) => entry.reference.as_ref() == reference || (entry.bare && entry.root.digest == root.digest),
            None => false,
        };
        let gone: Vec<usize> = self.entries.iter().filter(gone).map(|entry| entry.position).collect();
        let mut annotations = json!({TAGGED: now_unix_s.to_string()});
        if let Some(reference) = reference {
            annotations[IMAGE_NAME] = reference.to_string().into();
            annotations[REF_NAME] = reference.to_string().into();
        }
        let mut document = self.without_positions(&gone);
        let entry =
            json!({"mediaType": root.media_type, "digest": root.digest.to_string(), "size": root.size_bytes, "annotations": annotations});
        if let Some(manifests) = document["manifests"].as_array_mut() {
            manifests.push(entry);
        }
        document
    }

    /// The document without some of [`Names::entries`].
    pub(super) fn without(&self, entries: &[usize]) -> Value {
        let positions: Vec<usize> = entries.iter().filter_map(|&i| self.entries.get(i)).map(|entry| entry.position).collect();
        self.without_positions(&positions)
    }

    fn without_positions(&self, positions: &[usize]) -> Value {
        let manifests = self.document["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let kept = manifests.iter().enumerate().filter(|(position, _)| !positions.contains(position));
        let kept: Vec<Value> = kept.map(|(_, value)| value.clone()).collect();
        let mut document = self.document.clone();
        document["manifests"] = kept.into();
        document
    }
}

impl Entry {
    fn parse(position: usize, value: &Value) -> Option<Self> {
        let root = Descriptor {
            media_type: value["mediaType"].as_str()?.to_owned(),
            digest: value["digest"].as_str()?.parse().ok()?,
            size_bytes: value["size"].as_u64()?,
        };
        let annotations = &value["annotations"];
        let name = |key: &str| annotations[key].as_str().and_then(|text| text.parse::<Reference>().ok());
        let tagged_unix_s = annotations[TAGGED].as_str().and_then(|text| text.parse().ok());
        // We write both names alike. Where they differ, umoci has copied our entry and changed the one annotation that it knows.
        let is_copy = tagged_unix_s.is_some() && annotations[IMAGE_NAME] != annotations[REF_NAME];
        let reference = if is_copy { name(REF_NAME) } else { name(IMAGE_NAME).or_else(|| name(REF_NAME)) };
        let bare = tagged_unix_s.is_some() && annotations.as_object().is_some_and(|all| all.len() == 1);
        Some(Self { position, reference, root, tagged_unix_s, bare })
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified_ns: (metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(json: &Value) -> Names {
        Names::parse(json.to_string().as_bytes()).unwrap()
    }

    fn entry(content: &[u8], annotations: &Value) -> Value {
        let root = Descriptor::of(media_type::MANIFEST, content);
        json!({"mediaType": root.media_type, "digest": root.digest.to_string(), "size": root.size_bytes, "annotations": annotations})
    }

    #[test]
    fn names_of_every_writer_are_read() {
        let names = parse(&json!({"schemaVersion": 2, "manifests": [
            entry(b"1", &json!({IMAGE_NAME: "docker.io/library/demo:nautilus", REF_NAME: "nautilus"})),
            entry(b"2", &json!({REF_NAME: "demo:v1"})),
            entry(b"3", &json!({REF_NAME: "No Reference"})),
            entry(b"4", &Value::Null),
            {"digest": "sha512:abc"},
        ]}));
        let read: Vec<_> = names.entries.iter().map(|entry| entry.reference.as_ref().map(Reference::familiar)).collect();
        assert_eq!(read, [Some("demo:nautilus".to_owned()), Some("demo:v1".to_owned()), None, None]);
    }

    #[test]
    fn a_copy_of_our_entry_has_the_name_that_it_was_given() {
        let demo: Reference = "demo".parse().unwrap();
        let mut document = Names::parse(&Index::empty()).unwrap().with(Some(&demo), &Descriptor::of(media_type::MANIFEST, b"1"), 7);
        let mut copy = document["manifests"][0].clone();
        copy["annotations"][REF_NAME] = "copied".into();
        document["manifests"].as_array_mut().unwrap().push(copy);
        let read: Vec<_> = parse(&document).entries.iter().map(|entry| entry.reference.as_ref().map(Reference::familiar)).collect();
        assert_eq!(read, [Some("demo:latest".to_owned()), Some("copied:latest".to_owned())]);
    }

    #[test]
    fn the_later_of_two_spellings_wins_and_both_go_when_the_name_moves() {
        let names = parse(&json!({"manifests": [
            entry(b"1", &json!({IMAGE_NAME: "docker.io/library/demo:v1"})),
            entry(b"2", &json!({REF_NAME: "demo:v1"})),
        ]}));
        assert_eq!((names.entries[0].reference.is_some(), names.entries[1].reference.is_some()), (false, true));
        let demo: Reference = "demo:v1".parse().unwrap();
        let moved = parse(&names.with(Some(&demo), &Descriptor::of(media_type::MANIFEST, b"3"), 7));
        assert_eq!(moved.entries.iter().filter(|entry| entry.reference.as_ref() == Some(&demo)).count(), 1);
    }

    #[test]
    fn what_we_do_not_know_survives() {
        let foreign = entry(b"1", &json!({"com.example.note": "keep", REF_NAME: "v1"}));
        let names = parse(&json!({"schemaVersion": 2, "x-extra": {"a": 1}, "manifests": [foreign, {"digest": "sha512:abc", "y": [1]}]}));
        let demo: Reference = "demo".parse().unwrap();
        let root = Descriptor::of(media_type::MANIFEST, b"2");
        let after = names.with(Some(&demo), &root, 7);
        assert_eq!(after["x-extra"], json!({"a": 1}));
        assert_eq!(after["manifests"][0], foreign);
        assert_eq!(after["manifests"][1], json!({"digest": "sha512:abc", "y": [1]}));
        let after = parse(&after);
        assert_eq!(after.without(&[1])["manifests"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_name_takes_the_place_of_our_untagged_entry() {
        let root = Descriptor::of(media_type::MANIFEST, b"1");
        let untagged = parse(&Names::parse(&Index::empty()).unwrap().with(None, &root, 1));
        assert_eq!((untagged.entries.len(), untagged.entries[0].bare), (1, true));
        let demo: Reference = "demo".parse().unwrap();
        let named = parse(&untagged.with(Some(&demo), &root, 2));
        assert_eq!((named.entries.len(), named.entries[0].tagged_unix_s), (1, Some(2)));
    }
}
