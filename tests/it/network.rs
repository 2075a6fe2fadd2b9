//! Real processes on a LAN of their own: found by multicast, cut, killed, and resumed.

use std::time::{Duration, Instant};

use tests::namespace::Lan;
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

/// What an interruption may cost.
const RESENT_BYTES: u64 = 8 * 1024 * 1024;

/// Two agents that have never heard of each other, on one LAN; the first has the image. They join by multicast alone.
fn two_on(lan: &Lan, image: &str, sizes: &[usize]) -> [Process; 2] {
    let mut hosts = [("stapp01", 1), ("stapp03", 2)].map(|(name, number)| Process::in_namespace(name, &lan.host(number), "eth0"));
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);
    let archive = archive_file(hosts[0].path(), &Recipe::new(77, sizes).build(image));
    hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    hosts
}

fn ids(host: &Process) -> Vec<String> {
    let out = host.must(&["--json", "ls"]);
    let rows = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.filter(|row| row["event"] == "image").map(|row| row["image_id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the running transfer of a host has moved so many bytes.
fn wait_for_bytes(host: &Process, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let out = host.must(&["--json", "status"]);
        let rows = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        if rows.filter_map(|row| row["bytes_done"].as_u64()).any(|done| done >= bytes) {
            return;
        }
        assert!(Instant::now() < deadline, "{out}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn multicast_finds_the_other_host() {
    let Some(lan) = Lan::new(2) else { return };
    let hosts = two_on(&lan, "demo:nautilus", &[5_000_000, 100_000]);
    let done = hosts[0].json(&["send", "demo:nautilus", "stapp03"], "done");
    assert_eq!(done["image_id"], done["source_image_id"]);
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
    let again = hosts[0].json(&["send", "demo:nautilus", "stapp03"], "done");
    assert_eq!(again["bytes_sent"], 0);
}

#[test]
fn a_pulled_cable_only_delays() {
    let Some(lan) = Lan::new(2) else { return };
    let hosts = two_on(&lan, "demo:1", &[60_000_000]);
    let mut sending = hosts[0].imgctl(&["--json", "send", "demo:1", "stapp03", "--limit", "15MB/s"]);
    let sending = sending.stdout(std::process::Stdio::piped()).spawn().unwrap();
    wait_for_bytes(&hosts[0], 20_000_000);
    lan.cable(2, false);
    wait_for_log(&hosts[0], "no connection, trying again");
    lan.cable(2, true);
    let output = sending.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", hosts[0].log());
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let done =
        out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).find(|line| line["event"] == "done").unwrap();
    let sent = done["bytes_sent"].as_u64().unwrap();
    assert!(sent < 60_100_000 + RESENT_BYTES, "{sent} bytes sent");
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
}

#[test]
fn a_host_that_moved_meanwhile_is_found() {
    let Some(lan) = Lan::new(2) else { return };
    let mut hosts = two_on(&lan, "demo:1", &[1_000_000]);
    hosts[0].must(&["send", "--dry-run", "demo:1", "stapp03"]);
    assert!(hosts[0].terminate().success());
    lan.move_to(2, 102);
    hosts[0].start();
    hosts[0].must(&["send", "demo:1", "stapp03"]);
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
}

/// Neither side waits for a connection to time out when one of them moves: the one that does dials anew, and the other one sees which connection is left.
#[test]
fn a_send_goes_on_when_a_host_moves() {
    for mover in [1, 0] {
        let Some(lan) = Lan::new(2) else { return };
        let hosts = two_on(&lan, "demo:1", &[60_000_000]);
        let mut sending = hosts[0].imgctl(&["--json", "send", "demo:1", "stapp03", "--limit", "15MB/s"]);
        let sending = sending.stdout(std::process::Stdio::piped()).spawn().unwrap();
        wait_for_bytes(&hosts[0], 20_000_000);
        lan.move_to(mover as u32 + 1, 150);
        let output = sending.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", hosts[0].log());
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let done = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).find(|line| line["event"] == "done");
        let sent = done.unwrap()["bytes_sent"].as_u64().unwrap();
        assert!(sent < 60_100_000 + RESENT_BYTES, "{sent} bytes sent");
        assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
        for host in &hosts {
            assert!(!host.log().contains("timed out"), "{}\n{}", hosts[0].log(), hosts[1].log());
        }
        assert!(hosts[mover].log().contains("an address of this host is gone"), "{}", hosts[mover].log());
    }
}

/// Only a host that has answered this send is waited for.
#[test]
fn a_way_that_is_blocked_from_the_start_is_not_waited_for() {
    let Some(lan) = Lan::new(2) else { return };
    let hosts = two_on(&lan, "demo:1", &[1_000_000]);
    hosts[0].must(&["send", "--dry-run", "demo:1", "stapp03"]);
    lan.cable(2, false);
    for command in [&["send", "demo:1", "stapp03"][..], &["pull", "demo:2", "--from", "stapp03"]] {
        let output = hosts[0].run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("see that imgd runs on stapp03"), "{said}");
    }
    assert!(!hosts[0].log().contains("trying again"), "{}", hosts[0].log());
    // Who wants to wait says so.
    let sending = hosts[0].imgctl(&["-q", "send", "demo:1", "stapp03", "--wait", "1h"]).spawn().unwrap();
    wait_for_log(&hosts[0], "trying again");
    lan.cable(2, true);
    assert!(sending.wait_with_output().unwrap().status.success(), "{}", hosts[0].log());
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
}

/// A link-local address needs an interface beside it to be of use: imgd says that it has no use for it.
#[test]
fn a_host_with_link_local_addresses_only_says_so() {
    let Some(lan) = Lan::new(2) else { return };
    let mut hosts = [("stapp01", 1), ("stapp03", 2)].map(|(name, number)| Process::in_namespace(name, &lan.host(number), "eth0"));
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    let invited = hosts[0].json(&["fleet", "invite"], "invited");
    lan.leave_link_local(2);
    let file = hosts[1].path().join("token");
    std::fs::write(&file, invited["token"].as_str().unwrap()).unwrap();
    for command in [&["fleet", "join", "--token-file", file.to_str().unwrap()][..], &["doctor"]] {
        let output = hosts[1].run(command);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("this host has link-local IPv6 addresses only"), "{said}");
    }
}

#[test]
fn kill_9_of_the_receiver_costs_little() {
    let Some(lan) = Lan::new(2) else { return };
    let mut hosts = two_on(&lan, "demo:1", &[60_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "stapp03", "--limit", "20MB/s"]).spawn().unwrap();
    wait_for_bytes(&hosts[0], 30_000_000);
    hosts[1].kill();
    hosts[1].start();
    // The running send goes on by itself.
    assert!(sending.wait().unwrap().success(), "{}", hosts[0].log());
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
    let out = hosts[0].must(&["--json", "status"]);
    let sent = serde_json::from_str::<serde_json::Value>(out.lines().last().unwrap()).unwrap();
    assert!(sent["bytes_done"].as_u64().unwrap() < 60_100_000 + RESENT_BYTES, "{out}");
}

#[test]
fn a_restart_of_the_receiver_only_delays() {
    let Some(lan) = Lan::new(2) else { return };
    let mut hosts = two_on(&lan, "demo:1", &[40_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "stapp03", "--limit", "20MB/s"]).spawn().unwrap();
    wait_for_bytes(&hosts[0], 10_000_000);
    assert!(hosts[1].terminate().success(), "{}", hosts[1].log());
    hosts[1].start();
    assert!(sending.wait().unwrap().success(), "{}", hosts[0].log());
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
}

#[test]
fn kill_9_of_the_sender_costs_little() {
    let Some(lan) = Lan::new(2) else { return };
    let mut hosts = two_on(&lan, "demo:1", &[60_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "stapp03", "--limit", "20MB/s"]).spawn().unwrap();
    wait_for_bytes(&hosts[0], 30_000_000);
    hosts[0].kill();
    assert!(!sending.wait().unwrap().success());
    hosts[0].start();
    let done = hosts[0].json(&["send", "demo:1", "stapp03"], "done");
    let sent = done["bytes_sent"].as_u64().unwrap();
    assert!(sent < 60_100_000 - 30_000_000 + RESENT_BYTES, "{sent} bytes sent again");
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
}

#[test]
fn a_restarted_receiver_keeps_its_name_and_its_place() {
    let Some(lan) = Lan::new(2) else { return };
    let mut hosts = two_on(&lan, "demo:1", &[1_000_000]);
    assert!(hosts[1].terminate().success(), "{}", hosts[1].log());
    hosts[1].start();
    hosts[0].must(&["send", "demo:1", "stapp03"]);
    assert_eq!(ids(&hosts[0]), ids(&hosts[1]));
}

fn wait_for_log(host: &Process, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !host.log().contains(text) {
        assert!(Instant::now() < deadline, "{text} is not in {}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
