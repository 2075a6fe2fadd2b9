//! Operating system, architecture and variant: which manifest of an index fits a host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform in normal form (`linux/amd64`, `linux/arm/v7`): the names that Go uses, as everywhere in images.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, `windows` …
    pub os: String,
    /// `amd64`, `arm64`, `arm` …
    pub architecture: String,
    /// `v7`, `v8` …; empty where there is only one.
    pub variant: String,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a platform: \"{}\"", crate::text::escape(.0))]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// False for what somebody wrote who does not mean a platform.
    pub fn is_short(&self) -> bool {
        [&self.os, &self.architecture, &self.variant].iter().all(|text| text.len() <= 255)
    }

    /// Normal form of what a document or a person wrote: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `arm` alone is `arm/v7`.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// The platform this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "riscv64gc" => "riscv64",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, "")
    }

    /// What BuildKit gives for the platform of something that does not run: `unknown/unknown`.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// How well content for `offered` runs on `self`: `None` not at all, else lower is better.
    /// An arm host runs every older arm variant, an amd64 host every lower level; the nearest below wins.
    pub fn rank(&self, offered: &Self) -> Option<u8> {
        if self.os != offered.os {
            return None;
        }
        if self.architecture == offered.architecture {
            if self.variant == offered.variant {
                return Some(0);
            }
            let (mine, theirs) = (level(&self.architecture, &self.variant)?, level(&offered.architecture, &offered.variant)?);
            return mine.checked_sub(theirs);
        }
        // A 64-bit arm host runs 32-bit content only where the kernel was told so: never silently.
        None
    }
}

/// The number in a variant; where there is none, the architecture's baseline.
fn level(architecture: &str, variant: &str) -> Option<u8> {
    match (architecture, variant) {
        ("amd64", "") => Some(1),
        ("arm64", "") => Some(8),
        (_, variant) => variant.strip_prefix('v')?.parse().ok(),
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty() && part.len() <= 32 && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(word) {
            return Err(InvalidPlatform(text.to_owned()));
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(InvalidPlatform(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", crate::text::escape(&self.os), crate::text::escape(&self.architecture))?;
        if !self.variant.is_empty() {
            write!(f, "/{}", crate::text::escape(&self.variant))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn normal_forms() {
        for (written, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/i686", "linux/386"),
        ] {
            assert_eq!(platform(written).to_string(), normal);
        }
    }

    #[test]
    fn texts_that_are_no_platform() {
        for text in ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/a md64", "linux/\u{1b}"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_older_variant_fits() {
        assert_eq!(platform("linux/arm/v7").rank(&platform("linux/arm/v7")), Some(0));
        assert_eq!(platform("linux/arm/v7").rank(&platform("linux/arm/v5")), Some(2));
        assert_eq!(platform("linux/arm/v6").rank(&platform("linux/arm/v7")), None);
        assert_eq!(platform("linux/amd64/v3").rank(&platform("linux/amd64")), Some(2));
        assert_eq!(platform("linux/amd64").rank(&platform("linux/amd64/v2")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("linux/arm64")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("windows/amd64")), None);
    }
}
