//! What helps: the command to run after a failure.

use proto::control::FailureKind;
use proto::text::escape;

/// The hint for a failure of this kind. Every kind has one.
pub(crate) fn hint(kind: &FailureKind) -> String {
    match kind {
        FailureKind::HostUnreachable(host) if !host.is_empty() => {
            let host = escape(host);
            format!(
                "see that imgd runs on {host} and that UDP 7117, or its --listen port, is open there and here; imgctl doctor {host} says more"
            )
        }
        FailureKind::NotSigner(Some(host)) => format!("run it on {}, which holds the key of the fleet", escape(host)),
        FailureKind::PlatformAbsent(available) if !available.is_empty() => {
            let options: Vec<String> = available.iter().map(|platform| format!("--platform {platform}")).collect();
            format!("{}, or --all-platforms", options.join(" or "))
        }
        FailureKind::NameTaken(name) => {
            let name = escape(name);
            format!(
                "if {name} was reinstalled: imgctl fleet invite --replace {name}; else give this host another name (imgd --name, or name = in its configuration)"
            )
        }
        FailureKind::NotPermitted(group) => {
            format!("run it with sudo; or sudo usermod -aG {} $USER, then log in again", escape(group))
        }
        kind => fixed(kind).to_owned(),
    }
}

/// What was asked for, as far as it decides what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `send`, `pull`, and what follows them.
    Transfer,
    /// `load`
    Load,
    /// `save`
    Save,
    /// Anything else.
    Other,
}

/// What helps after a failure of this kind of another command than a transfer, where it is something else.
pub(crate) fn other_hint(kind: &FailureKind, asked: Asked) -> Option<&'static str> {
    Some(match (kind, asked) {
        (_, Asked::Transfer) => return None,
        (FailureKind::ShuttingDown | FailureKind::Cancelled, Asked::Load) => {
            "systemctl status imgd; when it runs again, load the archive again: imgctl ls shows what has come in"
        }
        (FailureKind::ShuttingDown | FailureKind::Cancelled, Asked::Save) => {
            "systemctl status imgd; when it runs again, save it again: a file that is not whole does not appear"
        }
        (FailureKind::ShuttingDown | FailureKind::Cancelled, Asked::Other) => "systemctl status imgd; when it runs again, ask again",
        (FailureKind::NoSpace, _) => {
            "imgctl rm IMAGE, or docker image prune where Docker keeps them, makes room here; imgctl prune frees unfinished transfers"
        }
        (FailureKind::Unsupported, Asked::Load) => {
            "a store that keeps blobs as they come takes it: containerd, or the embedded layout (imgd --store layout)"
        }
        (FailureKind::Unsupported, Asked::Other) => "imgctl tag IMAGE NAME:TAG: a name with a digest belongs to the image of that digest",
        (FailureKind::Corrupt, Asked::Save) => {
            "imgctl scrub finds every damaged blob and puts it aside; then load or send the image again, or save it on a host that has it whole"
        }
        _ => return None,
    })
}

fn fixed(kind: &FailureKind) -> &'static str {
    match kind {
        FailureKind::Other => "journalctl -u imgd shows what the agent saw",
        FailureKind::Usage => "imgctl help COMMAND, or imgctl --help",
        FailureKind::ImageNotFound => "imgctl ls shows the images here, imgctl who-has IMAGE the hosts that have one",
        FailureKind::HostNotFound(_) => "imgctl fleet ls shows the members, imgctl peers every host that is seen",
        FailureKind::HostUnreachable(_) => "imgctl doctor says what is wrong with this host; is imgd running on the other one?",
        FailureKind::TransferNotFound(_) => "imgctl status shows the transfers and their numbers",
        FailureKind::NotTrusted => {
            "imgctl doctor on both hosts says what is wrong: who is no member joins with a token from imgctl fleet invite, and who was removed needs a new key before"
        }
        FailureKind::NotPermitted(_) => "run it with sudo",
        FailureKind::Clock => "timedatectl on both hosts shows their time; timedatectl set-ntp true, or chronyc makestep, sets it right",
        FailureKind::NoFleet => {
            "imgctl fleet init on the first host; on every other one imgctl fleet join, with a token from imgctl fleet invite"
        }
        FailureKind::InFleet => "imgctl fleet ls shows the members of the fleet that this host is in",
        FailureKind::NotSigner(_) => "imgctl fleet ls shows which host holds the key of the fleet: run it there",
        FailureKind::Token => "imgctl fleet invite, on the host that holds the key of the fleet, prints a new token",
        FailureKind::Denied => "policy.toml in /etc/imgd on the host that refused says who may push and pull what",
        FailureKind::NoSpace => {
            "imgctl rm IMAGE, or docker image prune where Docker keeps them, makes room there; imgctl prune frees unfinished transfers"
        }
        FailureKind::PlatformAbsent(_) => {
            "imgctl inspect IMAGE shows the platforms of it that are there; --platform selects one, and another host may have the others (imgctl who-has IMAGE)"
        }
        FailureKind::NameTaken(_) => "imgctl fleet ls shows which names are taken",
        FailureKind::InvalidArchive => {
            "what is wrong with it stands above; imgctl load takes what imgctl save, docker save and podman save write, plain, gzip or zstd"
        }
        FailureKind::InvalidImage => "build or load the image again: what is stored breaks the rules of its format",
        FailureKind::Corrupt => "imgctl scrub finds every damaged blob and puts it aside; then load or send the image again",
        FailureKind::UnpackedOnly => {
            "ctr -n NAMESPACE content fetch IMAGE, on that host, brings the layer from its registry (-n k8s.io for Kubernetes); so does an imgctl send or pull from a host that has all of the image"
        }
        FailureKind::Store => "imgctl doctor, on the host whose store it is, says which one is used and whether it works",
        FailureKind::Unsupported => {
            "Docker and Podman keep images of containers, one platform of each, under names with a tag (--as NAME:TAG); containerd and the layout \
             keep everything: imgctl peers shows which store a host has"
        }
        FailureKind::Cancelled => "what has arrived is kept: the same command goes on from there",
        FailureKind::Skipped(_) => "once that host is mended: imgctl send --retry-failed JOB, with the number from imgctl status",
        FailureKind::ShuttingDown => "systemctl status imgd; when it runs again, the same command goes on from there",
        FailureKind::Version => "install the same version of imgd and imgctl, then systemctl restart imgd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_what_is_meant() {
        for (kind, part) in [
            (FailureKind::HostUnreachable("stapp03".into()), "imgctl doctor stapp03"),
            (FailureKind::NotSigner(Some("stapp01".into())), "run it on stapp01"),
            (FailureKind::PlatformAbsent(vec![proto::Platform::new("linux", "arm64", "")]), "--platform linux/arm64, or --all-platforms"),
            (FailureKind::NameTaken("web".into()), "--replace web"),
            (FailureKind::NotPermitted("imgd-admin".into()), "usermod -aG imgd-admin"),
            (FailureKind::HostUnreachable("a\u{1b}".into()), "doctor a\\u{1b}"),
        ] {
            assert!(hint(&kind).contains(part), "{}", hint(&kind));
        }
    }

    /// Nothing that arrives is kept by a command that brings nothing, and no option is named that the command does not have.
    #[test]
    fn what_helps_a_transfer_is_not_said_elsewhere() {
        let kinds = [
            FailureKind::Cancelled,
            FailureKind::ShuttingDown,
            FailureKind::NoSpace,
            FailureKind::Unsupported,
            FailureKind::Corrupt,
            FailureKind::InvalidArchive,
            FailureKind::Store,
            FailureKind::UnpackedOnly,
        ];
        for asked in [Asked::Load, Asked::Save, Asked::Other] {
            for kind in &kinds {
                let said = other_hint(kind, asked).map_or_else(|| hint(kind), str::to_owned);
                for wrong in ["goes on from there", "what has arrived is kept", "--all-platforms", "room there"] {
                    let is_own = asked == Asked::Save && wrong == "--all-platforms";
                    assert!(is_own || !said.contains(wrong), "{kind:?} {asked:?}: {said}");
                }
            }
        }
        assert_eq!(other_hint(&FailureKind::Cancelled, Asked::Transfer), None);
    }

    #[test]
    fn every_kind_has_a_command_or_a_place_to_look() {
        for kind in [
            FailureKind::Other,
            FailureKind::Usage,
            FailureKind::ImageNotFound,
            FailureKind::HostNotFound(String::new()),
            FailureKind::HostUnreachable(String::new()),
            FailureKind::NotTrusted,
            FailureKind::NoFleet,
            FailureKind::InFleet,
            FailureKind::NotSigner(None),
            FailureKind::Token,
            FailureKind::NoSpace,
            FailureKind::PlatformAbsent(vec![]),
            FailureKind::NameTaken("a".into()),
            FailureKind::InvalidArchive,
            FailureKind::Corrupt,
            FailureKind::Store,
            FailureKind::Unsupported,
        ] {
            assert!(hint(&kind).contains("imgctl") || kind == FailureKind::Other, "{kind:?}");
        }
        assert!(hint(&FailureKind::Denied).contains("policy.toml"));
        assert!(hint(&FailureKind::Version).contains("restart imgd"));
        assert!(hint(&FailureKind::ShuttingDown).contains("systemctl"));
        assert!(hint(&FailureKind::Cancelled).contains("goes on"));
        assert!(hint(&FailureKind::InvalidImage).contains("again"));
    }
}
