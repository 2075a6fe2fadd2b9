//! The audit: one line per thing done or refused: who, what, from what to what, by which rule. In `<state_dir>/audit.log`, whose lines are a chain
//! of hashes ([`verify`]), and in the log under the target `audit`, at whatever level that is.
//!
//! A line is written where the thing is done: by the store's callers once a name has moved, by the trust once the member list is on disk. It is a short
//! write into the page cache, as a line of the log is, and waits for nothing else. Of what somebody else can have repeated at will so many lines a minute
//! are written, and the rest is counted (`audit/limits.rs`).

mod chain;
mod limits;
mod sink;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::join::JoinRefusal;
use proto::limits::TEXT_BYTES;
use proto::text::escape_short;
use proto::{Digest, HostId, Reference};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use crate::store::{Imported, StoreError};
use crate::sys::socket::PeerUser;

use limits::{Budget, Limits, More};
use sink::{Fields, Sink};

pub use chain::{Broken, Verified};

/// Name of the file in the state directory.
const FILE: &str = "audit.log";

/// A file that would be longer becomes `audit.log.1`, that one `audit.log.2`, and so on to four. About 20,000 lines each: with the budgets below months of a
/// busy host, and 40 MiB at most.
const FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Characters of a field: twice the longest text that a peer can send. Longer is only what a person here names: hosts of a group.
const FIELD_CHARS: usize = 2 * TEXT_BYTES;

/// How often it is looked whether a minute is over in which lines were left out.
const SETTLE_EVERY: Duration = Duration::from_secs(10);

/// In the place of all those who need no permission to be refused: an identity costs them nothing.
const STRANGERS: &str = "strangers";

/// The audit of one agent.
pub struct Audit {
    state: Mutex<State>,
    clock: Clock,
}

struct State {
    limits: Limits,
    sink: Sink,
}

/// How an image has come under a name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// From an archive.
    Loaded,
    /// It was here under another name.
    Tagged,
    /// Somebody here asked another host for it.
    Pulled,
    /// Another host brought it.
    Pushed,
}

impl Audit {
    /// Opens the log in the state directory. One that cannot be written is a warning, and is tried again with every line.
    pub(super) fn open(state_dir: &Path, clock: Clock) -> Self {
        let sink = Sink::open(state_dir.join(FILE), FILE_BYTES, &time(&clock));
        Self { state: Mutex::new(State { limits: Limits::default(), sink }), clock }
    }

    /// Writes what was left out when its minute is over, until the agent stops.
    pub async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(SETTLE_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => self.settle(|limits| limits.due(Instant::now())),
                () = shutdown.cancelled() => break,
            }
        }
        self.settle(Limits::all);
    }

    /// An image is under a name here, or without one, durably.
    pub fn arrived(&self, how: Arrival, who: &str, name: Option<&Reference>, imported: &Imported, rule: &str) {
        let event = match how {
            Arrival::Loaded => "loaded",
            Arrival::Tagged => "tagged",
            Arrival::Pulled => "pulled",
            Arrival::Pushed => "push accepted",
        };
        let new = imported.image_id.to_string();
        let old = imported.replaced.map_or_else(String::new, |old| old.to_string());
        let what = name.map_or_else(|| new.clone(), Reference::to_string);
        let budget = if how == Arrival::Pushed { Budget::Push } else { Budget::Change };
        self.line(event, budget, who, &what, &old, &new, rule);
        if name.is_some() && imported.replaced.is_some() {
            self.line("tag moved", budget, who, &what, &old, &new, rule);
        }
    }

    /// A name was taken away, or an image that had none.
    pub fn image_removed(&self, who: &str, name: &str, old: Option<&Digest>) {
        self.line("image removed", Budget::Change, who, name, &old.map_or_else(String::new, Digest::to_string), "", "");
    }

    /// It was only asked what would travel.
    pub fn planned(&self, who: &str, what: &str, rule: &str) {
        self.line("dry run", Budget::Request, who, what, "", "", rule);
    }

    /// A peer was told what is here.
    pub fn read(&self, peer: &str, what: &str) {
        self.line("read", Budget::Read, peer, what, "", "", "");
    }

    /// An image goes out to a host that asked for it.
    pub fn pull_accepted(&self, peer: &str, image: &Reference, digest: &Digest, rule: &str) {
        self.line("pull accepted", Budget::Request, peer, &image.to_string(), "", &digest.to_string(), rule);
    }

    /// An image goes out to others because a host asked for that.
    pub fn relay_accepted(&self, peer: &str, what: &str, digest: &Digest, rule: &str) {
        self.line("relay accepted", Budget::Request, peer, what, "", &digest.to_string(), rule);
    }

    /// Something that a peer wanted was not done; `rule` says why.
    pub fn refused(&self, peer: &str, what: &str, rule: &str) {
        self.line("refused", Budget::Request, peer, what, "", "", rule);
    }

    /// A connection was turned away; `who` is all that is known of the other side.
    pub fn connection_refused(&self, who: &str, reason: &str) {
        self.strangers_line("connection refused", who, "connection", reason);
    }

    /// A local program has made a request over the control socket.
    pub fn requested(&self, user: &PeerUser, what: &str) {
        self.line("requested", Budget::Request, &user.to_string(), what, "", "", "");
    }

    /// A fleet was made.
    pub(super) fn fleet_made(&self, who: &str, fleet: &HostId) {
        self.line("fleet made", Budget::Change, who, "fleet", "", &fleet.to_string(), "");
    }

    /// A token was made.
    pub(super) fn invited(&self, who: &str, name: &str, uses: u32) {
        self.line("invited", Budget::Change, who, name, "", "", &format!("{uses} uses"));
    }

    /// A host has become a member, in the place of another one perhaps.
    pub(super) fn joined(&self, name: &str, id: &HostId, replaced: Option<&HostId>) {
        let old = replaced.map_or_else(String::new, HostId::to_string);
        self.line("joined", Budget::Change, name, "membership", &old, &id.to_string(), "token");
    }

    /// A host was not let in.
    pub(super) fn join_refused(&self, id: &HostId, name: &str, reason: &JoinRefusal) {
        self.strangers_line("join refused", &id.to_string(), name, &reason.to_string());
    }

    /// A member has got a new certificate.
    pub(super) fn renewed(&self, name: &str, id: &HostId) {
        self.line("renewed", Budget::Request, name, "certificate", "", &id.to_string(), "member");
    }

    /// A member was removed.
    pub(super) fn removed(&self, who: &str, name: &str, id: &HostId) {
        self.line("removed", Budget::Change, who, name, &id.to_string(), "", "");
    }

    /// Hosts were put into a group, or taken out.
    pub(super) fn group_changed(&self, who: &str, group: &str, hosts: &[String], add: bool) {
        let (old, new) = if add { (String::new(), hosts.join(" ")) } else { (hosts.join(" "), String::new()) };
        self.line("group changed", Budget::Change, who, group, &old, &new, "");
    }

    /// A member has another name.
    pub(super) fn renamed(&self, who: &str, id: &HostId, old: &str, new: &str) {
        self.line("renamed", Budget::Change, who, &id.to_string(), old, new, "");
    }

    /// The lists of two signers were made one.
    pub(super) fn list_merged(&self, who: &str, old_epoch: u64, new_epoch: u64) {
        self.line("member lists merged", Budget::Change, who, "member list", &old_epoch.to_string(), &new_epoch.to_string(), "");
    }

    /// The CA's key has left this host.
    pub(super) fn backed_up(&self, who: &str, fleet: &HostId) {
        self.line("backed up", Budget::Change, who, "fleet", "", &fleet.to_string(), "");
    }

    /// This host has become a signer.
    pub(super) fn restored(&self, who: &str, fleet: &HostId) {
        self.line("restored", Budget::Change, who, "fleet", "", &fleet.to_string(), "");
    }

    #[allow(clippy::too_many_arguments)]
    fn line(&self, event: &'static str, budget: Budget, who: &str, what: &str, old: &str, new: &str, rule: &str) {
        // Of a local program its user counts: it is another process each time.
        let originator = who.split_once(", pid ").map_or(who, |(user, _)| user);
        self.limited(event, budget, originator, || Fields {
            event: event.to_owned(),
            who: field(who),
            what: field(what),
            old: field(old),
            new: field(new),
            rule: field(rule),
        });
    }

    fn strangers_line(&self, event: &'static str, who: &str, what: &str, rule: &str) {
        let fields = || Fields { event: event.to_owned(), who: field(who), what: field(what), rule: field(rule), ..Fields::default() };
        self.limited(event, Budget::Request, STRANGERS, fields);
    }

    fn limited(&self, event: &'static str, budget: Budget, originator: &str, fields: impl FnOnce() -> Fields) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = vec![];
        let is_admitted = state.limits.admit(event, originator, budget, Instant::now(), &mut due);
        let due = due.into_iter().map(left_out);
        for fields in due.chain(is_admitted.then(fields)) {
            state.write(fields, &time(&self.clock));
        }
    }

    fn settle(&self, due: impl FnOnce(&mut Limits) -> Vec<More>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for more in due(&mut state.limits) {
            state.write(left_out(more), &time(&self.clock));
        }
    }
}

impl State {
    fn write(&mut self, fields: Fields, time: &str) {
        let Fields { event, who, what, old, new, rule } = fields.clone();
        let written = self.sink.append(fields, time);
        // With these the log is a witness: a file that was cut, or written anew as a whole, does not have this line there.
        let (sequence, hash) = written.map(|written| (written.sequence, written.hash)).unzip();
        tracing::info!(target: "audit", who, what, old, new, rule, sequence, hash, "{event}");
    }
}

/// Counts of what goes on while the agent stops.
impl Drop for Audit {
    fn drop(&mut self) {
        self.settle(Limits::all);
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Audit")
    }
}

/// Checks the chain of these files, oldest first; without any, of those in the state directory.
pub fn verify(mut files: Vec<PathBuf>, state_dir: &Path) -> Result<Verified, StoreError> {
    if files.is_empty() {
        let own = state_dir.join(FILE);
        files.extend(sink::older(&own).into_iter().rev().filter(|older| older.exists()));
        files.push(own);
    }
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        let text = std::fs::read(&file).map_err(StoreError::io("read", &file))?;
        texts.push((file, text));
    }
    Ok(chain::verify(&texts))
}

fn left_out(More { event, who, count }: More) -> Fields {
    let rule = "more in a minute than are written".to_owned();
    Fields { event: event.to_owned(), who: field(&who), what: format!("{count} more"), rule, ..Fields::default() }
}

/// Whoever reads the file with `cat` sees what is in it.
fn field(text: &str) -> String {
    escape_short(text, FIELD_CHARS)
}

fn time(clock: &Clock) -> String {
    let now = OffsetDateTime::from(clock.now());
    // To the millisecond.
    now.replace_millisecond(now.millisecond()).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn audit(directory: &Path) -> Audit {
        Audit::open(directory, Clock::system())
    }

    fn lines(directory: &Path) -> Vec<chain::Line> {
        let text = std::fs::read_to_string(directory.join(FILE)).unwrap();
        text.lines().map(|line| chain::Line::read(line.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn a_line_stays_a_line() {
        let directory = tempfile::tempdir().unwrap();
        audit(directory.path()).refused("stapp02", "push of x\n{\"event\":\"joined\"}\x1b[2J\u{9b}", "push rule 1");
        let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        let line = &lines(directory.path())[0];
        assert_eq!((line.sequence, &*line.event, &*line.who, &*line.rule), (1, "refused", "stapp02", "push rule 1"));
        assert!(line.what.starts_with("push of x\\u{a}{\"event\""), "{}", line.what);
    }

    #[test]
    fn a_moved_tag_has_its_name_and_both_digests() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let audit = audit(directory.path());
        let name: Reference = "demo:1".parse().unwrap();
        let imported = Imported { image_id: new, replaced: Some(old) };
        audit.arrived(Arrival::Loaded, "uid 0, pid 7", Some(&name), &imported, "");
        audit.arrived(Arrival::Pushed, "stapp02", None, &Imported { replaced: None, ..imported }, "rule");
        let lines = lines(directory.path());
        let events: Vec<&str> = lines.iter().map(|line| &*line.event).collect();
        assert_eq!(events, ["loaded", "tag moved", "push accepted"]);
        assert_eq!((&lines[1].what, &lines[1].old, &lines[1].new), (&name.to_string(), &old.to_string(), &new.to_string()));
        assert_eq!(lines[2].what, new.to_string(), "without a name the image is what it is about");
    }

    #[test]
    fn strangers_share_one_budget_whatever_they_call_themselves() {
        let directory = tempfile::tempdir().unwrap();
        let audit = audit(directory.path());
        for i in 0..5_000_u32 {
            audit.join_refused(&HostId::of_public_key(&i.to_le_bytes()), &format!("x{i}"), &JoinRefusal::Token);
        }
        audit.refused("stapp02", "push of x", "policy");
        drop(audit);
        let lines = lines(directory.path());
        assert_eq!(lines.len(), 12);
        let last = &lines[11];
        assert_eq!((&*last.event, &*last.who, &*last.what), ("join refused", "strangers", "4990 more"));
        assert_eq!(verify(vec![], directory.path()).unwrap().lines, 12);
    }

    #[test]
    fn of_a_local_program_its_user_counts() {
        let directory = tempfile::tempdir().unwrap();
        let audit = audit(directory.path());
        (0..100).for_each(|pid| audit.requested(&PeerUser { uid: 0, gid: 0, groups: vec![], pid }, "status"));
        assert_eq!(lines(directory.path()).len(), 10);
    }
}
