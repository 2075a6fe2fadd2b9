//! The events of a `send` or a `pull` as lines for people. Draws nothing and prints nothing: lines go in one direction, out.

pub(crate) mod json;
mod lines;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use proto::Digest;
use proto::control::{Done, Event, Planned, Progress, Summary};
use proto::text::escape;

use crate::error::Error;
use crate::exit::Exit;
use crate::format::{count, duration_ms, shell, size, table};

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
    /// The command that does it again, without hosts.
    pub(crate) retry: String,
    /// The agent goes on alone.
    pub(crate) detached: bool,
    /// Bars show how far it is: no lines about it.
    pub(crate) terminal: bool,
    direction: Direction,
    one_host: bool,
    plans: BTreeMap<(String, String), Plan>,
    ids: Vec<u64>,
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
}

impl Report {
    /// `one_host`: its layers are shown; else every host is a row of a table.
    pub(crate) fn new(direction: Direction, one_host: bool) -> Self {
        Self {
            retry: String::new(),
            detached: false,
            terminal: false,
            direction,
            one_host,
            plans: BTreeMap::new(),
            ids: vec![],
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

    /// The image that came, when it is one.
    pub(crate) fn image_id(&self) -> Option<Digest> {
        self.done.first().filter(|done| !done.dry_run).map(|done| done.image_id)
    }

    /// What was sent, and the whole image, of the first host.
    pub(crate) fn bytes(&self) -> Option<(u64, u64)> {
        self.done.first().map(|done| (done.sent_bytes, done.sent_bytes + done.present_bytes))
    }

    /// The lines that this event is worth.
    pub(crate) fn event(&mut self, event: &Event) -> Vec<String> {
        match event {
            Event::Accepted { id, .. } => {
                self.ids.push(*id);
                vec![]
            }
            Event::Planned(planned) => self.planned(planned),
            Event::Progress(progress) => self.progress(progress),
            Event::Waiting { host, reason } => {
                vec![format!("{}: connection lost, waiting for it ({})", escape(host), escape(reason))]
            }
            Event::Done(done) => self.host_done(done),
            Event::HostFailed { host, image, failure } => {
                self.failures.push(Failed { host: host.clone(), image: image.clone(), error: Error::from(failure) });
                vec![]
            }
            Event::Summary(summary) => {
                self.summary = Some(summary.clone());
                vec![]
            }
            _ => vec![],
        }
    }

    /// The failure of one among several, which is worth a word when it comes. A single one is the failure of the command.
    pub(crate) fn failure(&self, event: &Event) -> Option<Error> {
        let alone = self.one_host && self.ids.len() <= 1;
        match event {
            Event::HostFailed { failure, .. } if !alone => Some(Error { hint: None, ..Error::from(failure) }),
            _ => None,
        }
    }

    /// The lines after the last event.
    pub(crate) fn closing(&self) -> Vec<String> {
        if self.detached {
            let ids: Vec<String> = self.ids.iter().map(ToString::to_string).collect();
            return vec![format!("under way as {}: imgctl status shows how it goes, imgctl cancel ID stops it", ids.join(", "))];
        }
        let mut lines = vec![];
        if !self.one_host {
            lines.extend(table(&self.rows()));
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
                let mut hosts: Vec<String> = failures.iter().map(|failed| shell(&failed.host)).collect();
                hosts.dedup();
                let what = format!("{} of {total} failed: {}", failures.len(), hosts.join(" "));
                Some(Error::new(Exit::SomeHostsFailed, what).hint(format!("once that is mended: {} {}", self.retry, hosts.join(" "))))
            }
        }
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

    fn host_done(&mut self, done: &Done) -> Vec<String> {
        let mut lines = vec![];
        if self.one_host && !done.dry_run {
            // Progress may be left out when much happens; what is done was sent, by us or, when nothing was, in another transfer.
            let verb = if done.sent_bytes == 0 { "came with another transfer" } else { self.verb() };
            let plan = self.plans.get(&(done.host.clone(), done.image.clone()));
            let unsaid = plan.into_iter().flat_map(|plan| plan.planned.layers.iter().filter(|layer| !plan.said.contains(&layer.digest)));
            lines.extend(unsaid.map(|layer| format!("  {}  {verb}  {}", layer.digest.short(), size(layer.size_bytes))));
            lines.push(lines::result(self.direction, done));
        } else if done.dry_run && self.one_host {
            lines.push(self.forecast(done));
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

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![];
        for done in &self.done {
            let (sent_bytes, present_bytes) = if done.dry_run { self.forecast_bytes(done) } else { (done.sent_bytes, done.present_bytes) };
            let sent = if done.dry_run { format!("{sent_bytes} B") } else { size(sent_bytes) };
            let result = if done.dry_run { "dry run".to_owned() } else { lines::identity(self.direction, done) };
            let layers = format!("{} of {}", done.layers_sent, done.layers_total);
            rows.push(vec![
                escape(&done.host),
                escape(&done.image),
                sent,
                layers,
                size(present_bytes),
                duration_ms(done.elapsed_ms),
                result,
            ]);
        }
        for failed in &self.failures {
            let none = || "-".to_owned();
            let result = format!("failed (exit code {})", failed.error.exit.code());
            rows.push(vec![escape(&failed.host), escape(&failed.image), none(), none(), none(), none(), result]);
        }
        rows.sort();
        let sent = if self.done.iter().any(|done| done.dry_run) { "TO SEND" } else { "SENT" };
        rows.insert(0, ["HOST", "IMAGE", sent, "LAYERS", "ALREADY THERE", "TIME", "RESULT"].map(str::to_owned).to_vec());
        rows
    }

    fn total(&self) -> String {
        let dry_run = self.done.iter().all(|done| done.dry_run);
        let bytes = |done: &Done| if dry_run { self.forecast_bytes(done) } else { (done.sent_bytes, done.present_bytes) };
        let (sent_bytes, present_bytes) = self.done.iter().map(bytes).fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let place = if self.is_pull() { "here" } else { "there" };
        if dry_run {
            return format!(
                "dry run: nothing was {}; {} would be, {} are {place} already",
                self.verb(),
                size(sent_bytes),
                size(present_bytes)
            );
        }
        let slowest_ms = self.done.iter().map(|done| done.elapsed_ms).max().unwrap_or(0);
        let time = duration_ms(self.summary.as_ref().map_or(slowest_ms, |summary| summary.elapsed_ms));
        let sent = if sent_bytes == 0 { "nothing".to_owned() } else { size(sent_bytes) };
        let hosts: BTreeSet<&str> = self.done.iter().map(|done| done.host.as_str()).collect();
        let hosts = if self.one_host { String::new() } else { format!(" to {}", count(hosts.len() as u64, "host")) };
        let present = if present_bytes == 0 { String::new() } else { format!(", {} were already {place}", size(present_bytes)) };
        let mut line = format!("{} {sent}{hosts} in {time}{present}", self.verb());
        if let Some(summary) = self.summary.as_ref().filter(|summary| summary.egress_bytes < sent_bytes) {
            line += &format!("; {} left this host", size(summary.egress_bytes));
        }
        line
    }

    fn verb(&self) -> &'static str {
        if self.is_pull() { "fetched" } else { "sent" }
    }
}
