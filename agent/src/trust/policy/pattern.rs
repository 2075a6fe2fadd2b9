//! The words of a rule: whom it is for, which repositories, how large.

use proto::HostId;
use proto::host::{Member, check_name};
use serde::Deserialize;

/// `stapp01`, `@web` for a group, or an ID in full: a host chooses its name when it joins, unless it was invited `--for` one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Selector {
    Host(String),
    Group(String),
    Id(HostId),
}

impl Selector {
    /// Whether the member is meant.
    pub(super) fn selects(&self, member: &Member) -> bool {
        match self {
            Self::Host(name) => member.name == *name,
            Self::Group(group) => member.groups.contains(group),
            Self::Id(id) => member.id == *id,
        }
    }
}

impl TryFrom<String> for Selector {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let (name, is_group) = text.strip_prefix('@').map_or((text.as_str(), false), |group| (group, true));
        check_name(name).map_err(|error| format!("{error}; a group is written @NAME"))?;
        Ok(if is_group { Self::Group(name.to_owned()) } else { Self::Host(name.to_owned()) })
    }
}

/// A full repository name in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Pattern(String);

impl Pattern {
    /// Whether the name fits. Takes time proportional to the two lengths, whatever the pattern.
    pub(super) fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on when what follows the last star does not fit: a star further right never has to be undone.
        let mut retry = None;
        while n < name.len() {
            if pattern.get(p) == Some(&b'*') {
                retry = Some((p + 1, n));
                p += 1;
            } else if pattern.get(p) == Some(&name[n]) {
                (p, n) = (p + 1, n + 1);
            } else if let Some((after_star, from)) = retry {
                retry = Some((after_star, from + 1));
                (p, n) = (after_star, from + 1);
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|&b| b == b'*')
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // A name that no repository can have would be a rule that never matches: the likely slip is a short name or a tag.
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"*._-/:".contains(&b);
        let shown = proto::text::escape_short(&text, 80);
        if !text.contains(['/', '*']) {
            return Err(format!("\"{shown}\" is not a full repository name: docker.io/library/{shown}?"));
        }
        let tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
        if tag || text.contains('@') || !text.bytes().all(allowed) {
            return Err(format!("\"{shown}\" is not a repository name with * in it, without a tag"));
        }
        Ok(Self(text))
    }
}

/// `10GB`, `512MiB`: a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Size(pub(super) u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor: Option<u64> = match unit.trim() {
            "B" => Some(1),
            "kB" | "KB" => Some(1_000),
            "MB" => Some(1_000_000),
            "GB" => Some(1_000_000_000),
            "TB" => Some(1_000_000_000_000),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            "TiB" => Some(1 << 40),
            _ => None,
        };
        let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| format!("\"{}\" is not a size like 10GB or 512MiB", proto::text::escape_short(&text, 80)))
    }
}
