//! The benchmark of fan-outs: one image to N hosts on one bridge, each with a link of its own that is shaped in both directions.
//!
//! `cargo bench -p tests --bench fan_out`, with `-- --mib N` for the size of the image (default 64), `-- --hosts N` for one number of hosts, and
//! `-- --rate RATE` for the links (default 100mbit). Needs root and iproute2. All hosts share the cores of this machine: where those are the limit,
//! the CPU time shows it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use tests::bench::{ROUNDS, argument, median};
use tests::namespace::Lan;
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

const NUMBERS: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// What a send came to.
struct Figures {
    seconds: f64,
    /// Of all that left the interface of the first host, in images.
    egress: f64,
    cpu_s: f64,
}

fn main() {
    let mib: usize = argument("--mib").map_or(64, |mib| mib.parse().unwrap());
    let rate = argument("--rate").unwrap_or_else(|| "100mbit".to_owned());
    let only: Option<u32> = argument("--hosts").map(|hosts| hosts.parse().unwrap());
    let cores = std::thread::available_parallelism().unwrap();
    println!("{mib} MiB to N hosts over links of {rate} in both directions, medians of {ROUNDS}, {cores} cores");
    let mut one = None;
    for number in NUMBERS.into_iter().filter(|number| only.is_none_or(|only| only == *number || *number == 1)) {
        let Some(figures) = measure(number, mib, &rate, &[]) else { return };
        let one = *one.get_or_insert(figures.seconds);
        println!(
            "  {number:2} hosts  {:6.2} s  {:.3} × one host (goal 1.08)  egress {:.3} × the image (goal 1.02)  {:.1} s CPU, {:.0} % of the cores",
            figures.seconds,
            figures.seconds / one,
            figures.egress,
            figures.cpu_s,
            100.0 * figures.cpu_s / figures.seconds / cores.get() as f64
        );
    }
    let number = only.unwrap_or(16);
    if let Some(figures) = measure(number, mib, &rate, &[number]) {
        println!("  {number:2} hosts, one of them with a tenth of the rate: the others in {:.2} s", figures.seconds);
    }
    if let Some(seconds) = star(number.min(8), mib, &rate) {
        println!("  {:2} hosts, each with a send of its own at the same time: {seconds:.2} s", number.min(8));
    }
}

/// Hosts on a LAN, the first of which has an image for each round.
fn fleet(lan: &Lan, number: u32, mib: usize, rate: &str, slow: &[u32]) -> Vec<Process> {
    let mut hosts: Vec<Process> =
        (1..=number + 1).map(|host| Process::in_namespace(&format!("host{host:02}"), &lan.host(host), "eth0")).collect();
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    for host in &hosts[1..] {
        process::join(&hosts[0], host);
    }
    for round in 0..ROUNDS {
        let archive = archive_file(hosts[0].path(), &Recipe::new(600 + round as u64, &[mib << 20]).build(&format!("bench:{round}")));
        hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
        std::fs::remove_file(archive).unwrap();
    }
    // Everybody has met everybody, and the first host knows the hashes of its images.
    hosts[0].must(&["load", "-i", archive_file(hosts[0].path(), &Recipe::new(599, &[100_000]).build("warm:1")).to_str().unwrap()]);
    hosts[0].must(&["send", "warm:1", "--all"]);
    for host in 1..=number + 1 {
        let is_slow = slow.contains(&host);
        lan.shape(host, &if is_slow { tenth(rate) } else { rate.to_owned() });
    }
    hosts
}

fn tenth(rate: &str) -> String {
    let digits = rate.trim_end_matches(|c: char| !c.is_ascii_digit());
    format!("{}{}", digits.parse::<u32>().unwrap() / 10, &rate[digits.len()..])
}

/// Sends to all; with slow hosts among them, what counts is when the others have it.
fn measure(number: u32, mib: usize, rate: &str, slow: &[u32]) -> Option<Figures> {
    let lan = Lan::new(number + 1)?;
    let hosts = fleet(&lan, number, mib, rate, slow);
    let (mut seconds, mut egress, mut cpu) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let cpu_before: f64 = hosts.iter().map(Process::cpu_s).sum();
        let sent_before = lan.sent_bytes(1);
        let start = Instant::now();
        let out = hosts[0].must(&["--json", "send", &format!("bench:{round}"), "--all"]);
        let whole = start.elapsed().as_secs_f64();
        let lines = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let is_slow = |line: &serde_json::Value| slow.iter().any(|host| line["host"] == format!("host{host:02}").as_str());
        let elapsed = lines.filter(|line| line["event"] == "done" && !is_slow(line)).map(|line| line["elapsed_ms"].as_f64().unwrap() / 1e3);
        seconds.push(if slow.is_empty() { whole } else { elapsed.fold(0.0, f64::max) });
        egress.push((lan.sent_bytes(1) - sent_before) as f64 / (mib << 20) as f64);
        cpu.push(hosts.iter().map(Process::cpu_s).sum::<f64>() - cpu_before);
    }
    Some(Figures { seconds: median(seconds), egress: median(egress), cpu_s: median(cpu) })
}

/// The sender feeds every host itself.
fn star(number: u32, mib: usize, rate: &str) -> Option<f64> {
    let lan = Lan::new(number + 1)?;
    let hosts = fleet(&lan, number, mib, rate, &[]);
    let start = Instant::now();
    let sends: Vec<_> = hosts[1..].iter().map(|host| hosts[0].imgctl(&["-q", "send", "bench:0", &host.name]).spawn().unwrap()).collect();
    for mut send in sends {
        assert!(send.wait().unwrap().success());
    }
    Some(start.elapsed().as_secs_f64())
}
