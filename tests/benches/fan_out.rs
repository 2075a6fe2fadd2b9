//! The benchmark of fan-outs: one image to N hosts on one bridge, each with a link of its own that is shaped in both directions.
//!
//! `cargo bench -p tests --bench fan_out`, with `-- --mib N` for the size of the image (default 64), `-- --hosts N` for one number of hosts,
//! `-- --rate RATE` for the links (default 100mbit), `-- --rounds N` (default 3), and `-- --only fan`, `slow` or `peers` for a part of it. Needs root
//! and iproute2, and for the part `peers` docker-registry and skopeo. All hosts share the cores of this machine: where those are the limit, the CPU
//! time shows it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::bench::{argument, bits_per_s, median, split_rate};
use tests::namespace::Lan;
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

const NUMBERS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const PORT: u16 = 5000;

fn main() {
    let mib: usize = argument("--mib").map_or(64, |mib| mib.parse().unwrap());
    let rounds: usize = argument("--rounds").map_or(3, |rounds| rounds.parse().unwrap());
    let rate = argument("--rate").unwrap_or_else(|| "100mbit".to_owned());
    let number: Option<usize> = argument("--hosts").map(|hosts| hosts.parse().unwrap());
    let only = argument("--only");
    let wants = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let most = number.unwrap_or(NUMBERS[NUMBERS.len() - 1]);
    let Some(mut bench) = Bench::new(most, mib, rounds, &rate) else { return };
    let cores = std::thread::available_parallelism().unwrap();
    println!("{mib} MiB to N hosts over links of {rate} in both directions, medians of {rounds}, {cores} cores");
    println!("  optimum for any N (the image once over one link): {:.2} s", bench.optimum_s());
    let one = bench.send(1);
    show(1, &one, &one);
    if wants("fan") {
        for number in NUMBERS.into_iter().filter(|number| *number > 1 && *number <= most) {
            if only.is_none() || number == most || argument("--hosts").is_none() {
                show(number, &bench.send(number), &one);
            }
        }
    }
    if wants("slow") {
        let number = most.min(16);
        let (all, first, later) = bench.slow(number);
        println!("  {number} hosts, one of them with a tenth of the rate: the others have it in");
        for (when, slow) in [("the first time", first), ("when it is known to be slow", later)] {
            println!("    {slow:6.2} s, {:.3} × {all:.2} s without it (goal 1.05), {when}", slow / all);
        }
    }
    if wants("peers") {
        let number = most.min(8);
        let optimum = number as f64 * bench.optimum_s();
        let fan = bench.send(number).seconds;
        println!("  {number} hosts, beside it (the source's link is the limit of all of these: {optimum:.2} s)");
        println!("    one imgctl send to all of them           {fan:6.2} s");
        println!("    {number} sends, one after the other               {:6.2} s", bench.sequential(number));
        println!("    {number} sends at once                            {:6.2} s", bench.at_once(number));
        match bench.pulls(number) {
            Some(seconds) => println!("    {number} pulls from one docker-registry           {seconds:6.2} s"),
            None => println!("    skipped: pulls from a registry need docker-registry and skopeo"),
        }
    }
}

fn show(number: usize, figures: &Figures, one: &Figures) {
    println!(
        "  {number:2} hosts  {:6.2} s  {:.3} × one host (goal 1.08)  left the source: {:.3} × the image (goal 1.02), {:.3} × on the wire  {:5.1} s CPU, {:.0} % of the cores",
        figures.seconds,
        figures.seconds / one.seconds,
        figures.egress,
        figures.wire,
        figures.cpu_s,
        100.0 * figures.cpu_s / figures.seconds / std::thread::available_parallelism().unwrap().get() as f64
    );
}

/// What a send came to.
struct Figures {
    seconds: f64,
    /// Blob bytes that left the first host, in images.
    egress: f64,
    /// All bytes that left its interface, in images.
    wire: f64,
    cpu_s: f64,
}

/// A fleet on a LAN. The first host has every image, and the others lose it after each round.
struct Bench {
    lan: Lan,
    hosts: Vec<Process>,
    mib: usize,
    rounds: usize,
    rate: String,
    images: u64,
}

impl Bench {
    /// The first host, and so many others.
    fn new(number: usize, mib: usize, rounds: usize, rate: &str) -> Option<Self> {
        let lan = Lan::new(number as u32 + 1)?;
        let named = |host: usize| Process::in_namespace(&name(host), &lan.host(host as u32 + 1), "eth0");
        let mut hosts: Vec<Process> = (0..=number).map(named).collect();
        hosts.iter_mut().for_each(Process::start);
        hosts[0].must(&["fleet", "init"]);
        for host in &hosts[1..] {
            process::join(&hosts[0], host);
        }
        let bench = Self { lan, hosts, mib, rounds, rate: rate.to_owned(), images: 0 };
        // Everybody has met everybody.
        bench.image(0);
        bench.hosts[0].must(&["send", "bench:0", "--all"]);
        for host in 0..=number {
            bench.shape(host, rate);
        }
        Some(bench)
    }

    fn optimum_s(&self) -> f64 {
        (self.mib << 20) as f64 * 8.0 / bits_per_s(&self.rate)
    }

    /// Sends to so many hosts.
    fn send(&mut self, number: usize) -> Figures {
        let rounds: Vec<Figures> = (0..self.rounds).map(|_| self.once(number, None)).collect();
        let median_of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
        Figures {
            seconds: median_of(|figures| figures.seconds),
            egress: median_of(|figures| figures.egress),
            wire: median_of(|figures| figures.wire),
            cpu_s: median_of(|figures| figures.cpu_s),
        }
    }

    /// One send; a slow host has a tenth of the rate, and what counts then is when the others have it.
    fn once(&mut self, number: usize, slow: Option<usize>) -> Figures {
        if let Some(host) = slow {
            self.shape(host, &tenth(&self.rate));
        }
        let image = self.next_image();
        let cpu_before: f64 = self.hosts.iter().map(Process::cpu_s).sum();
        let sent_before = self.lan.sent_bytes(1);
        let start = Instant::now();
        let names: Vec<String> = (1..=number).map(name).collect();
        let mut arguments = vec!["--json", "send", image.as_str()];
        arguments.extend(names.iter().map(String::as_str));
        let out = self.hosts[0].must(&arguments);
        let whole = start.elapsed().as_secs_f64();
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let is_slow = |line: &Value| slow.is_some_and(|host| line["host"] == name(host).as_str());
        let fast = lines.iter().filter(|line| line["event"] == "done" && !is_slow(line));
        let last = fast.map(|line| line["elapsed_ms"].as_f64().unwrap() / 1e3).fold(0.0, f64::max);
        let size = (self.mib << 20) as f64;
        let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
        let figures = Figures {
            seconds: if slow.is_some() { last } else { whole },
            egress: summary["egress_bytes"].as_f64().unwrap() / size,
            wire: (self.lan.sent_bytes(1) - sent_before) as f64 / size,
            cpu_s: self.hosts.iter().map(Process::cpu_s).sum::<f64>() - cpu_before,
        };
        self.forget(&image);
        if let Some(host) = slow {
            self.shape(host, &self.rate);
        }
        figures
    }

    /// Without a slow host; with one that was not slow before, another one each time; and with one that is known to be slow.
    fn slow(&mut self, number: usize) -> (f64, f64, f64) {
        let (mut all, mut first, mut later) = (vec![], vec![], vec![]);
        for round in 0..self.rounds {
            let slow = Some(1 + round % number);
            // What it has seen of links it forgets; what its own carries it sees again, and the next send begins with that.
            self.hosts[0].terminate();
            self.hosts[0].start();
            self.hosts[0].must(&["peers"]);
            self.once(number, None);
            all.push(self.once(number, None).seconds);
            first.push(self.once(number, slow).seconds);
            later.push(self.once(number, slow).seconds);
        }
        for (name, figures) in [("without", &all), ("first", &first), ("known", &later)] {
            let figures: Vec<String> = figures.iter().map(|seconds| format!("{seconds:.2}")).collect();
            println!("  {name}: {} s", figures.join(", "));
        }
        (median(all), median(first), median(later))
    }

    fn sequential(&mut self, number: usize) -> f64 {
        let image = self.next_image();
        let start = Instant::now();
        for host in 1..=number {
            self.hosts[0].must(&["-q", "send", &image, &name(host)]);
        }
        let seconds = start.elapsed().as_secs_f64();
        self.forget(&image);
        seconds
    }

    fn at_once(&mut self, number: usize) -> f64 {
        let image = self.next_image();
        let start = Instant::now();
        let sends: Vec<Child> =
            (1..=number).map(|host| self.hosts[0].imgctl(&["-q", "send", &image, &name(host)]).spawn().unwrap()).collect();
        for mut send in sends {
            assert!(send.wait().unwrap().success());
        }
        let seconds = start.elapsed().as_secs_f64();
        self.forget(&image);
        seconds
    }

    /// Every host pulls from a registry on the first one.
    fn pulls(&mut self, number: usize) -> Option<f64> {
        let image = self.next_image();
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yml");
        let data = directory.path().join("data");
        let text =
            format!("version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 0.0.0.0:{PORT}}}\n", data.display());
        std::fs::write(&config, text).unwrap();
        let registry = self.inside(0, "docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _registry = Killed(registry.ok()?);
        let listening = || TcpStream::connect_timeout(&SocketAddr::from(([10, 77, 0, 1], PORT)), Duration::from_secs(1)).is_ok();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.lan.inside(1, listening) {
            if Instant::now() > deadline {
                return None;
            }
        }
        let archive = directory.path().join("image.tar");
        self.hosts[0].must(&["save", "-o", archive.to_str().unwrap(), &image]);
        let there = format!("docker://10.77.0.1:{PORT}/bench:1");
        let copy = |host: usize, from: &str, to: &str| {
            let mut skopeo = self.inside(host, "skopeo");
            skopeo.args(["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]).stdin(Stdio::null());
            skopeo.spawn()
        };
        let pushed = copy(0, &format!("docker-archive:{}", archive.display()), &there).ok()?.wait().unwrap();
        assert!(pushed.success());
        let start = Instant::now();
        let target = |host: usize| format!("dir:{}", Path::new(directory.path()).join(name(host)).display());
        let pulls: Vec<Child> = (1..=number).map(|host| copy(host, &there, &target(host)).unwrap()).collect();
        for mut pull in pulls {
            assert!(pull.wait().unwrap().success());
        }
        let seconds = start.elapsed().as_secs_f64();
        self.forget(&image);
        Some(seconds)
    }

    fn inside(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.lan.host(host as u32 + 1), program]);
        command
    }

    fn shape(&self, host: usize, rate: &str) {
        self.lan.shape(host as u32 + 1, rate);
    }

    /// An image that nobody else has.
    fn next_image(&mut self) -> String {
        self.images += 1;
        self.image(self.images)
    }

    fn image(&self, number: u64) -> String {
        let name = format!("bench:{number}");
        let size = if number == 0 { 100_000 } else { self.mib << 20 };
        let archive = archive_file(self.hosts[0].path(), &Recipe::new(600 + number, &[size]).build(&name));
        self.hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
        std::fs::remove_file(archive).unwrap();
        name
    }

    fn forget(&self, image: &str) {
        self.hosts.iter().for_each(|host| drop(host.run(&["rm", image])));
    }
}

/// A program that ends with the part that needs it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn name(host: usize) -> String {
    format!("host{host:02}")
}

fn tenth(rate: &str) -> String {
    let (digits, unit) = split_rate(rate);
    format!("{}{unit}", digits / 10)
}
