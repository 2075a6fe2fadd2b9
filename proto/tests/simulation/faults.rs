//! Faults: their kinds, when they come, and their effect.

use proto::peer::Refusal;
use proto::session::receive::Input;

use crate::head::Failure;
use crate::network::{Ending, Message};
use crate::random::Random;
use crate::scenario::{Lie, MS, SECOND, Scenario};
use crate::world::{Event, World};

/// A fault.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connections between two hosts are lost.
    Disconnect(usize, usize),
    /// One stream between two hosts is lost, and no more than that.
    Reset(usize, usize),
    /// These hosts and all others do not reach each other for so long.
    Partition { side: Vec<usize>, for_us: u64 },
    /// An agent dies, and starts again after so long; `None`: never. `power`: unsynced data is lost.
    Kill { host: usize, down_us: Option<u64>, power: bool },
    /// An agent stops in order, and starts again after so long.
    Stop { host: usize, down_us: u64 },
    /// A host accepts requests and answers none of them for so long.
    Silence { host: usize, for_us: u64 },
    /// The link of a host becomes twenty times slower.
    Slow(usize),
    /// The next write to the staging area fails.
    StagingError(usize),
    /// The next commit of a blob to the store fails.
    StoreError(usize),
    /// There is no room; for so long.
    FullDisk { host: usize, for_us: u64 },
    /// The name stands for another image at the head of a job.
    MoveTag(usize),
    /// Somebody cancels a job at its head.
    Cancel(usize),
    /// Somebody cancels the sessions of a receiver.
    CancelHere(usize),
}

impl Fault {
    /// Draws the faults of a scenario, and its liars.
    pub(crate) fn draw(scenario: &mut Scenario, heads: usize, random: &mut Random) -> Vec<(u64, Self)> {
        let (count, calm_us) = (scenario.hosts.len(), scenario.calm_us);
        if random.chance(25) && count > heads + 1 {
            let liars = random.between(1, 2);
            for _ in 0..liars {
                let host = random.between(heads as u64, count as u64 - 1) as usize;
                scenario.hosts[host].lie = random.pick(&[Lie::Bytes, Lie::Hashes]);
            }
        } else if random.chance(8) {
            scenario.hosts[0].lie = random.pick(&[Lie::Bytes, Lie::Hashes]);
        }
        let most = if random.chance(15) { 0 } else { random.between(1, 8) };
        let mut faults: Vec<(u64, Self)> = vec![];
        let mut never = 0;
        for _ in 0..most {
            // Most transfers are short: early faults hit more of them.
            let at_us = random.scaled(10 * MS, calm_us).min(calm_us);
            let fault = Self::draw_one(count, heads, scenario, random);
            never += usize::from(matches!(fault, Self::Kill { down_us: None, .. }));
            if never > 2 && matches!(fault, Self::Kill { down_us: None, .. }) {
                continue;
            }
            faults.push((at_us, fault.within(calm_us.saturating_sub(at_us))));
        }
        if random.chance(6) && count > heads + 4 {
            // Hosts with something in common, such as a shared file server, hang together.
            let at_us = random.scaled(10 * MS, calm_us).min(calm_us);
            let hosts = (heads..count).filter(|_| random.chance(60)).take(4);
            faults.extend(hosts.map(|host| (at_us, Self::Silence { host, for_us: 1_000 * SECOND })));
        }
        faults
    }

    fn draw_one(count: usize, heads: usize, scenario: &Scenario, random: &mut Random) -> Self {
        let any = |random: &mut Random| random.below(count as u64) as usize;
        let member = |random: &mut Random| random.between(heads as u64, count as u64 - 1) as usize;
        let job = random.below(scenario.jobs.len() as u64) as usize;
        let for_us = random.scaled(50 * MS, 10 * SECOND);
        match random.below(100) {
            0..15 => {
                let one = any(random);
                Self::Disconnect(one, (one + random.between(1, count as u64 - 1) as usize) % count)
            }
            15..25 => {
                let one = any(random);
                Self::Reset(one, (one + random.between(1, count as u64 - 1) as usize) % count)
            }
            25..35 => Self::Partition { side: (0..count).filter(|_| random.chance(40)).collect(), for_us },
            35..47 => Self::Kill { host: member(random), down_us: Some(for_us), power: random.chance(50) },
            47..51 => Self::Kill { host: member(random), down_us: None, power: false },
            51..55 => Self::Kill { host: random.below(heads as u64) as usize, down_us: Some(for_us), power: random.chance(50) },
            55..61 => Self::Kill { host: random.below(heads as u64) as usize, down_us: None, power: false },
            61..66 => Self::Stop { host: any(random), down_us: for_us },
            66..73 => Self::Silence { host: member(random), for_us: if random.chance(30) { 1_000 * SECOND } else { for_us } },
            73..76 => Self::Silence { host: random.below(heads as u64) as usize, for_us },
            76..82 => Self::Slow(any(random)),
            82..86 => Self::StagingError(member(random)),
            86..89 => Self::StoreError(member(random)),
            89..92 => Self::FullDisk { host: member(random), for_us },
            92..96 => Self::MoveTag(job),
            96..98 => Self::Cancel(job),
            _ => Self::CancelHere(member(random)),
        }
    }

    /// The same, over after at most so long.
    fn within(self, left_us: u64) -> Self {
        match self {
            Self::Partition { side, for_us } => Self::Partition { side, for_us: for_us.min(left_us) },
            Self::Kill { host, down_us, power } => Self::Kill { host, down_us: down_us.map(|down_us| down_us.min(left_us)), power },
            Self::Stop { host, down_us } => Self::Stop { host, down_us: down_us.min(left_us) },
            Self::FullDisk { host, for_us } => Self::FullDisk { host, for_us: for_us.min(left_us) },
            other => other,
        }
    }
}

impl World {
    /// A fault comes.
    pub(crate) fn strike(&mut self, number: usize) {
        let fault = self.scenario.faults[number].1.clone();
        self.log(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Disconnect(one, other) => self.disconnect(one, other),
            Fault::Reset(one, other) => self.reset_one(one, other),
            Fault::Partition { side, for_us } => self.separate(&side, for_us),
            Fault::Kill { host, down_us, power } => {
                self.kill(host, false);
                if power {
                    self.nodes[host].disk.lose_power(&mut self.random);
                }
                match down_us {
                    Some(down_us) => self.after(down_us, Event::Start(host)),
                    None => self.nodes[host].is_dead = true,
                }
            }
            Fault::Stop { host, down_us } => {
                self.leave(host);
                self.kill(host, true);
                self.after(down_us, Event::Start(host));
            }
            Fault::Silence { host, for_us } => self.nodes[host].silent_until_us = self.now_us + for_us,
            Fault::Slow(host) => self.nodes[host].bytes_per_s = (self.nodes[host].bytes_per_s / 20).max(1_000_000),
            Fault::StagingError(host) => self.nodes[host].staging_fails = true,
            Fault::StoreError(host) => self.nodes[host].store_fails = true,
            Fault::FullDisk { host, for_us } => self.nodes[host].full_until_us = self.now_us + for_us,
            Fault::MoveTag(job) => self.tags[job] = (self.tags[job] + 1) % self.scenario.jobs[job].versions.len(),
            Fault::Cancel(job) => self.cancel_job(job),
            Fault::CancelHere(host) => {
                for session in self.nodes[host].sessions.clone() {
                    if !self.sessions[session].is_committing {
                        self.nodes[host].was_cancelled = true;
                        self.tell(session, Input::Failed(Refusal::Cancelled));
                    }
                }
            }
        }
    }

    /// The agent of a host is about to stop: whoever it talks to hears of it.
    fn leave(&mut self, host: usize) {
        for session in self.nodes[host].sessions.clone() {
            if !self.sessions[session].is_committing {
                self.tell(session, Input::Failed(Refusal::ShuttingDown));
            }
        }
        for sending in self.sendings_of(host) {
            if let Some(stream) = self.sendings[sending].stream {
                let is_shared = self.scenario.jobs[self.runs[self.sendings[sending].run].job].is_shared;
                self.transmit(stream, host, Message::End(if is_shared { Ending::Finished } else { Ending::Reset }));
            }
        }
    }

    fn cancel_job(&mut self, job: usize) {
        self.cancelled[job] = true;
        for sending in 0..self.sendings.len() {
            let of_job = self.runs[self.sendings[sending].run].job == job;
            if of_job && self.sendings[sending].result.is_none() && self.is_running(self.sendings[sending].run) {
                if let Some(stream) = self.sendings[sending].stream {
                    self.transmit(stream, self.scenario.jobs[job].head, Message::End(Ending::Reset));
                }
                self.end_sending(sending, Err(Failure::Cancelled));
            }
        }
    }
}
