//! Hosts on a LAN of their own: network namespaces on a bridge, made and removed by whoever holds the [`Lan`].

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::LinkNameSpaceType;

/// Network namespaces without a network: each has its loopback interface. They go when this is dropped.
pub struct Namespaces {
    prefix: String,
    hosts: u32,
}

impl Namespaces {
    /// So many, numbered from 1. `None`, with the reason printed, where they cannot be made.
    pub fn new(hosts: u32) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let namespaces = Self { prefix: format!("imgd{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)), hosts };
        for number in 1..=hosts {
            if !quiet(&["netns", "add", &namespaces.host(number)]) {
                crate::skipped("network namespaces need root and iproute2 (apt-get install iproute2)");
                return None;
            }
            ip(&["-n", &namespaces.host(number), "link", "set", "lo", "up"]);
        }
        Some(namespaces)
    }

    /// Name of one of them.
    pub fn host(&self, number: u32) -> String {
        format!("{}-h{number}", self.prefix)
    }

    /// Runs something on a thread of its own inside one of them.
    pub fn inside<T: Send>(&self, number: u32, work: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/var/run/netns/{}", self.host(number))).unwrap();
        let entered = move || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(entered).join().unwrap())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for number in 1..=self.hosts {
            quiet(&["netns", "del", &self.host(number)]);
        }
    }
}

/// A bridge with hosts on it; nothing of it is connected to the machine's own network. Everything goes when it is dropped.
pub struct Lan {
    /// The hosts, and behind them the bridge.
    namespaces: Namespaces,
    hosts: u32,
}

impl Lan {
    /// A LAN with so many hosts, `10.77.0.1` and up, each with an interface `eth0`. `None`, with the reason printed, where namespaces cannot be made.
    pub fn new(hosts: u32) -> Option<Self> {
        let lan = Self { namespaces: Namespaces::new(hosts + 1)?, hosts };
        let bridge = lan.bridge();
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        for host in 1..=hosts {
            let (namespace, port) = (lan.host(host), format!("p{host}"));
            ip(&["-n", &bridge, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", &namespace, "addr", "add", &format!("10.77.0.{host}/24"), "dev", "eth0"]);
            ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        }
        Some(lan)
    }

    /// Namespace of the host with this number, from 1.
    pub fn host(&self, number: u32) -> String {
        self.namespaces.host(number)
    }

    /// Pulls or plugs the cable of a host.
    pub fn cable(&self, number: u32, plugged: bool) {
        ip(&["-n", &self.bridge(), "link", "set", &format!("p{number}"), if plugged { "up" } else { "down" }]);
    }

    /// Cuts these hosts off from the others, but not from each other; none of them: all are together again.
    pub fn split(&self, apart: &[u32]) {
        let bridge = self.bridge();
        if !quiet(&["-n", &bridge, "link", "show", "br1"]) {
            ip(&["-n", &bridge, "link", "add", "br1", "type", "bridge", "mcast_snooping", "0"]);
            ip(&["-n", &bridge, "link", "set", "br1", "up"]);
        }
        for host in 1..=self.hosts {
            let to = if apart.contains(&host) { "br1" } else { "br0" };
            ip(&["-n", &bridge, "link", "set", &format!("p{host}"), "master", to]);
        }
    }

    /// Gives a host another address: `10.77.0.<last>` in place of what it has.
    pub fn move_to(&self, number: u32, last: u8) {
        let namespace = self.host(number);
        ip(&["-n", &namespace, "addr", "flush", "dev", "eth0", "scope", "global"]);
        ip(&["-n", &namespace, "addr", "add", &format!("10.77.0.{last}/24"), "dev", "eth0"]);
    }

    /// Leaves a host nothing but its link-local address of IPv6.
    pub fn leave_link_local(&self, number: u32) {
        ip(&["-n", &self.host(number), "addr", "flush", "dev", "eth0", "scope", "global"]);
    }

    /// Shapes the link of a host in both directions.
    pub fn shape(&self, number: u32, rate: &str) {
        let (host, bridge, port) = (self.host(number), self.bridge(), format!("p{number}"));
        for (namespace, device) in [(&host, "eth0"), (&bridge, port.as_str())] {
            let arguments = ["netns", "exec", namespace, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate];
            ip(&[&arguments[..], &["burst", "256k", "latency", "50ms"]].concat());
        }
    }

    /// Runs something on a thread of its own inside the namespace of a host.
    pub fn inside<T: Send>(&self, number: u32, work: impl FnOnce() -> T + Send) -> T {
        self.namespaces.inside(number, work)
    }

    /// Packets that a host has sent so far.
    pub fn sent_packets(&self, number: u32) -> u64 {
        self.statistic(number, "tx_packets")
    }

    /// Bytes that a host has sent so far, with all headers.
    pub fn sent_bytes(&self, number: u32) -> u64 {
        self.statistic(number, "tx_bytes")
    }

    fn statistic(&self, number: u32, name: &str) -> u64 {
        let path = format!("/sys/class/net/eth0/statistics/{name}");
        let arguments = ["netns", "exec", &self.host(number), "cat", &path];
        let output = Command::new("ip").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    fn bridge(&self) -> String {
        self.namespaces.host(self.hosts + 1)
    }
}

/// Runs `ip`, which has to succeed.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}

fn quiet(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
