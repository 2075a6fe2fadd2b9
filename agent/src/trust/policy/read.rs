//! A policy file as it is written.

use serde::Deserialize;

use super::pattern::{Pattern, Selector, Size};
use super::{MoveTags, Policy, Rule};

/// Reads a policy; else says which line is wrong, and what is wrong with it.
pub(super) fn policy(text: &str) -> Result<Policy, (usize, String)> {
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        (line_of(text, start), error.message().to_owned())
    })?;
    let push = file.push.into_iter().enumerate().map(|(index, rule)| Rule {
        title: title("push", index, rule.name.as_deref()),
        hosts: rule.from,
        repositories: rule.repositories,
        allow: rule.allow,
        max_size_bytes: rule.max_size.map(|size| size.0),
        move_tags: rule.move_tags.into(),
    });
    let pull = file.pull.into_iter().enumerate().map(|(index, rule)| Rule {
        title: title("pull", index, rule.name.as_deref()),
        hosts: rule.by,
        repositories: rule.repositories,
        allow: rule.allow,
        max_size_bytes: None,
        move_tags: MoveTags::Always,
    });
    Ok(Policy { push: push.collect(), pull: pull.collect(), ..Policy::default() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    push: Vec<PushRule>,
    #[serde(default)]
    pull: Vec<PullRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushRule {
    name: Option<String>,
    from: Option<Vec<Selector>>,
    repositories: Option<Vec<Pattern>>,
    #[serde(default = "yes")]
    allow: bool,
    max_size: Option<Size>,
    #[serde(default)]
    move_tags: Moves,
}

/// `true`, `false` or a word.
#[derive(Deserialize)]
#[serde(untagged, expecting = "move_tags is true, false or \"same-sender\"")]
enum Moves {
    All(bool),
    Some(Sender),
}

/// The words of `move_tags`.
#[derive(Deserialize)]
enum Sender {
    #[serde(rename = "same-sender")]
    Same,
}

impl Default for Moves {
    fn default() -> Self {
        Self::All(true)
    }
}

impl From<Moves> for MoveTags {
    fn from(written: Moves) -> Self {
        match written {
            Moves::All(true) => Self::Always,
            Moves::All(false) => Self::Never,
            Moves::Some(Sender::Same) => Self::SameSender,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PullRule {
    name: Option<String>,
    by: Option<Vec<Selector>>,
    repositories: Option<Vec<Pattern>>,
    #[serde(default = "yes")]
    allow: bool,
}

fn yes() -> bool {
    true
}

/// `push rule 2 (releases only)`.
fn title(direction: &str, index: usize, name: Option<&str>) -> String {
    let number = index + 1;
    match name {
        Some(name) => format!("{direction} rule {number} ({})", proto::text::escape_short(name, 80)),
        None => format!("{direction} rule {number}"),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}
