//! What is absent on purpose, which no reader can see in the code.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of the programs, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut sources = vec![];
    let mut pending: Vec<PathBuf> = ["proto/src", "agent/src", "ctl/src"].iter().map(|directory| root().join(directory)).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            sources.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    sources
}

#[test]
fn the_protocol_has_no_runtime() {
    let output =
        Command::new(env!("CARGO")).args(["tree", "-p", "proto", "-e", "normal", "--offline"]).current_dir(root()).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("bincode"), "{}", String::from_utf8_lossy(&output.stderr));
    for word in ["tokio", "quinn", "mio", "socket2"] {
        assert!(!tree.contains(word), "proto depends on {word}:\n{tree}");
    }
    for word in ["std::fs", "std::io", "UdpSocket", "TcpStream", "UnixStream", "std::time", "std::thread", "SystemTime", "Instant"] {
        for (name, source) in sources().iter().filter(|(name, _)| name.starts_with("proto/")) {
            assert!(!source.contains(word), "{name} uses {word}");
        }
    }
}

#[test]
fn every_library_has_one_place() {
    for (library, places) in [
        ("bincode::", &["proto/src/frame.rs"][..]),
        ("mdns_sd::", &["agent/src/discovery/mdns.rs"]),
        ("rcgen::", &["agent/src/trust/"]),
        // The tests of trust shake hands over quinn, to see that its settings are taken.
        ("quinn::", &["agent/src/net/", "agent/src/trust/tests/"]),
        ("quinn_proto::", &["agent/src/net/"]),
        ("indicatif::", &["ctl/src/progress.rs"]),
        ("tonic::", &["agent/src/store/containerd/"]),
        ("prost::", &["agent/src/store/containerd/"]),
        ("prost_types::", &["agent/src/store/containerd/"]),
        ("sd_notify::", &["agent/src/sys/service.rs"]),
        ("hyper::", &["agent/src/store/engine/api.rs"]),
        ("tar::", &["agent/src/archive/", "agent/src/store/engine/", "ctl/src/cmd/demo"]),
    ] {
        for (name, source) in sources() {
            let allowed = places.iter().any(|place| name.starts_with(place));
            let words = || source.match_indices(library).map(|(at, _)| source[..at].chars().next_back());
            let named = words().any(|before| before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':'));
            assert!(allowed || !named, "{name} names {library}, which belongs in {places:?}");
        }
    }
}

#[test]
fn imports_point_downward() {
    let above = |layer: &str| match layer {
        "sys" => vec!["staging", "net", "trust", "discovery", "transfer", "control", "membership", "archive", "agent"],
        "store" | "staging" => vec!["net", "trust", "discovery", "transfer", "control", "membership", "archive", "agent"],
        "net" | "trust" | "discovery" | "archive" => vec!["transfer", "control", "membership", "agent"],
        "transfer" => vec!["control", "membership", "agent"],
        _ => vec![],
    };
    for (name, source) in sources().iter().filter(|(name, _)| name.starts_with("agent/src/")) {
        let layer = name["agent/src/".len()..].split(['/', '.']).next().unwrap();
        for upper in above(layer) {
            for form in [format!("crate::{upper}::"), format!("crate::{upper};")] {
                assert!(!source.contains(&form), "{name} imports {form} from above");
            }
        }
    }
}

#[test]
fn files_stay_small() {
    for (name, source) in sources() {
        let lines = source.lines().count();
        assert!(lines <= 640, "{name} has {lines} lines: it holds more than one noun");
    }
}
