//! A host that was copied after it joined answers as two machines: an image would go to either of them. Whoever is welcomed says which process it is
//! (`instances.rs` judges that); a host that has another process than before, or several addresses, is asked at all of them. While two machines have
//! one key neither is spoken to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use proto::HostId;
use proto::peer::{Answer, INSTANCES, Request};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use super::instances::{News, Twins};
use super::pool::{Net, Purpose};
use super::{NetError, Peer};
use crate::sys;

/// How long a process may take to say which one it is.
const ANSWER_MS: u64 = 1_000;

/// How long a new connection is kept back until the other addresses of its host have answered. On a LAN they do so in a few milliseconds, or not at all.
const PATIENCE: Duration = Duration::from_millis(250);

/// Addresses of one host that are dialled at once for a check.
const DIALS_AT_ONCE: usize = 2;

/// A host all of whose addresses are to be asked, and whoever waits for that, or whose connections are to be looked at.
#[derive(Debug)]
pub(super) struct Check {
    host: HostId,
    what: Checked,
}

#[derive(Debug)]
enum Checked {
    Addresses(oneshot::Sender<()>),
    Connections,
}

/// Carries out checks for as long as the agent runs.
pub(super) async fn run(net: Arc<Net>, checks: Option<mpsc::Receiver<Check>>) {
    let Some(mut checks) = checks else { return std::future::pending().await };
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(check) = checks.recv() => {
                let net = net.clone();
                running.spawn(async move {
                    match check.what {
                        Checked::Addresses(done) => {
                            net.check(&check.host).await;
                            // Whoever waits goes on.
                            let _ = done.send(());
                        }
                        Checked::Connections => net.close_silent(&check.host).await,
                    }
                });
            }
            Some(ended) = running.join_next() => {
                if let Err(error) = ended {
                    error!(%error, "asking the addresses of a host failed");
                }
            }
        }
    }
}

impl Net {
    /// Asks every member with several addresses which process is at each of them, for at most this time; what does not answer tells nothing.
    pub async fn check_members(&self, timeout_ms: u64) {
        let Some(members) = self.trust().members() else { return };
        let mut waiting = vec![];
        for member in members.members.iter().filter(|member| member.id != self.trust().id()) {
            let addresses = self.peers().addresses(&member.id);
            let twins = self.lock_instances().twins(&member.id);
            if addresses.len() > 1 || twins.is_some() {
                waiting.extend(self.begin_check(member.id));
            }
        }
        let all = async {
            for done in waiting {
                let _ = done.await;
            }
        };
        sys::deadline(timeout_ms, all).await;
    }

    /// Hosts as which two machines answer, with an address of each.
    pub fn twins(&self) -> Vec<(HostId, [SocketAddr; 2])> {
        self.lock_instances().all_twins()
    }

    /// That our own key is in use on two machines: which host says so, and at which addresses it was answered.
    pub fn told_twins(&self) -> HashMap<HostId, Vec<SocketAddr>> {
        self.told_twins.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn heard_of_twins(&self, host: HostId, addresses: &[SocketAddr]) {
        let told = self.told_twins.lock().unwrap_or_else(PoisonError::into_inner).insert(host, addresses.to_vec());
        if told.is_none() {
            error!(says = ?host, ?addresses, "a host says that the key of this one is in use on two machines: is one of them a copy of the other?");
        }
    }

    /// A peer that was just welcomed hears how new the member list is, and says which process it is.
    pub(super) async fn identify(&self, peer: &Peer, purpose: Purpose) -> Result<(), NetError> {
        if purpose == Purpose::Use {
            // It has taken us for one machine.
            self.told_twins.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer.id());
        }
        let ((), news) = tokio::join!(self.tell_date(peer), self.ask_instance(peer));
        let is_due = news == News::Another && purpose == Purpose::Use;
        if is_due && self.lock_instances().may_check(&peer.id(), Instant::now()) {
            let _ = self.begin_check(peer.id());
        }
        match self.lock_instances().twins(&peer.id()) {
            Some(twins) if purpose == Purpose::Use => {
                peer.close("its key is in use on two machines");
                Err(NetError::TwoMachines(twins.to_vec()))
            }
            _ => Ok(()),
        }
    }

    /// A host that was seen on two machines is asked again, now and then: one of them may be gone.
    pub(super) async fn settle_twins(&self, host: &HostId) -> Result<(), NetError> {
        if self.lock_instances().twins(host).is_none() {
            return Ok(());
        }
        if let Some(done) = self.begin_due_check(host) {
            let _ = done.await;
        }
        self.one_machine(host)
    }

    /// A connection was made to one of the addresses of a host: who answers at the others?
    pub(super) async fn look_for_twins(&self, host: &HostId) -> Result<(), NetError> {
        if let Some(done) = self.begin_due_check(host) {
            let _ = tokio::time::timeout(PATIENCE, done).await;
        }
        self.one_machine(host)
    }

    fn one_machine(&self, host: &HostId) -> Result<(), NetError> {
        self.lock_instances().twins(host).map_or(Ok(()), |twins| Err(NetError::TwoMachines(twins.to_vec())))
    }

    /// When it is time for that, and not too many wait: what to wait for.
    pub(super) fn begin_due_check(&self, host: &HostId) -> Option<oneshot::Receiver<()>> {
        let addresses = self.peers().addresses(host);
        let is_due = self.lock_instances().is_due(host, &addresses, Instant::now());
        if is_due { self.begin_check(*host) } else { None }
    }

    fn begin_check(&self, host: HostId) -> Option<oneshot::Receiver<()>> {
        let (done, wait) = oneshot::channel();
        // Where very many wait, this one comes again when it is due again.
        self.checks.try_send(Check { host, what: Checked::Addresses(done) }).ok().map(|()| wait)
    }

    /// A host has connected from another place than before.
    pub(super) fn begin_close_silent(&self, host: HostId) {
        // Where very many wait, what is silent times out.
        let _ = self.checks.try_send(Check { host, what: Checked::Connections });
    }

    /// Asks at every address of a host which process is there: over the connections that are there, and over new ones.
    async fn check(&self, host: &HostId) {
        let began = self.lock_instances().ask();
        let mut answered = vec![];
        for peer in self.connections(host) {
            self.ask_instance(&peer).await;
            answered.push(peer.address());
        }
        let (mut dials, mut reached) = (JoinSet::new(), vec![]);
        let twins = self.lock_instances().twins(host);
        let mut addresses = vec![];
        for address in self.peers().addresses(host).into_iter().chain(twins.into_iter().flatten()) {
            if !answered.contains(&address) {
                answered.push(address);
                addresses.push(address);
            }
        }
        let mut next = addresses.into_iter();
        loop {
            // Few at a time: a host takes no more connections of one other host.
            while dials.len() < DIALS_AT_ONCE
                && let Some(address) = next.next()
            {
                dials.spawn(self.dialler(Some(*host), address));
            }
            let Some(dialled) = dials.join_next().await else { break };
            let Ok(dialled) = dialled else { continue };
            match self.admit(dialled, Some(*host), Purpose::Check).await {
                Ok(peer) => {
                    reached.push(peer);
                    // Two are enough to compare.
                    let surplus = reached.len().saturating_sub(2);
                    reached.drain(..surplus).for_each(|peer| peer.close("checked"));
                }
                Err(error) => debug!(?host, %error, "an address does not answer"),
            }
        }
        // Who has answered before another one did is asked once more: does it still live?
        for peer in self.connections(host).iter().chain(&reached) {
            self.ask_instance(peer).await;
        }
        reached.iter().for_each(|peer| peer.close("checked"));
        self.lock_instances().checked(host, began);
    }

    async fn tell_date(&self, peer: &Peer) {
        if let Some(date) = self.trust().list_date().filter(|_| peer.hello().capabilities & INSTANCES != 0) {
            let telling = async { peer.request(&Request::Date(date)).await?.receive::<Answer>().await };
            sys::deadline(ANSWER_MS, telling).await;
        }
    }

    pub(super) async fn ask_instance(&self, peer: &Peer) -> News {
        if peer.hello().capabilities & INSTANCES == 0 {
            return News::None;
        }
        let asked = self.lock_instances().ask();
        let asking = async { peer.request(&Request::Instance).await?.receive::<Answer>().await };
        match sys::deadline(ANSWER_MS, asking).await {
            Some(Ok(Answer::Instance(instance))) => {
                let before = self.lock_instances().twins(&peer.id());
                let news = self.lock_instances().answered(peer.id(), instance, peer.address(), asked);
                if let (News::Twins(twins), None) = (news, before) {
                    self.part(peer, twins);
                }
                news
            }
            _ => News::None,
        }
    }

    /// Two machines have the key of a host: nothing goes to either of them any more.
    fn part(&self, peer: &Peer, twins: Twins) {
        warn!(host = peer.name(), addresses = ?twins, "the key of a host is in use on two machines: it is not spoken to until one of them has its own");
        self.trust().audit().connection_refused(peer.name(), &NetError::TwoMachines(twins.to_vec()).to_string());
        self.connections(&peer.id()).iter().for_each(|peer| peer.close("its key is in use on two machines"));
    }

    fn lock_instances(&self) -> std::sync::MutexGuard<'_, super::instances::Instances> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
