//! How a person names an image: by reference or by ID.

use std::fmt;
use std::sync::Arc;

use proto::Reference;
use proto::reference::InvalidReference;

/// A name, an ID, or what may be either: names are tried first, as Docker does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Query(Arc<Parts>);

/// Shared, so that an error that names a query stays small.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Parts {
    text: String,
    reference: Option<Reference>,
    id_prefix: Option<String>,
}

impl Query {
    /// What somebody wrote.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let id_prefix = ((2..=64).contains(&digits.len()) && digits.bytes().all(hex)).then(|| digits.to_owned());
        match text.parse::<Reference>() {
            Ok(reference) => Ok(Self::new(text.to_owned(), Some(reference), id_prefix)),
            Err(_) if id_prefix.is_some() => Ok(Self::new(text.to_owned(), None, id_prefix)),
            Err(error) => Err(error),
        }
    }

    /// As a name.
    pub fn reference(&self) -> Option<&Reference> {
        self.0.reference.as_ref()
    }

    /// As the first digits of an ID.
    pub fn id_prefix(&self) -> Option<&str> {
        self.0.id_prefix.as_deref()
    }

    fn new(text: String, reference: Option<Reference>, id_prefix: Option<String>) -> Self {
        Self(Arc::new(Parts { text, reference, id_prefix }))
    }
}

impl From<Reference> for Query {
    fn from(reference: Reference) -> Self {
        Self::new(reference.familiar(), Some(reference), None)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_ids_and_what_may_be_either() {
        let query = |text: &str| Query::parse(text).unwrap();
        assert_eq!((query("demo").reference().is_some(), query("demo").id_prefix()), (true, None));
        assert_eq!((query("abc123").reference().is_some(), query("abc123").id_prefix()), (true, Some("abc123")));
        let whole = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!((query(whole).reference(), query(whole).id_prefix()), (None, Some(whole)));
        let digest = format!("sha256:{whole}");
        assert_eq!(query(&digest).id_prefix(), Some(whole));
        assert!(Query::parse("Demo").is_err());
    }
}
