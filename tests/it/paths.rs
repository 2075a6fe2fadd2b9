//! Paths that are not a clean cable. What is bounded is work, not time: bytes on the way, and that nothing begins anew.

use std::time::Duration;

use tests::path::{Conditions, Path};
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

const IMAGE_BYTES: usize = 20_000_000;

/// Two agents on the path, in a fleet; the first has the image, and has dialled the other one.
fn two_on(path: &Path) -> [Process; 2] {
    let mut hosts = [1, 2].map(|number| Process::at(&format!("path{number}"), &path.host(number), &format!("10.78.0.{number}:7117")));
    hosts.iter_mut().for_each(Process::start);
    hosts[1].must(&["fleet", "init"]);
    process::join(&hosts[1], &hosts[0]);
    let archive = archive_file(hosts[0].path(), &Recipe::new(78, &[IMAGE_BYTES]).build("demo:1"));
    hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    hosts
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Packets that overtake each other are not lost, and nothing of them is sent again.
#[test]
fn packets_in_another_order_are_not_sent_again() {
    let Some(path) = Path::new(Conditions { delay: ms(5), ..Conditions::default() }) else { return };
    let hosts = two_on(&path);
    path.change(Conditions { delay: ms(5), jitter: ms(1), reordered: 20.0, reordered_by: ms(3), ..Conditions::default() });
    let before = path.sent_bytes(1);
    hosts[0].must(&["send", "demo:1", "path2"]);
    let sent = path.sent_bytes(1) - before;
    assert!(sent < IMAGE_BYTES as u64 * 115 / 100, "{sent} bytes for {IMAGE_BYTES}");
}

/// Losses, repetitions and damage on the way change nothing of what arrives.
#[test]
fn what_arrives_is_whole_whatever_happens_on_the_way() {
    let bad = Conditions { delay: ms(2), jitter: ms(1), lost: 20.0, repeated: 20.0, damaged: 10.0, ..Conditions::default() };
    let Some(path) = Path::new(Conditions::default()) else { return };
    let hosts = two_on(&path);
    path.change(bad);
    let done = hosts[0].json(&["send", "demo:1", "path2"], "done");
    assert_eq!(done["image_id"], done["source_image_id"]);
    assert_eq!(hosts[1].must(&["scrub"]).matches("damaged").count(), hosts[1].must(&["scrub"]).matches("0 damaged").count());
}

/// A router that gives a host another port in the middle is no reason to begin anew, where that host has dialled.
#[test]
fn a_send_goes_on_when_a_port_moves() {
    let Some(path) = Path::new(Conditions { delay: ms(1), ..Conditions::default() }) else { return };
    let hosts = two_on(&path);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "path2", "--limit", "10MB/s"]).spawn().unwrap();
    while path.sent_bytes(1) < IMAGE_BYTES as u64 / 2 {
        std::thread::sleep(ms(5));
    }
    path.move_ports();
    assert!(sending.wait().unwrap().success(), "{}", hosts[0].log());
    for host in &hosts {
        assert!(!host.log().contains("trying again") && !host.log().contains("timed out"), "{}\n{}", hosts[0].log(), hosts[1].log());
    }
}
