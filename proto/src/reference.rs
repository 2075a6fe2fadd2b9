//! Image names, by the rules of Docker (distribution/reference, "Grammar" and `ParseNormalizedNamed`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const NAME_BYTES: usize = 255;
const TAG_BYTES: usize = 128;

/// A complete image name: registry, repository, and a tag or a digest or both. `demo` is `docker.io/library/demo:latest`.
/// On the wire and on disk it is its canonical text, and is parsed again by whoever reads it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an image name: \"{}\": {reason}", crate::text::escape_short(.text, 300))]
pub struct InvalidReference {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// The repository, in full: `docker.io/library/demo`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it: `demo`.
    pub fn familiar_repository(&self) -> &str {
        let official = self.path.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/'));
        match official {
            Some(name) if self.domain == DEFAULT_DOMAIN => name,
            _ => &self.path,
        }
    }

    /// The whole name as people write it: `demo:nautilus`.
    pub fn familiar(&self) -> String {
        let repository = if self.domain == DEFAULT_DOMAIN { self.familiar_repository().to_owned() } else { self.repository() };
        format!("{repository}{}", self.suffix())
    }

    /// The tag, when there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the name is pinned to one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// True when it is not pinned, or is pinned to an image with this root.
    pub fn fits(&self, root: &Digest) -> bool {
        self.digest.is_none_or(|digest| digest == *root)
    }

    /// The name under which a store can keep it: without the digest where there is a tag.
    pub fn without_digest(&self) -> Self {
        match self.tag {
            Some(_) => Self { digest: None, ..self.clone() },
            None => self.clone(),
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > NAME_BYTES + TAG_BYTES + 100 {
            return Err("it is too long");
        }
        if text.len() == 64 && Digest::from_hex(text).is_ok() {
            return Err("64 hexadecimal digits are an image ID");
        }
        let (text, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|_| "behind the @ there must be sha256: and 64 hexadecimal digits")?))
            }
            None => (text, None),
        };
        let (domain, remainder) = split_domain(text);
        let (path, tag) = match remainder.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err("a repository name is lower case");
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        check_domain(domain)?;
        if domain.len() + 1 + path.len() > NAME_BYTES {
            return Err("a repository name has at most 255 characters");
        }
        path.split('/').try_for_each(check_path_component)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        // containerd and Kubernetes write it where an image has no name.
        let is_digest = |tag: &str| Digest::from_hex(tag).is_ok();
        if domain == DEFAULT_DOMAIN && path.strip_prefix(OFFICIAL) == Some("sha256") && tag.is_some_and(is_digest) {
            return Err("sha256: and 64 hexadecimal digits are a digest, and no name");
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }
}

/// The part before the first slash is a registry only when it looks like a host.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((domain, rest)) if domain.contains(['.', ':']) || domain == "localhost" || domain.bytes().any(|b| b.is_ascii_uppercase()) => {
            (if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain }, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    const WRONG: &str = "the registry is not a host name";
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(WRONG)?;
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return Err(WRONG);
            }
            ("", port.strip_prefix(':').or(port.is_empty().then_some("0")).ok_or(WRONG)?)
        }
        None => domain.split_once(':').unwrap_or((domain, "0")),
    };
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the registry's port is not a number");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.starts_with('[') || host.split('.').all(label) { Ok(()) } else { Err(WRONG) }
}

/// Letters and digits, with separators between them: one dot, one or two underscores, any number of hyphens.
fn check_path_component(component: &str) -> Result<(), &'static str> {
    const WRONG: &str = "a repository name has only a-z, 0-9 and single separators (. _ __ -) between them";
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !(bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric)) {
        return Err(WRONG);
    }
    let mut separators = bytes.split(alphanumeric).filter(|separator| !separator.is_empty());
    if separators.all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')) {
        Ok(())
    } else {
        Err(WRONG)
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    if bytes.first().copied().is_some_and(word) && bytes.len() <= TAG_BYTES && bytes.iter().all(|&b| word(b) || matches!(b, b'.' | b'-')) {
        Ok(())
    } else {
        Err("a tag has 1 to 128 letters, digits, _ . and -, and starts with none of the last two")
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        Self::parse(text).map_err(|reason| InvalidReference { text: text.to_owned(), reason })
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// The canonical text: what the stores keep. People are shown [`Reference::familiar`].
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn canonical_and_familiar_forms() {
        for (written, canonical, familiar) in [
            ("demo", "docker.io/library/demo:latest", "demo:latest"),
            ("demo:nautilus", "docker.io/library/demo:nautilus", "demo:nautilus"),
            ("acme/app:1", "docker.io/acme/app:1", "acme/app:1"),
            ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
            ("docker.io/demo", "docker.io/library/demo:latest", "demo:latest"),
            ("index.docker.io/demo", "docker.io/library/demo:latest", "demo:latest"),
            ("localhost/demo", "localhost/demo:latest", "localhost/demo:latest"),
            ("localhost:5000/demo", "localhost:5000/demo:latest", "localhost:5000/demo:latest"),
            ("quay.io/x/y:v1", "quay.io/x/y:v1", "quay.io/x/y:v1"),
            ("Host/demo", "Host/demo:latest", "Host/demo:latest"),
            ("[::1]:5000/demo:1", "[::1]:5000/demo:1", "[::1]:5000/demo:1"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("x/a--b__c.d_e", "docker.io/x/a--b__c.d_e:latest", "x/a--b__c.d_e:latest"),
        ] {
            let reference: Reference = written.parse().unwrap();
            assert_eq!(reference.to_string(), canonical);
            assert_eq!(reference.familiar(), familiar);
        }
    }

    #[test]
    fn a_digest_is_no_name_however_it_is_written() {
        for text in
            [format!("sha256:{HEX}"), format!("docker.io/library/sha256:{HEX}"), format!("index.docker.io/sha256:{HEX}"), HEX.to_owned()]
        {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!(format!("quay.io/sha256:{HEX}").parse::<Reference>().is_ok());
        assert!("sha256:1".parse::<Reference>().is_ok());
    }

    #[test]
    fn digests_pin_and_keep_the_tag() {
        let pinned: Reference = format!("demo@sha256:{HEX}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(Digest::of(b""))));
        let both: Reference = format!("demo:1@sha256:{HEX}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("1"), Some(Digest::of(b""))));
        assert_eq!(both.without_digest().to_string(), "docker.io/library/demo:1");
    }

    #[test]
    fn texts_that_are_no_reference() {
        for text in [
            "",
            ":",
            "@",
            "/",
            "/demo",
            "demo/",
            "demo:",
            "Demo",
            "library/Demo",
            "demo..x",
            "demo___x",
            "-demo",
            "demo-",
            "a//b",
            "demo:-x",
            "demo:.x",
            "demo:a b",
            "demo@sha256:12",
            "demo@md5:12",
            "quay.io:x/demo",
            "quay..io/demo",
            "-q.io/demo",
            "https://quay.io/demo",
            "../demo",
            "demo\u{1b}[2J",
            HEX,
            "демо",
            "[::1/demo",
            "quay.io:/demo",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} passed");
        }
        let long = "a".repeat(300);
        assert!(long.parse::<Reference>().is_err());
        assert!(format!("demo:{}", "t".repeat(129)).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_stays_itself(text in "\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
                prop_assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn names_survive_both_forms(domain in "(|localhost/|quay\\.io/|h:5000/)", path in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}", tag in "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}") {
            let reference: Reference = format!("{domain}{path}:{tag}").parse().unwrap();
            prop_assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference.clone());
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
    }
}
