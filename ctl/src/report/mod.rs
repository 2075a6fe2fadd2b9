//! The events of a `send` or a `pull` as lines for people. Draws nothing and prints nothing: lines go in one direction, out.

mod fleet;
mod host;
pub(crate) mod json;
pub(crate) mod lines;
mod origin;
mod pace;
mod rate;
#[cfg(test)]
mod samples;
mod sources;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::Digest;
use proto::control::{Done, Event, FailureKind, Hashing, Planned, Progress, Summary};
use proto::text::escape;

use crate::error::Error;
use crate::exit::Exit;
use crate::format::size;
use crate::names;

pub(crate) use fleet::Fleet;
pub(crate) use origin::Origin;
use pace::Pace;

/// Between two lines about a source that hashes.
const HASHING_PAUSE_MS: u64 = 5_000;

/// Which way images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From here.
    Send,
    /// To here.
    Pull,
}

/// Remembers what was said, and what came of it.
pub(crate) struct Report {
    /// The command that does it again, without hosts; empty when it is not known.
    pub(crate) retry: String,
    /// Nothing is sent: what failed is not to be sent, either.
    pub(crate) dry_run: bool,
    /// The agent goes on alone.
    pub(crate) detached: bool,
    /// Several images may go to the one host.
    pub(crate) several_images: bool,
    /// Bars show how far it is: no lines about it.
    pub(crate) terminal: bool,
    /// Where images come from.
    pub(crate) origin: Origin,
    direction: Direction,
    one_host: bool,
    fleet: Arc<Mutex<Fleet>>,
    pace: Pace,
    hashing_said_ms: Option<u64>,
    plans: BTreeMap<(String, String), Plan>,
    id: Option<u64>,
    done: Vec<Done>,
    failures: Vec<Failed>,
    summary: Option<Summary>,
}

/// What is to be sent to a host, and which of it was said to be there.
struct Plan {
    planned: Planned,
    said: Vec<Digest>,
}

struct Failed {
    host: String,
    image: String,
    error: Error,
    /// The host because of which this one had no turn.
    skipped_for: Option<String>,
}

impl Report {
    /// `one_host`: its layers are shown; else every host is a row of a table.
    pub(crate) fn new(direction: Direction, one_host: bool) -> Self {
        Self {
            retry: String::new(),
            dry_run: false,
            detached: false,
            several_images: false,
            terminal: false,
            origin: Origin::Here,
            direction,
            one_host,
            fleet: Arc::default(),
            pace: Pace::default(),
            hashing_said_ms: None,
            plans: BTreeMap::new(),
            id: None,
            done: vec![],
            failures: vec![],
            summary: None,
        }
    }

    /// True when every layer is shown.
    pub(crate) fn shows_layers(&self) -> bool {
        self.one_host
    }

    /// True for a `pull`.
    pub(crate) fn is_pull(&self) -> bool {
        self.direction == Direction::Pull
    }

    /// Every host as it is now, for whoever draws it.
    pub(crate) fn shared_fleet(&self) -> Arc<Mutex<Fleet>> {
        self.fleet.clone()
    }

    /// The number for `status`, `cancel` and `send --retry-failed`.
    pub(crate) fn id(&self) -> Option<u64> {
        self.id
    }

    /// The image that came, when it is one.
    pub(crate) fn image_id(&self) -> Option<Digest> {
        self.done.first().filter(|done| !done.dry_run).map(|done| done.image_id)
    }

    /// What was sent, and the whole image, of the first host.
    pub(crate) fn bytes(&self) -> Option<(u64, u64)> {
        self.done.first().map(|done| (done.sent_bytes, done.sent_bytes + done.present_bytes))
    }

    /// The lines that this event is worth, `now_ms` after the request.
    pub(crate) fn event(&mut self, event: &Event, now_ms: u64) -> Vec<String> {
        self.fleet().event(now_ms, event);
        let mut lines = match event {
            Event::Planned(planned) => self.planned(planned),
            Event::Progress(progress) => self.progress(progress),
            Event::Resolved(resolved) if !self.one_host => {
                vec![format!("{} is sha256:{}", escape(&resolved.image), resolved.image_id.short())]
            }
            Event::Moved(moved) => vec![lines::moved(moved)],
            Event::Hashing(hashing) if !self.terminal => self.hashing(hashing, now_ms),
            Event::Waiting { host, reason } if !self.is_drawn() => {
                vec![format!("{}: waiting for it ({})", escape(host), escape(reason))]
            }
            Event::Done(done) => self.host_done(done),
            _ => vec![],
        };
        match event {
            Event::Accepted { id } => self.id = Some(*id),
            Event::HostFailed { host, image, failure } => {
                let skipped_for = match &failure.kind {
                    FailureKind::Skipped(host) => Some(host.clone()),
                    _ => None,
                };
                self.failures.push(Failed { host: host.clone(), image: image.clone(), error: Error::from(failure), skipped_for });
            }
            Event::Summary(summary) => self.summary = Some(summary.clone()),
            _ => {}
        }
        if !self.one_host && !self.terminal {
            let line = self.pace.line(&self.fleet.lock().unwrap_or_else(PoisonError::into_inner), now_ms);
            lines.extend(line);
        }
        lines
    }

    /// The failure of one among several, which is worth a word when it comes. A single one is the failure of the command.
    pub(crate) fn failure(&self, event: &Event) -> Option<Error> {
        let Event::HostFailed { failure, .. } = event else { return None };
        let alone = match self.fleet().queued() {
            0 => self.one_host && !self.several_images,
            pairs => pairs == 1,
        };
        // Hundreds of them follow from one failure: the table names them.
        let follows = self.is_drawn() && matches!(failure.kind, FailureKind::Skipped(_));
        (!alone && !follows).then(|| Error { hint: None, ..Error::from(failure) })
    }

    /// The lines after the last event, for a terminal with so many columns.
    pub(crate) fn closing(&self, columns: Option<usize>) -> Vec<String> {
        if self.detached {
            let under_way = |id| format!("under way as {id}: imgctl status --watch {id} shows how it goes, imgctl cancel {id} stops it");
            return self.id.map(under_way).into_iter().collect();
        }
        let mut lines = vec![];
        if !self.one_host {
            lines.extend(self.table(columns));
        }
        // The forecast of one image has said it all.
        let forecast = self.one_host && self.done.iter().all(|done| done.dry_run) && self.done.len() == 1;
        if !self.done.is_empty() && !forecast {
            lines.push(self.total());
        }
        lines
    }

    /// What failed, when something did.
    pub(crate) fn error(&self) -> Option<Error> {
        let total = self.done.len() + self.failures.len();
        match &self.failures[..] {
            [] => None,
            [only] if total == 1 => {
                Some(Error::new(only.error.exit, only.error.to_string()).hint(only.error.hint.clone().unwrap_or_default()))
            }
            failures => {
                let hosts: Vec<String> = failures.iter().map(|failed| escape(&failed.host)).collect();
                let hosts = names::collapse(hosts.iter().map(String::as_str));
                let error = Error::new(Exit::SomeFailed, format!("{} of {total} failed: {hosts}", failures.len()));
                let mut commands = vec![];
                commands.extend(self.id.filter(|_| !self.dry_run).map(|id| format!("imgctl send --retry-failed {id}")));
                commands.extend((!self.retry.is_empty()).then(|| format!("{} {hosts}", self.retry)));
                Some(if commands.is_empty() { error } else { error.hint(format!("once that is mended: {}", commands.join(", or "))) })
            }
        }
    }

    /// Every host has a line of its own that is drawn.
    fn is_drawn(&self) -> bool {
        self.terminal && !self.one_host
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn planned(&mut self, planned: &Planned) -> Vec<String> {
        let key = (planned.host.clone(), planned.image.clone());
        // A host that was lost and is back says again what it lacks.
        if let Some(plan) = self.plans.get_mut(&key) {
            plan.planned = planned.clone();
            return vec![];
        }
        let said = planned.layers.iter().filter(|layer| layer.present_bytes >= layer.size_bytes).map(|layer| layer.digest).collect();
        self.plans.insert(key, Plan { planned: planned.clone(), said });
        match (self.one_host, self.terminal) {
            (true, _) => {
                let mut lines = vec![lines::header(self.direction, planned)];
                lines.extend(lines::present(planned));
                lines
            }
            (false, false) => vec![lines::header(self.direction, planned)],
            (false, true) => vec![],
        }
    }

    fn progress(&mut self, progress: &Progress) -> Vec<String> {
        let verb = self.verb();
        let Some(plan) = self.plans.get_mut(&(progress.host.clone(), progress.image.clone())).filter(|_| self.one_host) else {
            return vec![];
        };
        let layer = plan.planned.layers.iter().find(|layer| layer.digest == progress.digest);
        match layer.filter(|layer| progress.verified_bytes >= layer.size_bytes && !plan.said.contains(&layer.digest)) {
            Some(layer) => {
                plan.said.push(layer.digest);
                vec![format!("  {}  {verb}  {}", layer.digest.short(), size(layer.size_bytes))]
            }
            None => vec![],
        }
    }

    /// Now and then: it is a matter of seconds, or of minutes for a large image.
    fn hashing(&mut self, hashing: &Hashing, now_ms: u64) -> Vec<String> {
        if self.hashing_said_ms.is_some_and(|said_ms| now_ms.saturating_sub(said_ms) < HASHING_PAUSE_MS) {
            return vec![];
        }
        self.hashing_said_ms = Some(now_ms);
        vec![lines::hashing(hashing)]
    }

    fn host_done(&mut self, done: &Done) -> Vec<String> {
        let mut lines = vec![];
        if self.one_host && !done.dry_run {
            // Progress may be left out when much happens; what is done was sent, by us or, when nothing was, in another transfer.
            let verb = if done.sent_bytes == 0 { "came with another transfer" } else { self.verb() };
            let plan = self.plans.get(&(done.host.clone(), done.image.clone()));
            let unsaid = plan.into_iter().flat_map(|plan| plan.planned.layers.iter().filter(|layer| !plan.said.contains(&layer.digest)));
            lines.extend(unsaid.map(|layer| format!("  {}  {verb}  {}", layer.digest.short(), size(layer.size_bytes))));
            lines.push(lines::result(self.direction, &self.origin, done));
        } else if self.one_host {
            lines.push(self.forecast(done));
        } else if !done.dry_run && !self.terminal {
            lines.push(lines::short_result(self.direction, &self.origin, done));
        }
        self.done.push(done.clone());
        lines
    }

    fn forecast(&self, done: &Done) -> String {
        let (send_bytes, present_bytes) = self.forecast_bytes(done);
        let verb = self.verb();
        let place = if self.is_pull() { "here" } else { "there" };
        format!("dry run: {send_bytes} bytes would be {verb}, {present_bytes} are {place} already")
    }

    fn forecast_bytes(&self, done: &Done) -> (u64, u64) {
        let plan = self.plans.get(&(done.host.clone(), done.image.clone()));
        plan.map_or((done.sent_bytes, done.present_bytes), |plan| (plan.planned.send_bytes, plan.planned.present_bytes))
    }

    fn verb(&self) -> &'static str {
        if self.is_pull() { "fetched" } else { "sent" }
    }
}
