#![allow(clippy::unwrap_used)]

use proto::HostId;
use proto::host::Member;

use super::{Policy, PolicyFile, TagMove, read};
use crate::trust::TrustError;

const FILE: &str = r#"
[[push]]
name = "no secrets"
repositories = ["registry.lan:5000/secret/*"]
allow = false

[[push]]
from = ["stapp01", "@web"]
repositories = ["docker.io/library/*", "*/demo"]
max_size = "10GB"
move_tags = false

[[push]]
from = ["builder"]

[[pull]]
by = ["@web"]
repositories = ["docker.io/*"]
"#;

fn member(name: &str, groups: &[&str]) -> Member {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    Member { id: HostId::of_public_key(name.as_bytes()), name: name.to_owned(), roles: Vec::new(), groups }
}

#[test]
fn a_file_that_was_named_has_to_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    let load = || Policy::load(&PolicyFile::Named(path.clone()));
    assert!(matches!(load(), Err(TrustError::NoPolicy(missing)) if missing == path));
    // A directory, or a path that leads through a file, is no file that is absent.
    std::fs::create_dir(&path).unwrap();
    assert!(load().is_err() && Policy::load(&PolicyFile::Default(path.clone())).is_err());
    assert!(Policy::load(&PolicyFile::Default("/dev/null/policy.toml".into())).is_err());
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    load().unwrap();
}

#[test]
fn a_rule_may_name_an_id() {
    let (meant, namesake) = (member("build01", &[]), Member { id: HostId::of_public_key(b"other"), ..member("build01", &[]) });
    let policy = read::policy(&format!("[[push]]\nfrom = [\"{}\"]\n", meant.id)).unwrap();
    assert!(policy.decide_push(&meant, "docker.io/library/demo", 1, TagMove::ForeignTag).allowed);
    assert!(!policy.decide_push(&namesake, "docker.io/library/demo", 1, TagMove::ForeignTag).allowed);
}

#[test]
fn without_rules_members_may_do_everything() {
    let directory = tempfile::tempdir().unwrap();
    let policy = Policy::load(&PolicyFile::Default(directory.path().join("policy.toml"))).unwrap();
    let decision = policy.decide_push(&member("any", &[]), "docker.io/library/demo", u64::MAX, TagMove::ForeignTag);
    assert!(decision.allowed);
    assert_eq!(decision.rule, "default: members may push");
    assert!(policy.decide_pull(&member("any", &[]), "docker.io/library/demo").allowed);
}

#[test]
fn the_first_rule_that_matches_decides_a_push() {
    let policy = read::policy(FILE).unwrap();
    let cases = [
        ("stapp01", &[][..], "docker.io/library/demo", 10_000_000_000, false, true, "push rule 2"),
        (
            "stapp01",
            &[],
            "docker.io/library/demo",
            10_000_000_001,
            false,
            false,
            "push rule 2: at most 10000000000 bytes, this image has 10000000001",
        ),
        ("stapp01", &[], "docker.io/library/demo", 1, true, false, "push rule 2: tags may not move"),
        ("stapp02", &["web"], "quay.io/team/demo", 1, false, true, "push rule 2"),
        ("stapp02", &["db"], "quay.io/team/demo", 1, false, false, "no push rule matches"),
        ("web", &[], "quay.io/team/demo", 1, false, false, "no push rule matches"),
        ("stapp01", &[], "docker.io/team/other", 1, false, false, "no push rule matches"),
        ("builder", &[], "docker.io/team/other", u64::MAX, true, true, "push rule 3"),
        ("builder", &[], "registry.lan:5000/secret/x/y", 1, true, false, "push rule 1 (no secrets)"),
    ];
    for (name, groups, repository, size_bytes, moves_tag, allowed, rule) in cases {
        let tag_move = if moves_tag { TagMove::OwnTag } else { TagMove::None };
        let decision = policy.decide_push(&member(name, groups), repository, size_bytes, tag_move);
        assert_eq!((decision.allowed, decision.rule.as_str()), (allowed, rule), "{name} {repository}");
    }
}

#[test]
fn a_rule_may_let_a_tag_move_for_its_sender_alone() {
    for (value, own, foreign) in [("true", true, true), ("false", false, false), ("\"same-sender\"", true, false)] {
        let policy = read::policy(&format!("[[push]]\nmove_tags = {value}\n")).unwrap();
        let decide = |tag_move| policy.decide_push(&member("a", &[]), "docker.io/library/demo", 1, tag_move).allowed;
        assert_eq!((decide(TagMove::None), decide(TagMove::OwnTag), decide(TagMove::ForeignTag)), (true, own, foreign), "{value}");
        assert_eq!(policy.asks_for_senders(), own && !foreign);
    }
}

#[test]
fn a_new_fleet_gets_a_policy_where_there_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    let policy = Policy::load(&PolicyFile::Default(path.clone())).unwrap();
    let may_take = |policy: &Policy| policy.decide_push(&member("a", &[]), "docker.io/library/demo", 1, TagMove::ForeignTag).allowed;
    assert!(may_take(&policy));
    assert_eq!(policy.start().unwrap(), Some(path.clone()));
    // At once, and after the next start.
    assert!(!may_take(&policy) && policy.asks_for_senders());
    let restarted = Policy::load(&PolicyFile::Default(path.clone())).unwrap();
    assert!(!may_take(&restarted) && !restarted.restricts_pull());
    // A file that somebody has written, before the start or after it, stays as it is, and so do the rules.
    std::fs::remove_file(&path).unwrap();
    let policy = Policy::load(&PolicyFile::Default(path.clone())).unwrap();
    std::fs::write(&path, "# mine\n").unwrap();
    assert!(policy.start().unwrap().is_none() && may_take(&policy));
    assert!(Policy::load(&PolicyFile::Named(path.clone())).unwrap().start().unwrap().is_none());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "# mine\n");
    // Where it cannot be written the rules stay what they are.
    let policy = Policy::load(&PolicyFile::Default(directory.path().join("absent/policy.toml"))).unwrap();
    assert!(policy.start().is_err() && may_take(&policy));
}

#[test]
fn the_first_rule_that_matches_decides_a_pull() {
    let policy = read::policy(FILE).unwrap();
    assert_eq!(policy.decide_pull(&member("a", &["web"]), "docker.io/library/demo").rule, "pull rule 1");
    assert!(!policy.decide_pull(&member("a", &["web"]), "quay.io/x").allowed);
    assert!(!policy.decide_pull(&member("a", &[]), "docker.io/library/demo").allowed);
}

#[test]
fn errors_name_path_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    let cases = [
        ("[[push]]\nfrom = [\"a\"]\nmaxsize = \"1GB\"\n", 3, "unknown field `maxsize`"),
        ("\n[[pull]]\nfrom = [\"a\"]\n", 3, "unknown field `from`"),
        ("[[pushes]]\n", 1, "unknown field `pushes`"),
        ("[[push]]\n\nmax_size = \"10 apples\"\n", 3, "\"10 apples\" is not a size like 10GB or 512MiB"),
        ("[[push]]\nmax_size = \"99999999999TB\"\n", 2, "is not a size"),
        ("[[push]]\nfrom = [\"Web\"]\n", 2, "not a host name: \"Web\""),
        ("[[push]]\nrepositories = [\"demo\"]\n", 2, "docker.io/library/demo?"),
        ("[[push]]\nrepositories = [\"docker.io/library/demo:latest\"]\n", 2, "without a tag"),
        ("[[push]]\nallow = yes\n", 2, ""),
        ("[[push]]\nmove_tags = \"same_sender\"\n", 2, "move_tags is true, false or \"same-sender\""),
        ("[[push]]\nmove_tags = 1\n", 2, "move_tags is true, false or \"same-sender\""),
    ];
    for (text, line, reason) in cases {
        std::fs::write(&path, text).unwrap();
        let error = Policy::load(&PolicyFile::Default(path.clone())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{path:?} line {line}: ")), "{text}: {error}");
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn stars_stand_for_any_characters_and_are_not_slow() {
    let matches = |pattern: &str, name: &str| super::Pattern::try_from(pattern.to_owned()).unwrap().matches(name);
    for (pattern, name, fits) in [
        ("*", "", true),
        ("*", "docker.io/a/b", true),
        ("docker.io/*", "docker.io/", true),
        ("docker.io/*", "docker.i", false),
        ("*/demo", "a/b/demo", true),
        ("*/demo", "a/b/demo2", false),
        ("a/*b*c", "a/xbxbxc", true),
        ("a/*b*c", "a/xbxbx", false),
        ("a/b", "a/bc", false),
        ("a/b**", "a/b", true),
    ] {
        assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
    }
    assert!(!matches(&format!("{}b", "a*".repeat(2_000)), &"a".repeat(4_000)));
}
