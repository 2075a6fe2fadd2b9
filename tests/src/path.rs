//! A path between two hosts that is not a clean cable: every IP packet goes through a relay that delays, reorders, loses, repeats and damages it, from the same
//! seed in the same order of draws. TCP takes the same path as QUIC.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::namespace::{Namespaces, ip};
use crate::sys::tun;

/// What happens on the way, in each direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions {
    /// One way.
    pub delay: Duration,
    /// Up to so much more, each packet for itself: they overtake each other.
    pub jitter: Duration,
    /// Of a thousand packets.
    pub lost: f64,
    /// Of a thousand packets: they arrive so much later than their neighbours.
    pub reordered: f64,
    /// How much later that is.
    pub reordered_by: Duration,
    /// Of a thousand packets: they come twice.
    pub repeated: f64,
    /// Of a thousand packets: one of their bits is another one.
    pub damaged: f64,
    /// Bits a second; packets wait in a queue.
    pub rate: Option<u64>,
    /// How long they wait there at most.
    pub queue: Duration,
}

/// Two hosts, `10.78.0.1` and `10.78.0.2`, in namespaces of their own. Everything goes when it is dropped.
pub struct Path {
    hosts: Namespaces,
    conditions: Arc<RwLock<Conditions>>,
    /// What is added to the UDP port of the first host when the second one sees it.
    ports: Arc<AtomicU32>,
    carried: Arc<[AtomicU64; 2]>,
    over: Arc<AtomicBool>,
    relays: Vec<JoinHandle<()>>,
}

impl Path {
    /// `None`, with the reason printed, where it cannot be made.
    pub fn new(conditions: Conditions) -> Option<Self> {
        let hosts = Namespaces::new(2)?;
        let open = |number: u32| hosts.inside(number, || tun::open("tun0"));
        let (Ok(one), Ok(two)) = (open(1), open(2)) else {
            // A machine without it cannot run this, whatever is installed.
            #[allow(clippy::print_stdout)]
            {
                println!("skipped: a path needs /dev/net/tun, which this machine has not, or does not give to this user");
            }
            return None;
        };
        for number in 1..=2 {
            let namespace = hosts.host(number);
            ip(&["-n", &namespace, "addr", "add", &format!("10.78.0.{number}/24"), "dev", "tun0"]);
            ip(&["-n", &namespace, "link", "set", "tun0", "mtu", "1500", "txqueuelen", "20000", "up"]);
        }
        let conditions = Arc::new(RwLock::new(conditions));
        let (over, ports, carried) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let mut relays = vec![];
        for (index, (from, to)) in [(&one, &two), (&two, &one)].into_iter().enumerate() {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let relay = Relay {
                from,
                to,
                index,
                conditions: conditions.clone(),
                ports: ports.clone(),
                carried: carried.clone(),
                over: over.clone(),
                random: Random(0x9e37_79b9_7f4a_7c15 + index as u64),
                free_at: Instant::now(),
                waiting: BinaryHeap::new(),
                number: 0,
            };
            relays.push(std::thread::spawn(move || relay.run()));
        }
        Some(Self { hosts, conditions, ports, carried, over, relays })
    }

    /// The namespace of a host, 1 or 2.
    pub fn host(&self, number: u32) -> String {
        self.hosts.host(number)
    }

    /// Runs something on a thread of its own at a host.
    pub fn inside<T: Send>(&self, number: u32, work: impl FnOnce() -> T + Send) -> T {
        self.hosts.inside(number, work)
    }

    /// From now on the path is like this.
    pub fn change(&self, conditions: Conditions) {
        *self.conditions.write().unwrap() = conditions;
    }

    /// From now on a router in between shows the second host another port of the first one.
    pub fn move_ports(&self) {
        self.ports.fetch_add(1000, Ordering::Relaxed);
    }

    /// Bytes that a host has put on the path so far.
    pub fn sent_bytes(&self, number: u32) -> u64 {
        self.carried[number as usize - 1].load(Ordering::Relaxed)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.relays.drain(..).for_each(|relay| relay.join().unwrap());
    }
}

/// One direction.
struct Relay {
    from: File,
    to: File,
    index: usize,
    conditions: Arc<RwLock<Conditions>>,
    ports: Arc<AtomicU32>,
    carried: Arc<[AtomicU64; 2]>,
    over: Arc<AtomicBool>,
    random: Random,
    /// When the link has sent everything that waits.
    free_at: Instant,
    waiting: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    number: u64,
}

impl Relay {
    fn run(mut self) {
        while !self.over.load(Ordering::Relaxed) {
            self.wait();
            let conditions = *self.conditions.read().unwrap();
            let mut packet = [0; 2048];
            for _ in 0..64 {
                let Ok(length) = self.from.read(&mut packet) else { break };
                self.take(packet[..length].to_vec(), &conditions);
            }
            let now = Instant::now();
            while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                let Some(Reverse((_, _, packet))) = self.waiting.pop() else { break };
                // What the host does not take is lost, as on a wire.
                let _ = self.to.write(&packet);
            }
        }
    }

    /// Until a packet comes or is due.
    fn wait(&self) {
        let now = Instant::now();
        let most = Duration::from_millis(100);
        let due = self.waiting.peek().map_or(most, |Reverse((due, ..))| due.saturating_duration_since(now).min(most));
        let timeout = Timespec { tv_sec: 0, tv_nsec: due.as_nanos() as i64 };
        let _ = poll(&mut [PollFd::from_borrowed_fd(self.from.as_fd(), PollFlags::IN)], Some(&timeout));
    }

    fn take(&mut self, mut packet: Vec<u8>, conditions: &Conditions) {
        self.carried[self.index].fetch_add(packet.len() as u64, Ordering::Relaxed);
        let now = Instant::now();
        if self.random.per_mille(conditions.lost) {
            return;
        }
        self.free_at = self.free_at.max(now);
        if let Some(bits_per_s) = conditions.rate {
            if self.free_at - now > conditions.queue {
                return;
            }
            self.free_at += Duration::from_nanos(packet.len() as u64 * 8 * 1_000_000_000 / bits_per_s);
        }
        let mut due = self.free_at + conditions.delay + conditions.jitter.mul_f64(self.random.part());
        if self.random.per_mille(conditions.reordered) {
            due += conditions.reordered_by;
        }
        if self.random.per_mille(conditions.damaged) {
            let bit = (self.random.part() * packet.len() as f64 * 8.0) as usize;
            packet[bit / 8] ^= 1 << (bit % 8);
        }
        self.translate(&mut packet);
        if self.random.per_mille(conditions.repeated) {
            self.push(due, packet.clone());
        }
        self.push(due, packet);
    }

    fn push(&mut self, due: Instant, packet: Vec<u8>) {
        self.number += 1;
        self.waiting.push(Reverse((due, self.number, packet)));
    }

    /// Changes the port of the first host in a UDP packet of IPv4.
    fn translate(&self, packet: &mut [u8]) {
        let moved = self.ports.load(Ordering::Relaxed) as u16;
        if moved == 0 || packet.len() < 28 || packet[0] >> 4 != 4 || packet[9] != 17 {
            return;
        }
        let header_bytes = usize::from(packet[0] & 15) * 4;
        let (at, moved) = if self.index == 0 { (header_bytes, moved) } else { (header_bytes + 2, moved.wrapping_neg()) };
        let port = u16::from_be_bytes([packet[at], packet[at + 1]]).wrapping_add(moved);
        packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
        // UDP over IPv4 may go without a checksum (RFC 768).
        packet[header_bytes + 6..header_bytes + 8].fill(0);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    }

    fn per_mille(&mut self, often: f64) -> bool {
        often > 0.0 && self.part() * 1000.0 < often
    }
}
