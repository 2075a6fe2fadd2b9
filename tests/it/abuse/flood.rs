//! First packets without an end, from somebody who never goes on.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn_proto::crypto::rustls::QuicClientConfig;
use tests::rogue::Rogue;

use super::{MIB, address, rogue, with_rogue};

/// Of a host that does nothing else.
const PACKETS_PER_S: u32 = 6_000;
const FLOOD: Duration = Duration::from_secs(6);
const SOCKETS: usize = 64;

/// Well-formed first packets: each the beginning of a handshake of its own, under connection IDs of its own.
fn first_packets(rogue: &Rogue, to: SocketAddr, count: usize) -> Vec<Vec<u8>> {
    let tls = QuicClientConfig::try_from(Arc::unwrap_or_clone(rogue.tls())).unwrap();
    let config = quinn_proto::ClientConfig::new(Arc::new(tls));
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, false, None);
    let mut packets = vec![];
    for _ in 0..count {
        let (_, mut connection) = endpoint.connect(Instant::now(), config.clone(), to, "imgd.internal").unwrap();
        let mut packet = vec![];
        let transmit = connection.poll_transmit(Instant::now(), 1, &mut packet);
        assert!(transmit.is_some_and(|transmit| transmit.size == packet.len()));
        packets.push(packet);
    }
    packets
}

/// Sends the packets at the rate, over and over, until it is stopped. Returns how many a second it came to.
fn flood(packets: &[Vec<u8>], to: SocketAddr, stop: &AtomicBool) -> f64 {
    let bind = |_| UdpSocket::bind("127.0.0.3:0").unwrap();
    let sockets: Vec<UdpSocket> = (0..SOCKETS).map(bind).collect();
    let start = Instant::now();
    let mut sent = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(PACKETS_PER_S)) as u32;
        for number in sent..due {
            // A full buffer on the way drops it, as a network would.
            let _ = sockets[number as usize % SOCKETS].send_to(&packets[number as usize % packets.len()], to);
        }
        sent = due.max(sent);
        std::thread::sleep(Duration::from_millis(1));
    }
    f64::from(sent) / start.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn first_packets_of_strangers_cost_no_memory_and_delay_nobody() {
    let (host, other) = with_rogue();
    let (to, member) = (address(&host), rogue(&other));
    let packets = first_packets(&member, to, 2_000);
    let stop = Arc::new(AtomicBool::new(false));
    let stranger = {
        let stop = stop.clone();
        std::thread::spawn(move || flood(&packets, to, &stop))
    };
    let start = Instant::now();
    let mut took_ms = vec![];
    while start.elapsed() < FLOOD {
        let before = Instant::now();
        let connection = member.connect(to).await.expect("a member gets in meanwhile");
        took_ms.push(before.elapsed().as_secs_f64() * 1000.0);
        connection.close(0u32.into(), b"");
        // The next one begins when the agent has seen the end of this one, or four would be too many.
        member.idle().await;
    }
    stop.store(true, Ordering::Relaxed);
    let per_s = stranger.join().unwrap();
    took_ms.sort_by(f64::total_cmp);
    let at = |share: f64| took_ms[((took_ms.len() - 1) as f64 * share) as usize];
    let peak = host.peak_resident_bytes();
    println!(
        "{per_s:.0} first packets a second: {} handshakes, p50 {:.1} ms, p99 {:.1} ms, peak {:.1} MiB",
        took_ms.len(),
        at(0.5),
        at(0.99),
        peak as f64 / MIB as f64
    );
    assert!(per_s > f64::from(PACKETS_PER_S) * 0.8, "only {per_s} packets a second were sent");
    assert!(peak <= 64 * MIB, "{peak} bytes");
    assert!(at(0.99) <= 500.0, "p99 is {} ms", at(0.99));
}
