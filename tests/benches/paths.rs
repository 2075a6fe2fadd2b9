//! Paths that are not a clean cable: `imgctl send` beside TCP with each of its controllers, through the same relay, in the same run.
//!
//! `cargo bench -p tests --bench paths` (`-- --only 0.3ms` for some of them, `-- --mib 40`). The relay is one more program that needs a core: what it carries at all stands in the
//! first row.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use tests::bench::{ROUNDS, argument, median, seconds};
use tests::path::{Conditions, Path};
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

fn main() {
    let mib: usize = argument("--mib").map_or(38, |mib| mib.parse().unwrap());
    let rounds: usize = argument("--rounds").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let only = argument("--only").unwrap_or_default();
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let clean = Conditions::default();
    let queue = ms(50.0);
    let cases = [
        ("no delay", clean),
        ("0.3ms jitter", Conditions { jitter: ms(0.3), ..clean }),
        ("5ms jitter, 100 Mbit/s", Conditions { jitter: ms(5.0), rate: Some(100_000_000), queue, ..clean }),
        ("20ms, 0.1% lost", Conditions { delay: ms(10.0), lost: 1.0, ..clean }),
        ("100ms, 1% lost", Conditions { delay: ms(50.0), lost: 10.0, ..clean }),
        ("5% reordered", Conditions { delay: ms(0.5), reordered: 50.0, reordered_by: ms(1.0), ..clean }),
        ("20ms, 100 Mbit/s, short queue", Conditions { delay: ms(10.0), rate: Some(100_000_000), queue: ms(5.0), ..clean }),
        ("20ms, 100 Mbit/s, long queue", Conditions { delay: ms(10.0), rate: Some(100_000_000), queue: ms(200.0), ..clean }),
        ("1% repeated", Conditions { delay: ms(0.5), repeated: 10.0, ..clean }),
    ];
    println!("{mib} MiB, median of {rounds}");
    println!("{:32} {:>8} {:>8} {:>8}  ratio to the better TCP (goal 1.3)", "", "imgctl", "cubic", "bbr");
    for (name, conditions) in cases.into_iter().filter(|(name, _)| name.contains(&only)) {
        let Some(path) = Path::new(conditions) else { return };
        let send = median(send(&path, mib, rounds));
        let [cubic, bbr] = ["cubic", "bbr"].map(|controller| median((0..rounds).map(|_| tcp(&path, mib << 20, controller)).collect()));
        println!("{name:32} {send:7.2}s {cubic:7.2}s {bbr:7.2}s  {:.2}", send / cubic.min(bbr));
    }
}

fn send(path: &Path, mib: usize, rounds: usize) -> Vec<f64> {
    let address = |number: u32| format!("10.78.0.{number}:7117");
    let mut hosts = [1, 2].map(|number| Process::at(&format!("bench{number}"), &path.host(number), &address(number)));
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);
    let samples = (0..rounds).map(|round| Recipe::new(300 + round as u64, &[mib << 20]).build(&format!("bench:{round}")));
    for sample in samples {
        let archive = archive_file(hosts[0].path(), &sample);
        hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    }
    (0..rounds).map(|round| seconds(|| drop(hosts[0].must(&["send", &format!("bench:{round}"), "bench2"])))).collect()
}

/// The same bytes through a TCP connection, to the last acknowledged one.
fn tcp(path: &Path, bytes: usize, controller: &str) -> f64 {
    let listener = path.inside(2, || TcpListener::bind("10.78.0.2:0").unwrap());
    let address = listener.local_addr().unwrap();
    let receiving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 18];
        let mut received = 0;
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            received += length;
        }
        stream.write_all(b"!").unwrap();
        received
    });
    let took = path.inside(1, || {
        seconds(|| {
            let mut stream = TcpStream::connect(address).unwrap();
            rustix::net::sockopt::set_tcp_congestion(&stream, controller).unwrap();
            stream.write_all(&vec![7; bytes]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        })
    });
    assert_eq!(receiving.join().unwrap(), bytes);
    took
}
