//! Attacks the trust of a fleet: hosts join, are removed, restart and exchange member lists in any order, including old and altered lists, requests and
//! answers, and lists of several signers.
//!
//! Promises: the epoch of a host never decreases; no list has a member that it names as removed; an altered message changes nothing; names are unique; after
//! every host has told every other host its list, all have the same list. A removed host never returns, and with one signer a token admits no more hosts
//! than its uses.
#![no_main]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agent::trust::{Invite, Token, Trust};
use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use proto::HostId;
use proto::frame::{self, Bounded};
use proto::host::{MemberList, SignedMemberList};
use proto::join::{JoinAnswer, JoinPurpose, JoinRequest};
use tempfile::TempDir;

const HOSTS: usize = 5;
const EXPORTER: [u8; 32] = [7; 32];

/// Rounds in which every host tells every other host its list, until all must agree: lists are merged, and the results spread.
const ROUNDS: usize = 6;

struct Host {
    trust: Option<Arc<Trust>>,
    directory: TempDir,
    epoch: u64,
    removed: BTreeSet<HostId>,
}

struct Bench {
    hosts: Vec<Host>,
    tokens: Vec<(Token, u32)>,
    /// Hosts that each token has admitted, by the place of the token.
    used: HashMap<usize, u32>,
    lists: Vec<SignedMemberList>,
    backup: Option<Vec<u8>>,
    /// A backup was restored: there may be several signers, and invitations may be live at two of them, or live again.
    restored: bool,
}

fn name(number: usize) -> String {
    format!("host{number}")
}

impl Host {
    fn new(number: usize) -> Self {
        let directory = fuzz::directory();
        let trust = Trust::open(directory.path(), &name(number)).expect("a host");
        Self { trust: Some(trust), directory, epoch: 0, removed: BTreeSet::new() }
    }

    fn trust(&self) -> &Arc<Trust> {
        self.trust.as_ref().expect("a host")
    }

    /// Checks the promises about the list of one host.
    fn check(&mut self) {
        let Some(list) = self.trust().members() else { return };
        assert!(list.epoch >= self.epoch, "the list went back");
        self.epoch = list.epoch;
        let removed: BTreeSet<HostId> = list.removed.iter().copied().collect();
        assert!(removed.is_superset(&self.removed), "a removed host is not removed any more");
        self.removed = removed;
        assert!(list.members.iter().all(|member| !self.removed.contains(&member.id)), "a member that was removed");
        let names: BTreeSet<&str> = list.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names.len(), list.members.len(), "two members of one name");
        assert!(list.within_limits());
        let signed = self.trust().signed_members().expect("a list");
        let signed: MemberList = frame::decode(&signed.list).expect("a list");
        assert_eq!(signed.epoch, list.epoch);
        // What the newest list does not know is kept beside it, for the signers.
        assert_eq!(signed == *list, self.trust().lost_removals().is_empty());
    }
}

impl Bench {
    fn trust(&self, choices: &mut Choices<'_>) -> Arc<Trust> {
        self.hosts[choices.below(HOSTS)].trust().clone()
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(12) {
            0 => self.invite(choices),
            1..=3 => self.join(choices),
            4 => self.renew(choices),
            5 => {
                let (trust, whom) = (self.trust(choices), name(choices.below(HOSTS)));
                let _ = trust.remove(&[whom]);
            }
            6 => {
                let (trust, whom) = (self.trust(choices), name(choices.below(HOSTS)));
                let _ = trust.group(["web", "db"][choices.below(2)], &[whom], choices.one_in(2));
            }
            7 => {
                let host = &mut self.hosts[choices.below(HOSTS)];
                let number = name(choices.below(HOSTS));
                host.trust = None;
                host.trust = Some(Trust::open(host.directory.path(), &number).expect("a host after a restart"));
            }
            8 => match (&self.backup, choices.one_in(2)) {
                (Some(backup), true) => self.restored |= self.trust(choices).restore(backup).is_ok(),
                _ => self.backup = self.trust(choices).backup().ok().map(|backup| backup.to_vec()),
            },
            9 => self.lists.extend(self.trust(choices).signed_members()),
            _ => self.tell(choices),
        }
    }

    fn invite(&mut self, choices: &mut Choices<'_>) {
        let uses = choices.below(3) as u32;
        let whom = |choices: &mut Choices<'_>| choices.one_in(3).then(|| name(choices.below(HOSTS)));
        let (for_name, replace) = (whom(choices), whom(choices));
        let invite = Invite { uses, valid: Duration::from_secs(60), for_name, replace, address: None };
        if let Ok(invitation) = self.trust(choices).invite(&invite) {
            self.tokens.push((Token::parse(&invitation.token).expect("a token"), uses));
        }
    }

    fn join(&mut self, choices: &mut Choices<'_>) {
        let Some(place) = self.tokens.len().checked_sub(1).map(|last| last - choices.below(self.tokens.len())) else { return };
        let (token, uses) = &self.tokens[place];
        let (host, signer) = (self.trust(choices), self.trust(choices));
        let request = host.join_request(token, &name(choices.below(HOSTS)), &EXPORTER);
        let before = signer.signed_members();
        let answer = match alter(choices, &request) {
            Some((request, exporter)) => {
                let answer = signer.answer_join(&request, &exporter).expect("a disk");
                assert!(matches!(answer, JoinAnswer::Refused(_)), "an altered request is answered");
                assert_eq!(signer.signed_members(), before);
                return;
            }
            None => signer.answer_join(&request, &EXPORTER).expect("a disk"),
        };
        match &answer {
            JoinAnswer::Accepted { .. } => {
                let used = self.used.entry(place).or_default();
                *used += 1;
                assert!(*used <= *uses || self.restored, "a token was used too often");
            }
            JoinAnswer::Refused(_) => assert_eq!(signer.signed_members(), before),
        }
        self.deliver(choices, &host, &token.fleet.clone(), answer);
    }

    fn renew(&mut self, choices: &mut Choices<'_>) {
        let (host, signer) = (self.trust(choices), self.trust(choices));
        let answer = signer.answer_join(&host.renew_request(&EXPORTER), &EXPORTER).expect("a disk");
        if let Some(fleet) = signer.fleet() {
            self.deliver(choices, &host, &fleet, answer);
        }
    }

    /// Delivers an answer to the host that asked, to another host, or not at all.
    fn deliver(&self, choices: &mut Choices<'_>, host: &Arc<Trust>, fleet: &HostId, answer: JoinAnswer) {
        match choices.below(6) {
            1 => {}
            2 => {
                let other = self.trust(choices);
                let (before, is_accepted) = (other.signed_members(), matches!(answer, JoinAnswer::Accepted { .. }));
                let taken = other.joined(fleet, answer).is_ok();
                assert!(!taken || (is_accepted && other.id() == host.id()), "the certificate is another host's");
                assert!(taken || other.signed_members() == before);
            }
            _ => drop(host.joined(fleet, answer)),
        }
    }

    /// Tells a host a list that some host has or had, intact or altered.
    fn tell(&mut self, choices: &mut Choices<'_>) {
        self.lists.extend(self.trust(choices).signed_members());
        let Some(last) = self.lists.len().checked_sub(1) else { return };
        let mut list = self.lists[last - choices.below(self.lists.len())].clone();
        let host = self.trust(choices);
        if choices.one_in(3) {
            let before = host.signed_members();
            let bytes = if choices.one_in(2) { &mut list.signature } else { &mut list.list };
            let at = choices.below(1 << 16) % bytes.len();
            bytes[at] ^= 1 << choices.below(8);
            assert!(host.accept_members(&list).is_err(), "an altered list is taken");
            assert_eq!(host.signed_members(), before);
        } else {
            let _ = host.accept_members(&list);
        }
    }

    /// Spreads all lists, and checks that all hosts agree.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            for from in 0..HOSTS {
                let told = self.hosts[from].trust();
                for list in told.signed_members().into_iter().chain(told.lost_removals()).collect::<Vec<_>>() {
                    for host in &mut self.hosts {
                        let _ = host.trust().accept_members(&list);
                        host.check();
                    }
                }
            }
        }
        let epochs: BTreeSet<u64> = self.hosts.iter().map(|host| host.trust().epoch()).filter(|&epoch| epoch > 0).collect();
        let lists: BTreeSet<Vec<u8>> =
            self.hosts.iter().filter_map(|host| host.trust().signed_members()).map(|signed| signed.list).collect();
        assert!(lists.len() <= 1, "epochs {epochs:?}, and {} lists", lists.len());
    }
}

/// An altered request, or the exporter of another connection; `None` for the request as it is.
fn alter(choices: &mut Choices<'_>, request: &JoinRequest) -> Option<(JoinRequest, [u8; 32])> {
    let (mut request, mut exporter) = (request.clone(), EXPORTER);
    match choices.below(12) {
        1 => exporter[choices.below(32)] ^= 1,
        2 => request.major += 1,
        3 => request.possession[choices.below(64)] ^= 1,
        4 => request.public_key[choices.below(32)] ^= 1,
        5 => match &mut request.purpose {
            JoinPurpose::Join { name, .. } => name.push('x'),
            JoinPurpose::Renew => {}
        },
        6 => match &mut request.purpose {
            JoinPurpose::Join { proof, .. } => proof[choices.below(32)] ^= 1,
            JoinPurpose::Renew => {}
        },
        _ => return None,
    }
    Some((request, exporter))
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let hosts: Vec<Host> = (0..HOSTS).map(Host::new).collect();
    hosts[0].trust().init().expect("a fleet");
    let mut bench = Bench { hosts, tokens: vec![], used: HashMap::new(), lists: vec![], backup: None, restored: false };
    while !choices.is_empty() {
        bench.step(&mut choices);
        bench.hosts.iter_mut().for_each(Host::check);
    }
    bench.settle();
});
