//! Finding an image by its name or its ID, by the same rules in every store that keeps names itself.

use std::collections::BTreeSet;

use proto::peer::ImageRow;
use proto::{Digest, Image, Reference};

use super::{Query, StoreError};

/// A name and what it points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// `None`: an untagged image.
    pub(super) reference: Option<Reference>,
    /// Digest of the manifest or index.
    pub(super) root: Digest,
}

/// An image with all that may be its ID.
#[derive(Debug, Clone)]
pub(super) struct Identified {
    /// Position in the list of names.
    pub(super) position: usize,
    /// What is shown.
    pub(super) image_id: Digest,
    /// Root, indexes, manifests and configs.
    pub(super) digests: Vec<Digest>,
}

impl Identified {
    /// `None` for the image of an entry that leads nowhere: then its root is all there is.
    pub(super) fn new(position: usize, root: Digest, image_id: Digest, image: Option<&Image>) -> Self {
        let documents = image.into_iter().flat_map(Image::documents).map(|document| document.digest);
        Self { position, image_id, digests: std::iter::once(root).chain(documents).collect() }
    }
}

/// The positions of the entries that `reference` names. With a digest, it is the root's, within the repository, and the tag does not matter.
pub(super) fn by_name(entries: &[Named], reference: &Reference) -> Vec<usize> {
    let names = |entry: &&Reference| match reference.digest() {
        Some(_) => entry.repository() == reference.repository(),
        None => *entry == reference,
    };
    let fits = |entry: &Named| {
        let pinned = reference.digest().is_none_or(|digest| digest == entry.root);
        entry.reference.as_ref().filter(names).is_some() && pinned
    };
    entries.iter().enumerate().filter(|(_, entry)| fits(entry)).map(|(position, _)| position).collect()
}

/// Which of the entries that a query means lose their name with it. No name goes that was not asked for: an ID, or a digest that has no name of its own, does not
/// say which one of several.
pub(super) fn to_remove(entries: &[Named], found: &[usize], query: &Query) -> Result<Vec<usize>, Vec<String>> {
    let name = |position: &usize| entries.get(*position).and_then(|entry| entry.reference.as_ref());
    let only = |fits: &dyn Fn(&Reference) -> bool| {
        found.iter().copied().filter(|position| name(position).is_some_and(fits)).collect::<Vec<usize>>()
    };
    if let Some(wanted) = query.reference() {
        let exactly = only(&|name| name == wanted || (wanted.tag().is_some() && name.without_digest() == wanted.without_digest()));
        if !exactly.is_empty() {
            return Ok(exactly);
        }
    }
    match found.iter().filter_map(name).count() {
        0 | 1 => Ok(found.to_vec()),
        _ => Err(found.iter().filter_map(name).map(Reference::familiar).collect()),
    }
}

/// The positions of the entries that show the one image whose ID starts with `prefix`; none when there is no such image.
pub(super) fn by_id(images: &[Identified], prefix: &str, query: &Query) -> Result<Vec<usize>, StoreError> {
    let matching: Vec<&Identified> =
        images.iter().filter(|image| image.digests.iter().any(|digest| digest.hex().starts_with(prefix))).collect();
    let different: BTreeSet<Digest> = matching.iter().map(|image| image.image_id).collect();
    if different.len() > 1 {
        return Err(StoreError::Ambiguous(query.clone()));
    }
    Ok(matching.iter().map(|image| image.position).collect())
}

/// The order of a list: by name, those without a name last.
pub(super) fn sort(rows: &mut [ImageRow]) {
    rows.sort_by(|a, b| {
        let key = |row: &ImageRow| (row.reference.is_none(), row.reference.clone(), row.root);
        key(a).cmp(&key(b))
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn named(text: &str, root: &[u8]) -> Named {
        Named { reference: Some(text.parse().unwrap()), root: Digest::of(root) }
    }

    #[test]
    fn a_digest_overrides_the_tag_within_the_repository() {
        let entries = [named("demo:v1", b"1"), named("demo:v2", b"2"), named("other:v1", b"1")];
        let find = |text: &str| by_name(&entries, &text.parse().unwrap());
        assert_eq!(find("demo:v2"), [1]);
        assert!(find("demo:v3").is_empty());
        assert_eq!(find(&format!("demo:v2@{}", Digest::of(b"1"))), [0]);
        assert_eq!(find(&format!("other@{}", Digest::of(b"1"))), [2]);
        assert!(find(&format!("other@{}", Digest::of(b"2"))).is_empty());
    }

    #[test]
    fn no_name_goes_that_was_not_asked_for() {
        let pinned = format!("demo@{}", Digest::of(b"1"));
        let mut entries = vec![named("demo:v1", b"1"), named("demo:v2", b"1"), named(&pinned, b"1")];
        let remove = |entries: &[Named], text: &str| {
            let query = Query::parse(text).unwrap();
            to_remove(entries, &by_name(entries, query.reference().unwrap()), &query)
        };
        assert_eq!(remove(&entries, "demo:v2"), Ok(vec![1]));
        assert_eq!(remove(&entries, &pinned), Ok(vec![2]));
        assert_eq!(remove(&entries, &format!("demo:v2@{}", Digest::of(b"1"))), Ok(vec![1]));
        entries.pop();
        assert_eq!(remove(&entries, &pinned), Err(vec!["demo:v1".to_owned(), "demo:v2".to_owned()]));
        assert_eq!(remove(&entries[1..], &pinned), Ok(vec![0]));
        let id = Query::parse(&Digest::of(b"1").hex()).unwrap();
        assert!(to_remove(&entries, &[0, 1], &id).is_err());
        assert_eq!(to_remove(&[Named { reference: None, root: Digest::of(b"1") }], &[0], &id), Ok(vec![0]));
    }

    #[test]
    fn an_id_may_be_short_but_not_mean_two_images() {
        let image = |position, id: &[u8], root: &[u8]| Identified {
            position,
            image_id: Digest::of(id),
            digests: vec![Digest::of(root), Digest::of(id)],
        };
        let images = [image(0, b"a", b"1"), image(1, b"a", b"2"), image(2, b"b", b"3")];
        let query = Query::parse("ab").unwrap();
        let find = |prefix: &str| by_id(&images, prefix, &query);
        assert_eq!(find(&Digest::of(b"a").hex()).unwrap(), [0, 1]);
        assert_eq!(find(&Digest::of(b"2").hex()[..12]).unwrap(), [1]);
        assert!(find("ffffffffffffffff").unwrap().is_empty());
        assert!(matches!(find(""), Err(StoreError::Ambiguous(_))));
    }
}
