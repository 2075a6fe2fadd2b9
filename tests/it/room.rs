//! Room on the disk of a receiver: reserved before a byte moves, and never held for nothing.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

/// A host with two images of 30 MB each, and one whose disk takes one of them.
fn hosts() -> Option<[Process; 2]> {
    let mut hosts = [Process::new("a"), Process::on_disk("b", 64)];
    if !hosts[1].can_mount() {
        tests::skipped("a small disk needs root (unshare --mount)");
        return None;
    }
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);
    for (seed, name) in [(300, "one:1"), (301, "two:1")] {
        let archive = archive_file(hosts[0].path(), &Recipe::new(seed, &[30_000_000]).build(name));
        hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    }
    Some(hosts)
}

fn sending(host: &Process, image: &str) -> Child {
    begin(host, &["--json", "send", image, "b", "--limit", "15MB/s"])
}

fn begin(host: &Process, arguments: &[&str]) -> Child {
    let mut command = host.imgctl(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Begins a send, and gives it up.
fn cut(hosts: &[Process; 2], image: &str) {
    let mut sending = sending(&hosts[0], image);
    wait_for_bytes(&hosts[0], image, 20_000_000);
    sending.kill().unwrap();
    sending.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !hosts[1].must(&["--json", "status"]).contains("unfinished") {
        assert!(Instant::now() < deadline, "{}", hosts[1].log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until this much of an image has travelled.
#[track_caller]
fn wait_for_bytes(host: &Process, image: &str, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = host.must(&["--json", "status"]);
        let mut rows = status.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        if rows.any(|row| row["image"] == image && row["state"] == "running" && row["bytes_done"].as_u64().unwrap_or(0) >= bytes) {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_images_that_fit_one_by_one_do_not_fill_the_disk_together() {
    let Some(hosts) = hosts() else { return };
    let first = sending(&hosts[0], "one:1");
    wait_for_bytes(&hosts[0], "one:1", 1_000_000);
    let second = sending(&hosts[0], "two:1");
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", String::from_utf8_lossy(&first.stdout));
    // It has waited for what the first one had reserved; now nothing of it fits any more, and nothing of it has come.
    let second = second.wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(6), "{}", String::from_utf8_lossy(&second.stdout));
    let status = hosts[1].must(&["--json", "status"]);
    assert!(!status.contains("unfinished") && !status.contains("other transfers"), "{status}");
    // The hint helps.
    hosts[1].must(&["rm", "one:1"]);
    hosts[0].must(&["send", "two:1", "b"]);
}

#[test]
fn pulls_wait_for_room_as_sends_do() {
    let Some(hosts) = hosts() else { return };
    let first = begin(&hosts[1], &["--json", "pull", "one:1", "--from", "a", "--limit", "15MB/s"]);
    wait_for_bytes(&hosts[1], "one:1", 1_000_000);
    let second = begin(&hosts[1], &["--json", "pull", "two:1", "--from", "a"]);
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(0));
    let second = second.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&second.stdout).into_owned() + &String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(6), "{told}");
    assert!(told.contains("waiting"), "{told}");
}

#[test]
fn an_image_that_fits_in_no_case_costs_others_nothing() {
    let Some(hosts) = hosts() else { return };
    cut(&hosts, "one:1");
    let archive = archive_file(hosts[0].path(), &Recipe::new(302, &[90_000_000]).build("huge:1"));
    hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    assert_eq!(begin(&hosts[0], &["send", "huge:1", "b"]).wait_with_output().unwrap().status.code(), Some(6));
    assert!(hosts[1].must(&["--json", "status"]).contains("unfinished"));
}

#[test]
fn what_was_not_finished_is_shown_and_goes_when_room_is_needed() {
    let Some(hosts) = hosts() else { return };
    cut(&hosts, "one:1");
    let told = hosts[1].must(&["status"]);
    assert!(told.contains("imgctl prune") && told.contains("1 layer"), "{told}");
    assert!(hosts[1].must(&["doctor"]).contains("unfinished transfers"));
    // The same image goes on from there, another one takes its place.
    hosts[0].must(&["send", "two:1", "b"]);
    assert!(!hosts[1].must(&["--json", "status"]).contains("unfinished"));
    hosts[1].must(&["rm", "two:1"]);
    cut(&hosts, "one:1");
    let pruned = hosts[1].json(&["prune"], "pruned");
    assert!(pruned["staged_bytes"].as_u64().unwrap() > 10_000_000, "{pruned}");
    assert!(!hosts[1].must(&["--json", "status"]).contains("unfinished"));
}

#[test]
fn a_name_goes_from_a_disk_that_is_full() {
    let Some(hosts) = hosts() else { return };
    hosts[0].must(&["send", "one:1", "b"]);
    // The disk is mounted for the agent alone.
    let filler = format!("/proc/{}/root{}/state/filler", hosts[1].pid(), hosts[1].path().display());
    let full = std::process::Command::new("dd").args(["if=/dev/zero", "bs=4k", &format!("of={filler}")]).output().unwrap();
    assert!(!full.status.success(), "the disk takes no more");
    hosts[1].must(&["rm", "one:1"]);
    assert!(!hosts[1].must(&["--json", "ls"]).contains("one:1"));
    std::fs::remove_file(filler).unwrap();
    hosts[0].must(&["send", "two:1", "b"]);
}
