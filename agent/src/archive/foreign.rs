//! Ways to pack a file that are not read here, told by its first bytes.

/// Bytes that have to be seen.
pub(super) const FIRST_BYTES: usize = 6;

/// How a file is packed that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// `xz` …
    pub name: &'static str,
    /// The command that unpacks a file to its standard output.
    pub command: &'static str,
}

/// By the first bytes.
const KNOWN: [(&[u8], Foreign); 8] = [
    (b"\xfd7zXZ\0", Foreign { name: "xz", command: "xz -dc" }),
    (b"BZh", Foreign { name: "bzip2", command: "bzip2 -dc" }),
    (b"\x04\x22\x4d\x18", Foreign { name: "lz4", command: "lz4 -dc" }),
    (b"LZIP", Foreign { name: "lzip", command: "lzip -dc" }),
    (b"\x5d\0\0", Foreign { name: "lzma", command: "xz -dc" }),
    (b"\x1f\x9d", Foreign { name: "compress", command: "gzip -dc" }),
    (b"PK\x03\x04", Foreign { name: "zip", command: "unzip -p" }),
    (b"7z\xbc\xaf\x27\x1c", Foreign { name: "7z", command: "7z x -so" }),
];

impl Foreign {
    /// `None` where it is not packed, in a way that is read here, or in one that nobody knows.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        KNOWN.iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, foreign)| *foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packings_are_told_by_their_first_bytes() {
        let name = |first: &[u8]| Foreign::of(first).map(|foreign| foreign.name);
        assert_eq!(name(b"\xfd7zXZ\0\0\x04"), Some("xz"));
        assert_eq!(name(b"BZh91AY&SY"), Some("bzip2"));
        assert_eq!(name(b"\x1f\x8b\x08"), None);
        assert_eq!(name(b"manifest.json\0"), None);
        assert_eq!(name(b""), None);
        assert!(KNOWN.iter().all(|(magic, _)| magic.len() <= FIRST_BYTES));
    }
}
