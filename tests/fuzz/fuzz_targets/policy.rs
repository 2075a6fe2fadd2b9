//! Attacks policy files with generated rules, and with any text.
//!
//! Promises: the first matching rule decides, as a second implementation here computes it; a text that is refused is refused with a line of the file.
#![no_main]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use agent::trust::{Policy, PolicyFile, TagMove, TrustError};
use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use proto::HostId;
use proto::host::Member;
use tempfile::TempDir;

static DIRECTORY: LazyLock<TempDir> = LazyLock::new(fuzz::directory);

const HOSTS: [&str; 4] = ["a", "b", "web", "db"];
const PIECES: [&str; 6] = ["*", "a", "b", "/", "aa", "**"];
const UNITS: [(&str, u64); 5] = [("B", 1), ("kB", 1000), ("MiB", 1 << 20), ("GB", 1_000_000_000), ("TiB", 1 << 40)];

/// Values of `move_tags`.
const MOVES: [&str; 3] = ["true", "false", "\"same-sender\""];

/// A rule as the model keeps it.
#[derive(Default)]
struct Rule {
    hosts: Option<Vec<String>>,
    patterns: Option<Vec<String>>,
    allow: bool,
    most_bytes: Option<u64>,
    /// Of [`MOVES`].
    moves: usize,
}

impl Rule {
    fn new(choices: &mut Choices<'_>, text: &mut String, is_push: bool) -> Self {
        let mut rule = Self { allow: true, ..Self::default() };
        let _ = writeln!(text, "[[{}]]", if is_push { "push" } else { "pull" });
        if choices.one_in(2) {
            let host = |choices: &mut Choices<'_>| format!("{}{}", ["", "@"][choices.below(2)], HOSTS[choices.below(4)]);
            let hosts: Vec<String> = (0..choices.below(3)).map(|_| host(choices)).collect();
            let _ = writeln!(text, "{} = {hosts:?}", if is_push { "from" } else { "by" });
            rule.hosts = Some(hosts);
        }
        if choices.one_in(2) {
            let patterns: Vec<String> = (0..choices.below(3)).map(|_| pieces(choices, &PIECES) + "/*a").collect();
            let _ = writeln!(text, "repositories = {patterns:?}");
            rule.patterns = Some(patterns);
        }
        if choices.one_in(2) {
            rule.allow = choices.one_in(2);
            let _ = writeln!(text, "allow = {}", rule.allow);
        }
        if is_push && choices.one_in(2) {
            let (number, (unit, factor)) = (choices.byte(), UNITS[choices.below(UNITS.len())]);
            let _ = writeln!(text, "max_size = \"{number}{unit}\"");
            rule.most_bytes = Some(u64::from(number) * factor);
        }
        if is_push && choices.one_in(2) {
            rule.moves = choices.below(MOVES.len());
            let _ = writeln!(text, "move_tags = {}", MOVES[rule.moves]);
        }
        rule
    }

    fn matches(&self, member: &Member, repository: &str) -> bool {
        let host = |host: &String| match host.strip_prefix('@') {
            Some(group) => member.groups.iter().any(|known| known == group),
            None => *host == member.name,
        };
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(host))
            && self.patterns.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| fits(pattern.as_bytes(), repository.as_bytes())))
    }
}

fn pieces(choices: &mut Choices<'_>, pieces: &[&str]) -> String {
    (0..choices.below(6)).map(|_| pieces[choices.below(pieces.len())]).collect()
}

/// True when the name fits the pattern: the definition, in exponential time.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, _) => name.is_empty(),
        (Some((b'*', rest)), None) => fits(rest, name),
        (Some((b'*', rest)), Some((_, shorter))) => fits(rest, name) || fits(pattern, shorter),
        (Some((first, rest)), Some((byte, shorter))) => first == byte && fits(rest, shorter),
        (Some(_), None) => false,
    }
}

fn load(text: &[u8]) -> Result<Policy, TrustError> {
    let path: PathBuf = DIRECTORY.path().join("policy.toml");
    std::fs::write(&path, text).expect("a file");
    Policy::load(&PolicyFile::Named(path))
}

fn any_text(text: &[u8]) {
    match load(text) {
        Err(TrustError::Policy { line, .. }) => assert!(line >= 1 && line <= 1 + text.iter().filter(|&&byte| byte == b'\n').count()),
        Err(_) => assert!(std::str::from_utf8(text).is_err(), "no line is named"),
        Ok(_) => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    if choices.one_in(3) {
        return any_text(choices.rest());
    }
    let mut text = String::new();
    let push: Vec<Rule> = (0..choices.below(4)).map(|_| Rule::new(&mut choices, &mut text, true)).collect();
    let pull: Vec<Rule> = (0..choices.below(4)).map(|_| Rule::new(&mut choices, &mut text, false)).collect();
    let policy = load(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(policy.restricts_pull(), !pull.is_empty());
    for _ in 0..8 {
        let groups = (0..choices.below(3)).map(|_| HOSTS[choices.below(4)].to_owned()).collect();
        let name = HOSTS[choices.below(4)].to_owned();
        let member = Member { id: HostId::of_public_key(name.as_bytes()), name, roles: vec![], groups };
        let repository = pieces(&mut choices, &PIECES[1..5]) + "/ba";
        let size_bytes = choices.number() >> choices.below(64);
        let tag_move = [TagMove::None, TagMove::OwnTag, TagMove::ForeignTag][choices.below(3)];

        let decision = policy.decide_push(&member, &repository, size_bytes, tag_move);
        let first = push.iter().position(|rule| rule.matches(&member, &repository));
        let moves = |rule: &Rule| match tag_move {
            TagMove::None => true,
            TagMove::OwnTag => rule.moves != 1,
            TagMove::ForeignTag => rule.moves == 0,
        };
        let allows = |rule: &Rule| rule.allow && rule.most_bytes.is_none_or(|most| size_bytes <= most) && moves(rule);
        let expected = first.map_or(push.is_empty(), |first| allows(&push[first]));
        assert_eq!(decision.allowed, expected, "{decision:?}\n{text}");
        assert!(first.is_none_or(|first| decision.rule.starts_with(&format!("push rule {}", first + 1))), "{decision:?}");

        let decision = policy.decide_pull(&member, &repository);
        let first = pull.iter().position(|rule| rule.matches(&member, &repository));
        assert_eq!(decision.allowed, first.map_or(pull.is_empty(), |first| pull[first].allow), "{decision:?}\n{text}");
    }
});
