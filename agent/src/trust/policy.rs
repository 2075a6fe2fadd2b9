//! What members may do here: strict TOML, the first rule that matches decides.
//!
//! Without a rule for a direction every member may push, pull and move tags. With one, what no rule matches is denied.

mod pattern;
mod read;
mod starter;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use proto::host::Member;

use super::TrustError;
use crate::store::StoreError;
use pattern::{Pattern, Selector};

/// The rules of this host.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    push: Vec<Rule>,
    pull: Vec<Rule>,
    /// The default path, when no file was there at the start.
    vacant: Option<PathBuf>,
    /// Push rules of the file that `fleet init` has written to it.
    started: OnceLock<Vec<Rule>>,
}

/// Where the rules are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyFile {
    /// Somebody has named it: it has to be there.
    Named(PathBuf),
    /// Nobody has: it may be absent.
    Default(PathBuf),
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub allowed: bool,
    /// Which rule says so, in words.
    pub rule: String,
}

/// What a push would do to a tag of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagMove {
    /// The tag is new, or shows the same image already.
    None,
    /// The tag shows another image, which the same member brought.
    OwnTag,
    /// The tag shows another image, which came in any other way.
    ForeignTag,
}

/// Which tags a push rule lets members move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MoveTags {
    /// All.
    Always,
    /// Those whose image the same member brought.
    SameSender,
    /// None.
    Never,
}

/// A `[[push]]` or `[[pull]]` table.
#[derive(Debug, Clone)]
struct Rule {
    title: String,
    /// `None`: any member.
    hosts: Option<Vec<Selector>>,
    /// `None`: all.
    repositories: Option<Vec<Pattern>>,
    allow: bool,
    max_size_bytes: Option<u64>,
    move_tags: MoveTags,
}

impl Policy {
    /// Reads a policy file. Only one that nobody has named may be absent: then every member may do everything. One with anything in it that is not
    /// known is an error that names the line.
    pub fn load(file: &PolicyFile) -> Result<Self, TrustError> {
        let (PolicyFile::Named(path) | PolicyFile::Default(path)) = file;
        match (std::fs::read_to_string(path), file) {
            (Ok(text), _) => read::policy(&text).map_err(|(line, reason)| TrustError::Policy { path: path.to_owned(), line, reason }),
            (Err(error), PolicyFile::Default(_)) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { vacant: Some(path.clone()), ..Self::default() })
            }
            (Err(error), PolicyFile::Named(_)) if error.kind() == io::ErrorKind::NotFound => Err(TrustError::NoPolicy(path.clone())),
            (Err(error), _) => Err(StoreError::io("read", path)(error).into()),
        }
    }

    /// Writes the policy file that a new fleet begins with to the default path, when no file was there at the start and none is there now. Its
    /// rules hold from now on. Returns the path, or `None` when a policy file is there. Blocks.
    pub fn start(&self) -> Result<Option<PathBuf>, TrustError> {
        let Some(path) = &self.vacant else { return Ok(None) };
        if !starter::write(path)? {
            return Ok(None);
        }
        let rules = read::policy(starter::TEXT).map_err(|(line, reason)| TrustError::Policy { path: path.clone(), line, reason })?;
        Ok(self.started.set(rules.push).is_ok().then(|| path.clone()))
    }

    /// Whether a member may bring an image of this size into a repository here (`docker.io/library/demo`), and with it move a tag.
    pub fn decide_push(&self, peer: &Member, repository: &str, size_bytes: u64, tag_move: TagMove) -> Decision {
        let rule = match find(self.push(), "push", peer, repository) {
            Ok(rule) => rule,
            Err(decision) => return decision,
        };
        if let Some(max_bytes) = rule.max_size_bytes.filter(|max_bytes| rule.allow && size_bytes > *max_bytes) {
            return rule.decision(false, &format!(": at most {max_bytes} bytes, this image has {size_bytes}"));
        }
        match (rule.move_tags, tag_move) {
            _ if !rule.allow => rule.decision(false, ""),
            (MoveTags::Never, TagMove::OwnTag | TagMove::ForeignTag) => rule.decision(false, ": tags may not move"),
            (MoveTags::SameSender, TagMove::ForeignTag) => {
                rule.decision(false, &format!(": a tag moves only for the host that brought its image, and that was not {}", peer.name))
            }
            _ => rule.decision(true, ""),
        }
    }

    /// True when a rule asks which member brought the image of a tag.
    pub fn asks_for_senders(&self) -> bool {
        self.push().iter().any(|rule| rule.move_tags == MoveTags::SameSender)
    }

    fn push(&self) -> &[Rule] {
        self.started.get().unwrap_or(&self.push)
    }

    /// True when not every member may get everything from here.
    pub fn restricts_pull(&self) -> bool {
        !self.pull.is_empty()
    }

    /// Whether a member may get images of a repository from here.
    pub fn decide_pull(&self, peer: &Member, repository: &str) -> Decision {
        match find(&self.pull, "pull", peer, repository) {
            Ok(rule) => rule.decision(rule.allow, ""),
            Err(decision) => decision,
        }
    }
}

impl Rule {
    fn matches(&self, peer: &Member, repository: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|host| host.selects(peer)))
            && self.repositories.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(repository)))
    }

    fn decision(&self, allowed: bool, reason: &str) -> Decision {
        Decision { allowed, rule: format!("{}{reason}", self.title) }
    }
}

/// The rule that decides, or the decision where there is none.
fn find<'a>(rules: &'a [Rule], direction: &str, peer: &Member, repository: &str) -> Result<&'a Rule, Decision> {
    if rules.is_empty() {
        return Err(Decision { allowed: true, rule: format!("default: members may {direction}") });
    }
    let none = || Decision { allowed: false, rule: format!("no {direction} rule matches") };
    rules.iter().find(|rule| rule.matches(peer, repository)).ok_or_else(none)
}
