use std::os::unix::fs::PermissionsExt;

use super::super::{Trust, TrustError};
use super::{Host, Time, once, pair};

#[test]
fn files_are_for_their_owner_alone() {
    let (_, signer, member) = pair();
    signer.invite(&once()).unwrap();
    for host in [&signer, &member] {
        let directory = host.directory.path().join("trust");
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }
    assert!(!member.directory.path().join("trust/ca.key").exists());
}

#[test]
fn a_directory_that_was_opened_to_others_is_closed() {
    let host = Host::new("a", &Time::new());
    let directory = host.directory.path().join("trust");
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    host.reopened("a");
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_key_that_others_can_read_stops_the_agent() {
    for name in ["host.key", "ca.key"] {
        for mode in [0o644, 0o640, 0o602] {
            let (_, signer, _) = pair();
            let path = signer.directory.path().join("trust").join(name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Trust::open(signer.directory.path(), "stapp01").unwrap_err();
            assert!(matches!(error, TrustError::OpenKey { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
    }
}

#[test]
fn a_damaged_file_is_named_with_its_remedy() {
    for name in ["host.key", "host.crt", "ca.crt", "ca.key", "members", "invitations.toml"] {
        for content in [Some(&b"damaged"[..]), Some(b""), None] {
            let (_, signer, _) = pair();
            signer.invite(&once()).unwrap();
            let path = signer.directory.path().join("trust").join(name);
            match content {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let opened = Trust::open(signer.directory.path(), "stapp01");
            // These may be absent: a host that is in no fleet, that is no signer, that invites nobody. An empty list invites nobody.
            let optional = ["ca.crt", "ca.key", "invitations.toml"].contains(&name);
            if (content.is_none() && optional) || (content == Some(b"") && name == "invitations.toml") {
                opened.unwrap();
                continue;
            }
            let error = opened.unwrap_err();
            assert!(matches!(error, TrustError::Corrupt { .. }), "{name}: {error}");
            let text = error.to_string();
            assert!(text.contains(name) && (text.contains("put it back") || text.contains("delete it")), "{text}");
        }
    }
}

#[test]
fn files_of_another_host_are_refused() {
    let (_, signer, member) = pair();
    let copy = |name: &str| {
        let from = member.directory.path().join("trust").join(name);
        std::fs::copy(from, signer.directory.path().join("trust").join(name)).unwrap();
    };
    copy("host.crt");
    assert!(matches!(Trust::open(signer.directory.path(), "stapp01"), Err(TrustError::Corrupt { .. })));
    copy("host.key");
    Trust::open(signer.directory.path(), "stapp01").unwrap();
}

#[test]
fn what_an_interrupted_init_leaves_is_not_in_the_way() {
    let (_, signer, _) = pair();
    let host = Host::new("stapp09", &signer.time);
    let stale = Host::signer("z", &signer.time);
    for name in ["ca.key", "host.crt", "members"] {
        let to = host.directory.path().join("trust").join(name);
        std::fs::copy(stale.directory.path().join("trust").join(name), to).unwrap();
    }
    assert_eq!(host.reopened("stapp09").fleet(), None);
    host.join(&signer);
    assert!(!host.reopened("stapp09").is_signer());
}

#[test]
fn names_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Trust::open(directory.path(), "Not a name"), Err(TrustError::Name(_))));
}

#[test]
fn debug_shows_no_secret() {
    let (_, signer, _) = pair();
    let invitation = signer.invite(&once()).unwrap();
    let secret = invitation.token.rsplit('-').next().unwrap();
    let texts = [format!("{:?}", *signer.trust), format!("{invitation:?}"), format!("{:?}", signer.lock())];
    for text in texts {
        assert!(!text.contains(secret), "{text}");
    }
}
