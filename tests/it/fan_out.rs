//! One image to many hosts, which read it from one another.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use tests::namespace::Lan;
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

const PATIENCE: Duration = Duration::from_secs(60);

/// The first host has the image; the others want it.
fn fleet(others: usize, layers: &[usize]) -> Vec<Process> {
    found((0..=others).map(|number| Process::new(&format!("host{number:02}"))).collect(), layers)
}

fn found(mut hosts: Vec<Process>, layers: &[usize]) -> Vec<Process> {
    hosts[0].argument("--log-level=debug");
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    for host in &hosts[1..] {
        process::join(&hosts[0], host);
    }
    let archive = archive_file(hosts[0].path(), &Recipe::new(500, layers).build("demo:1"));
    hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    hosts
}

/// Waits until something is so.
#[track_caller]
fn until(hosts: &[Process], what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        let logs = || hosts.iter().map(|host| format!("--- {}\n{}", host.name, host.log())).collect::<String>();
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", logs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes that have arrived, over all transfers of a host.
fn arrived_bytes(host: &Process) -> u64 {
    let out = host.must(&["--json", "status"]);
    let rows = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.filter_map(|row| row["bytes_done"].as_u64()).sum()
}

fn has_it(host: &Process) -> bool {
    host.must(&["ls"]).contains("demo")
}

/// The order of the chain, from the plan that the sender logs: who reads from so many others before it reads from the sender.
fn chain(hosts: &[Process]) -> Vec<usize> {
    let log = hosts[0].log();
    let started = log.lines().find(|line| line.contains("agent started")).unwrap();
    let head = started.split_once(" id=").unwrap().1.split(' ').next().unwrap();
    let others_before = |host: usize| {
        let of_host = format!("host=\"host{host:02}\"");
        let last = log.lines().rfind(|line| line.contains("reads from") && line.contains(&of_host)).unwrap();
        last.rsplit_once("hosts=[").unwrap().1.trim_end_matches(']').split(", ").position(|source| source == head).unwrap()
    };
    let mut order: Vec<usize> = (1..hosts.len()).collect();
    order.sort_by_key(|host| others_before(*host));
    order
}

#[test]
fn the_image_leaves_its_host_little_more_than_once() {
    const BYTES: usize = 30_000_000;
    let hosts = fleet(5, &[BYTES, 1_000]);
    let summary = hosts[0].json(&["send", "demo:1", "--all", "--limit", "10MB/s"], "summary");
    assert_eq!(summary["done"], 5, "{summary}");
    // The head feeds its first one; what is more than once comes of plans that change under load.
    let egress = summary["egress_bytes"].as_u64().unwrap();
    assert!(egress < BYTES as u64 * 3 / 2, "{summary}");
    assert!(hosts.iter().all(has_it));
    let again = hosts[0].json(&["send", "demo:1", "--all"], "summary");
    assert_eq!((&again["done"], &again["egress_bytes"]), (&5.into(), &0.into()), "{again}");
}

#[test]
fn a_host_that_dies_delays_only_itself() {
    let mut hosts = fleet(4, &[20_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "--all", "--limit", "5MB/s"]).spawn().unwrap();
    until(&hosts, "some bytes arrive", || arrived_bytes(&hosts[1]) > 4_000_000);
    let first = chain(&hosts)[0];
    hosts[first].kill();
    for host in (1..hosts.len()).filter(|host| *host != first) {
        until(&hosts, "the others have it", || has_it(&hosts[host]));
    }
    // It is tried again for a while. Its address is another one now, and it makes itself known.
    hosts[first].start();
    hosts[first].must(&["ls", "host00"]);
    assert!(sending.wait().unwrap().success(), "{}", hosts[0].log());
    assert!(has_it(&hosts[first]));
}

#[test]
fn a_host_that_stops_delays_only_itself() {
    let hosts = fleet(4, &[20_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "--all", "--limit", "5MB/s"]).spawn().unwrap();
    until(&hosts, "some bytes arrive", || arrived_bytes(&hosts[1]) > 4_000_000);
    let first = chain(&hosts)[0];
    hosts[first].signal("STOP");
    for host in (1..hosts.len()).filter(|host| *host != first) {
        until(&hosts, "the others have it", || has_it(&hosts[host]));
    }
    hosts[first].signal("CONT");
    assert!(sending.wait().unwrap().success(), "{}", hosts[0].log());
    assert!(has_it(&hosts[first]));
}

#[test]
fn who_serves_wrong_bytes_is_named_and_read_from_no_longer() {
    let hosts = fleet(3, &[40_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "--all", "--limit", "5MB/s"]).spawn().unwrap();
    // By then every host has had its turn at the head of the chain.
    until(&hosts, "some bytes arrive", || arrived_bytes(&hosts[1]) > 14_000_000);
    let order = chain(&hosts);
    let (liar, victim) = (&hosts[order[0]], &hosts[order[1]]);
    // While the second one stands still, what the first one has gathered for it turns bad.
    victim.signal("STOP");
    let before = arrived_bytes(liar);
    until(&hosts, "the first one is ahead", || arrived_bytes(liar) > before + 6_000_000);
    let staged = std::fs::read_dir(liar.layout().join(".imgd/staging")).unwrap().map(|entry| entry.unwrap().path());
    let data = staged.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "data")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(data).unwrap();
    for offset in (0..before + 6_000_000).step_by(64 << 10) {
        file.write_all_at(b"not what it was", offset).unwrap();
    }
    victim.signal("CONT");
    let sent = sending.wait().unwrap();
    let log = hosts[0].log();
    assert!(log.contains("Lied"), "{log}");
    assert!(has_it(victim) && has_it(&hosts[order[2]]), "{sent}: {log}");
    victim.must(&["scrub"]);
    hosts[order[2]].must(&["scrub"]);
}

#[test]
fn when_the_sender_dies_the_others_get_it_from_one_another() {
    let mut hosts = fleet(3, &[20_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "--all", "--limit", "10MB/s"]).spawn().unwrap();
    until(&hosts, "some bytes arrive", || (1..=3).all(|host| arrived_bytes(&hosts[host]) > 4_000_000));
    let last = *chain(&hosts).last().unwrap();
    hosts[last].signal("STOP");
    for host in (1..hosts.len()).filter(|host| *host != last) {
        until(&hosts, "the others have it", || has_it(&hosts[host]));
    }
    hosts[0].kill();
    assert!(!sending.wait().unwrap().success());
    hosts[last].signal("CONT");
    until(&hosts, "the last one has it, too", || has_it(&hosts[last]));
    hosts[last].must(&["scrub"]);
}

#[test]
fn a_full_host_is_named_and_nobody_else_is_held_up() {
    let mut processes: Vec<Process> = ["host00", "host01"].map(Process::new).into();
    processes.push(Process::on_disk("host02", 20));
    if !processes[2].can_mount() {
        return tests::skipped("a disk of its own needs root and mount namespaces");
    }
    let hosts = found(processes, &[30_000_000]);
    let output = hosts[0].run(&["--json", "send", "demo:1", "--all"]);
    assert_eq!(output.status.code(), Some(7));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = lines.iter().find(|line| line["event"] == "failed" && line["host"] == "host02").unwrap();
    assert_eq!(failed["exit_code"], 6, "{failed}");
    assert!(has_it(&hosts[1]));
    // Again: only who lacks it is in question, and nothing leaves this host for the others.
    let again = hosts[0].run(&["--json", "send", "demo:1", "--all"]);
    let summary = String::from_utf8_lossy(&again.stdout).lines().last().unwrap().to_owned();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["done"], &summary["failed"], &summary["egress_bytes"]), (&1.into(), &1.into(), &0.into()), "{summary}");
}

#[test]
fn a_network_that_is_split_for_a_minute_only_delays() {
    let Some(lan) = Lan::new(5) else { return };
    let named = |number: u32| Process::in_namespace(&format!("host{number:02}"), &lan.host(number + 1), "eth0");
    let hosts = found((0..5).map(named).collect(), &[60_000_000]);
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "--all", "--limit", "10MB/s"]).spawn().unwrap();
    until(&hosts, "some bytes arrive", || (1..5).all(|host| arrived_bytes(&hosts[host]) > 15_000_000));
    lan.split(&[4, 5]);
    // The half with the sender goes on; the other one has what it has.
    until(&hosts, "the near half has it", || has_it(&hosts[1]) && has_it(&hosts[2]));
    std::thread::sleep(Duration::from_secs(50));
    assert!(!has_it(&hosts[3]) && !has_it(&hosts[4]));
    lan.split(&[]);
    assert!(sending.wait().unwrap().success(), "{}", hosts[0].log());
    assert!(has_it(&hosts[3]) && has_it(&hosts[4]));
    let again = hosts[0].json(&["send", "demo:1", "--all"], "summary");
    assert_eq!((&again["done"], &again["egress_bytes"]), (&4.into(), &0.into()), "{again}");
}

#[test]
fn a_host_with_a_tenth_of_the_rate_delays_only_itself() {
    let Some(lan) = Lan::new(5) else { return };
    let named = |number: u32| Process::in_namespace(&format!("host{number:02}"), &lan.host(number + 1), "eth0");
    let hosts = found((0..5).map(named).collect(), &[20_000_000]);
    for number in 1..=5 {
        lan.shape(number, if number == 3 { "4mbit" } else { "40mbit" });
    }
    let mut sending = hosts[0].imgctl(&["-q", "send", "demo:1", "--all"]).spawn().unwrap();
    until(&hosts, "the others have it", || [1, 3, 4].iter().all(|host| has_it(&hosts[*host])));
    // Had they waited for it, it would have nearly all of it.
    assert!(arrived_bytes(&hosts[2]) < 10_000_000, "{} bytes", arrived_bytes(&hosts[2]));
    lan.shape(3, "40mbit");
    assert!(sending.wait().unwrap().success(), "{}", hosts[0].log());
    assert!(has_it(&hosts[2]));
}
