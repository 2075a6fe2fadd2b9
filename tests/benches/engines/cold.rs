//! A large image that the receiver has nothing of, over a link of 1 Gbit/s or another rate, and what it takes of both agents.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;
use tests::bench::{ROUNDS, argument, bits_per_s, median, seconds};
use tests::namespace::Lan;
use tests::process::Process;

use super::host::{Engine, Kind, found};
use super::image::{Files, Layer, archive, even, large};
use super::peers::{Ssh, shell};
use super::table::{at_most, beside, time, title};

/// What is wanted of a send between engines of these kinds.
const PAIRS: [[Kind; 2]; 4] = [
    [Kind::Docker, Kind::Docker],
    [Kind::Docker, Kind::Podman],
    [Kind::Containerd, Kind::Containerd],
    [Kind::DockerOnContainerd, Kind::DockerOnContainerd],
];

/// What sends came to.
#[derive(Default)]
struct Cost {
    load: Vec<f64>,
    piped: Vec<f64>,
    send: Vec<f64>,
    /// Until all of it had arrived.
    arrived: Vec<f64>,
    ssh: Vec<f64>,
    idle: Vec<f64>,
    cpu: [Vec<f64>; 2],
    peak: [Vec<f64>; 2],
}

pub(crate) fn measure(mib: usize) {
    let lan = Lan::new(2);
    let rate = argument("--rate").unwrap_or_else(|| "1gbit".to_owned());
    if let Some(lan) = &lan {
        (1..=2).for_each(|host| lan.shape(host, &rate));
    }
    let how = if lan.is_some() { format!("over a link of {rate}") } else { "over loopback".to_owned() };
    let bytes_per_s = bits_per_s(&rate) / 8.0;
    let shapes =
        [("one large layer among six", large as fn(&mut Files, usize) -> Vec<Layer>, &PAIRS[..]), ("ten equal layers", even, &PAIRS[..1])];
    for (shape, make, pairs) in shapes {
        let wanted: Vec<_> = pairs.iter().copied().filter(|pair| pair[1].is_wanted()).collect();
        if wanted.is_empty() {
            continue;
        }
        title(&format!("A cold image of {mib} MiB, {shape}, {how}, agents that have never seen it"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("archive.tar");
        archive(&path, "demo:cold", &make(&mut Files::new(), mib).iter().collect::<Vec<_>>(), 0);
        let bytes = path.metadata().unwrap().len() as f64;
        beside(&format!("limit: its bytes at {rate}"), time(bytes / bytes_per_s));
        for pair in wanted {
            measure_pair(pair, &path, bytes, bytes_per_s, lan.as_ref());
        }
    }
}

fn measure_pair(pair: [Kind; 2], path: &Path, bytes: f64, bytes_per_s: f64, lan: Option<&Lan>) {
    let (Some(one), Some(two)) = (pair[0].start(), pair[1].start()) else { return };
    one.load(path);
    let mut cost = Cost::default();
    for _ in 0..ROUNDS {
        cost.load.push(seconds(|| two.load(path)));
        two.clear();
        cost.piped.push(seconds(|| two.load_at(path, bytes_per_s)));
        two.clear();
        send(&one, &two, bytes, lan, &mut cost);
        two.clear();
        if let (Engine::Docker(one), Engine::Docker(two), Some(ssh)) = (&one, &two, Ssh::start()) {
            let docker = |socket: std::path::PathBuf| format!("docker -H unix://{}", socket.display());
            let line = format!("{} save demo:cold | {} {} load", docker(one.socket()), ssh.command(), docker(two.socket()));
            cost.ssh.push(seconds(|| shell(&line)));
        }
        two.clear();
    }
    let (load, send) = (median(cost.load), median(cost.send));
    let limit = load.max(bytes / bytes_per_s);
    beside(&format!("{} → {}: imgctl send, ready to run", pair[0].name(), pair[1].name()), time(send));
    beside("  of that, until all of it had arrived", time(median(cost.arrived)));
    if !cost.ssh.is_empty() {
        beside("  docker save | ssh docker load, on loopback, where nothing limits it", time(median(cost.ssh)));
    }
    beside("  the engine's own load, of bytes that come from nowhere at the rate of the link", time(median(cost.piped)));
    beside("  limit: the engine's own load of a file with it", time(load));
    at_most("  over the larger of load and link", send / limit, 1.15, " ×");
    for (side, cpu) in ["sender", "receiver"].iter().zip(cost.cpu) {
        beside(&format!("  CPU of the {side}, for each GB"), time(median(cpu)));
    }
    for (side, peak) in ["sender", "receiver"].iter().zip(cost.peak) {
        at_most(&format!("  peak memory of the {side}"), median(peak), 64.0, " MiB");
    }
    at_most("  memory before, the larger of both", median(cost.idle), 16.0, " MiB");
}

/// One send between new agents.
fn send(one: &Engine, two: &Engine, bytes: f64, lan: Option<&Lan>, cost: &mut Cost) {
    let place = |number| lan.map(|lan| (lan, number));
    let agents = [one.agent("one", place(1)), two.agent("two", place(2))];
    found(&agents);
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    cost.idle.push(agents.iter().map(|agent| mib(agent.resident_bytes())).fold(0.0, f64::max));
    let before = agents.each_ref().map(Process::cpu_s);
    let start = Instant::now();
    let mut sending = agents[0].imgctl(&["--json", "send", "demo:cold", "two"]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut verified, mut arrived, mut sent) = (HashMap::new(), None, 0.0);
    for line in BufReader::new(sending.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "progress" {
            verified.insert(event["digest"].to_string(), event["bytes_verified"].as_f64().unwrap());
            if verified.values().sum::<f64>() > bytes * 0.99 {
                arrived.get_or_insert(start.elapsed().as_secs_f64());
            }
        }
        sent = event["bytes_sent"].as_f64().unwrap_or(sent);
    }
    assert!(sending.wait().unwrap().success(), "{}", agents[0].log());
    cost.send.push(start.elapsed().as_secs_f64());
    assert!(sent > bytes * 0.99, "the receiver had something of it: {sent} of {bytes} bytes travelled");
    cost.arrived.extend(arrived);
    for (side, agent) in agents.iter().enumerate() {
        cost.cpu[side].push((agent.cpu_s() - before[side]) / bytes * 1e9);
        cost.peak[side].push(mib(agent.peak_resident_bytes()));
    }
}
