//! The benchmark: what the main job costs, beside the same bytes through simpler hands, in one run.
//!
//! `cargo bench -p tests --bench transfer` (with `-- --mib 256` for a quick look). Every figure is the median of its rounds; the machine may be shared, so the
//! ratios say more than the numbers. The physical limits (hashing, writing, a bare QUIC stream) stand beside what they limit.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use proto::hash::RangeHasher;
use sha2::Digest as _;
use tests::bench::{ROUNDS, argument, rounds};
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file, noise};

fn main() {
    let mib: usize = argument("--mib").map_or(1024, |mib| mib.parse().unwrap());
    let bytes = noise(1, mib << 20);
    let directory = tempfile::tempdir().unwrap();
    println!("{mib} MiB, incompressible, median of {ROUNDS}; {} cores", std::thread::available_parallelism().unwrap());

    row("SHA-256, one core", mib, rounds(|| _ = std::hint::black_box(sha2::Sha256::digest(&bytes))), None);
    row("SHA-256 with range hashes, one core", mib, rounds(|| hash_ranges(&bytes)), None);
    row("write a file, fdatasync", mib, rounds(|| write(directory.path(), &bytes)), None);
    row("copy a file, hash it, fdatasync", mib, rounds(|| copy_and_hash(directory.path())), None);
    let bare = rounds(|| bare_quinn(&bytes, directory.path()));
    row("a bare quinn stream into a file, fdatasync", mib, bare, None);
    drop(bytes);
    send(mib, bare);
}

/// The main job, with two agents as processes on loopback.
fn send(mib: usize, bare: f64) {
    let mut hosts = ["bench1", "bench2"].map(Process::new);
    hosts.iter_mut().for_each(Process::start);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let idle = hosts.iter().map(Process::resident_bytes).max().unwrap();
    let cpu = hosts[0].cpu_s();
    std::thread::sleep(std::time::Duration::from_secs(10));
    let idle_cpu = (hosts[0].cpu_s() - cpu) / 10.0;
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);
    for round in 0..ROUNDS {
        let sample = Recipe::new(100 + round as u64, &[mib << 20]).build(&format!("bench:{round}"));
        let archive = archive_file(hosts[0].path(), &sample);
        hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
        std::fs::remove_file(archive).unwrap();
    }
    let before = [hosts[0].cpu_s(), hosts[1].cpu_s()];
    let mut round = 0;
    let mut overhead = 0.0f64;
    let whole = rounds(|| {
        let done = hosts[0].json(&["send", &format!("bench:{round}"), "bench2"], "done");
        let (sent, wire) = (done["bytes_sent"].as_f64().unwrap(), done["wire_bytes"].as_f64().unwrap());
        overhead = overhead.max(wire / sent - 1.0);
        round += 1;
    });
    let cpu = [hosts[0].cpu_s() - before[0], hosts[1].cpu_s() - before[1]].map(|cpu| cpu / ROUNDS as f64 * 1e9 / (mib << 20) as f64);
    let peak = hosts.iter().map(Process::peak_resident_bytes).max().unwrap();
    row("imgctl send, layout to layout, verified and durable", mib, whole, Some(bare));
    let mut wire = 0;
    let again = rounds(|| wire = hosts[0].json(&["send", "bench:0", "bench2"], "done")["wire_bytes"].as_u64().unwrap());
    println!("  CPU per GB: sender {:.2} s, receiver {:.2} s (goal 1.2)", cpu[0], cpu[1]);
    println!("  wire overhead: {:.2} % (QUIC, TLS and range hashes)", overhead * 100.0);
    println!("  nothing to send: {:.0} ms with imgctl's own start, {wire} bytes on the wire (goals 100 ms, 16 KiB)", again * 1e3);
    println!("  memory: idle {:.1} MiB (goal 16), peak {:.1} MiB (goal 64)", idle as f64 / MIB, peak as f64 / MIB);
    println!("  idle CPU: {:.2} % (goal 0.1)", idle_cpu * 100.0);
}

const MIB: f64 = 1024.0 * 1024.0;

fn row(what: &str, mib: usize, seconds: f64, beside: Option<f64>) {
    let rate = mib as f64 * MIB / seconds / 1e6;
    let ratio = beside.map(|beside| format!("  {:.2} × the bare stream (goal 0.8)", beside / seconds)).unwrap_or_default();
    println!("{what:52} {rate:7.0} MB/s  {seconds:6.2} s{ratio}");
}

/// A file that was not there before, as a store's are: to write one again costs less, because its pages are at hand.
fn fresh(directory: &Path, name: &str) -> File {
    let mut numbers = 0..;
    numbers.find_map(|number| File::create_new(directory.join(format!("{name}{number}"))).ok()).unwrap()
}

fn hash_ranges(bytes: &[u8]) {
    let mut hasher = RangeHasher::default();
    hasher.update(bytes);
    std::hint::black_box(hasher.finish());
}

fn write(directory: &Path, bytes: &[u8]) {
    let mut file = fresh(directory, "written");
    file.write_all(bytes).unwrap();
    file.sync_data().unwrap();
}

fn copy_and_hash(directory: &Path) {
    let bytes = std::fs::read(directory.join("written0")).unwrap();
    std::hint::black_box(sha2::Sha256::digest(&bytes));
    let mut file = fresh(directory, "copied");
    file.write_all(&bytes).unwrap();
    file.sync_data().unwrap();
}

/// One QUIC stream with quinn's defaults, from memory into a file: no hashing, no store.
fn bare_quinn(bytes: &[u8], directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, client) = tests::bare::endpoints(&runtime);
    let file = fresh(directory, "received");
    runtime.block_on(async {
        let receive = tokio::spawn(async move { tests::bare::receive(&server, file).await });
        tests::bare::send(&client, bytes).await;
        assert_eq!(receive.await.unwrap(), bytes.len() as u64);
    });
}
