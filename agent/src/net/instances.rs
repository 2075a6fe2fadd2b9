//! One key, one process: which process has answered as which host. Two that live at the same time are two machines with one key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::HostId;
use proto::peer::Instance;

/// Processes of one host that are remembered: what a host that is restarted again and again leaves.
const REMEMBERED: usize = 4;

/// How long the other addresses of a host are not asked again when none is new.
const CHECK_EVERY: Duration = Duration::from_secs(600);

/// How soon after the last check a host with two machines is checked again.
const CHECK_AGAIN: Duration = Duration::from_secs(5);

/// A place in the order of questions and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u64);

/// Two addresses at which one host answers as two processes.
pub(super) type Twins = [SocketAddr; 2];

/// What has answered as which host, in order.
#[derive(Debug, Default)]
pub(super) struct Instances {
    hosts: HashMap<HostId, Answers>,
    turns: u64,
}

#[derive(Debug, Default)]
struct Answers {
    /// The one that answered first, first.
    processes: Vec<Process>,
    twins: Option<Twins>,
    checked: Option<(Instant, Vec<SocketAddr>)>,
    /// When a new process was a reason for that.
    restarted: Option<Instant>,
}

#[derive(Debug)]
struct Process {
    instance: Instance,
    address: SocketAddr,
    first_answer: Turn,
    /// It lived when this was asked.
    last_asked: Turn,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// A process that has not answered before: a restart, or another machine.
    Another,
    /// An older process lives beside a newer one.
    Twins(Twins),
}

impl Instances {
    /// A question is about to be asked.
    pub(super) fn ask(&mut self) -> Turn {
        self.turns += 1;
        Turn(self.turns)
    }

    /// This process has answered a question. A process that was restarted never answers again: one that answers a question which was asked after a newer
    /// process had answered lives beside that one.
    pub(super) fn answered(&mut self, host: HostId, instance: Instance, address: SocketAddr, asked: Turn) -> News {
        let now = self.ask();
        let answers = self.hosts.entry(host).or_default();
        let Some(at) = answers.processes.iter().position(|process| process.instance == instance) else {
            if answers.processes.len() == REMEMBERED {
                answers.processes.remove(0);
            }
            answers.processes.push(Process { instance, address, first_answer: now, last_asked: asked });
            return if answers.processes.len() > 1 { News::Another } else { News::None };
        };
        let process = &mut answers.processes[at];
        process.last_asked = process.last_asked.max(asked);
        process.address = address;
        let Some(newer) = answers.processes[at + 1..].iter().rfind(|newer| newer.first_answer < asked) else { return News::None };
        let twins = [address, newer.address];
        answers.twins = Some(twins);
        News::Twins(twins)
    }

    /// Where two machines answer as this host.
    pub(super) fn twins(&self, host: &HostId) -> Option<Twins> {
        self.hosts.get(host)?.twins
    }

    /// All hosts as which two machines answer.
    pub(super) fn all_twins(&self) -> Vec<(HostId, Twins)> {
        self.hosts.iter().filter_map(|(host, answers)| Some((*host, answers.twins?))).collect()
    }

    /// Whether all addresses of a host are to be asked now: it has two machines, or an address that was not asked lately, beside others. It counts as done.
    pub(super) fn is_due(&mut self, host: &HostId, addresses: &[SocketAddr], now: Instant) -> bool {
        let answers = self.hosts.entry(*host).or_default();
        let is_due = match &answers.checked {
            Some((at, _)) if answers.twins.is_some() => now.duration_since(*at) >= CHECK_AGAIN,
            Some((at, asked)) => now.duration_since(*at) >= CHECK_EVERY || addresses.iter().any(|address| !asked.contains(address)),
            None => true,
        };
        let is_due = is_due && (addresses.len() > 1 || answers.twins.is_some());
        if is_due {
            answers.checked = Some((now, addresses.to_vec()));
        }
        is_due
    }

    /// Whether a new process is a reason to ask at all addresses: now and then, however often somebody says that it is another one.
    pub(super) fn may_check(&mut self, host: &HostId, now: Instant) -> bool {
        let answers = self.hosts.entry(*host).or_default();
        let may = answers.restarted.is_none_or(|last| now.duration_since(last) >= CHECK_AGAIN);
        if may {
            answers.restarted = Some(now);
        }
        may
    }

    /// Every address of a host was asked since `began`: who has not answered since is gone. Where one is left, that one is the host from now on.
    pub(super) fn checked(&mut self, host: &HostId, began: Turn) {
        let Some(answers) = self.hosts.get_mut(host).filter(|answers| answers.twins.is_some()) else { return };
        let alive = answers.processes.iter().filter(|process| process.last_asked >= began).count();
        if alive == 1 {
            answers.processes.retain(|process| process.last_asked >= began);
            answers.twins = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Instance = Instance([1; 16]);
    const OTHER: Instance = Instance([2; 16]);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7117))
    }

    #[test]
    fn a_restart_is_no_other_machine() {
        let (mut instances, host) = (Instances::default(), HostId::of_public_key(b"a"));
        let asked = instances.ask();
        assert_eq!(instances.answered(host, ONE, address(1), asked), News::None);
        let late = instances.ask();
        let asked = instances.ask();
        assert_eq!(instances.answered(host, OTHER, address(1), asked), News::Another);
        // An answer that was on its way while the host was restarted.
        assert_eq!(instances.answered(host, ONE, address(1), late), News::None);
        let asked = instances.ask();
        assert_eq!(instances.answered(host, OTHER, address(2), asked), News::None);
        for process in 3..100 {
            let asked = instances.ask();
            assert_eq!(instances.answered(host, Instance([process; 16]), address(1), asked), News::Another);
        }
        assert_eq!((instances.twins(&host), instances.hosts[&host].processes.len()), (None, REMEMBERED));
    }

    #[test]
    fn who_answers_after_its_successor_is_another_machine_until_one_is_left() {
        let (mut instances, host) = (Instances::default(), HostId::of_public_key(b"a"));
        for (instance, last, news) in
            [(ONE, 1, News::None), (OTHER, 2, News::Another), (OTHER, 2, News::None), (ONE, 1, News::Twins([address(1), address(2)]))]
        {
            let asked = instances.ask();
            assert_eq!(instances.answered(host, instance, address(last), asked), news);
        }
        assert_eq!(instances.all_twins(), [(host, [address(1), address(2)])]);
        // Both answer, or nobody: it stays.
        for answering in [&[ONE, OTHER][..], &[]] {
            let began = instances.ask();
            for instance in answering {
                let asked = instances.ask();
                instances.answered(host, *instance, address(1), asked);
            }
            instances.checked(&host, began);
            assert!(instances.twins(&host).is_some());
        }
        let began = instances.ask();
        let asked = instances.ask();
        instances.answered(host, ONE, address(1), asked);
        instances.checked(&host, began);
        assert_eq!(instances.twins(&host), None);
        let asked = instances.ask();
        assert_eq!(instances.answered(host, ONE, address(1), asked), News::None);
    }

    #[test]
    fn addresses_are_asked_when_one_is_new_and_now_and_then() {
        let (mut instances, host, now) = (Instances::default(), HostId::of_public_key(b"a"), Instant::now());
        let two = [address(1), address(2)];
        assert!(!instances.is_due(&host, &two[..1], now), "one address is one machine");
        assert!(instances.is_due(&host, &two, now));
        assert!(!instances.is_due(&host, &two, now));
        assert!(instances.is_due(&host, &[address(1), address(3)], now));
        assert!(instances.is_due(&host, &[address(1), address(3)], now + CHECK_EVERY));
        for (instance, last) in [(ONE, 1), (OTHER, 2), (ONE, 1)] {
            let asked = instances.ask();
            instances.answered(host, instance, address(last), asked);
        }
        assert!(!instances.is_due(&host, &two, now + CHECK_EVERY + Duration::from_secs(1)));
        assert!(instances.is_due(&host, &two, now + CHECK_EVERY + CHECK_AGAIN));
    }
}
