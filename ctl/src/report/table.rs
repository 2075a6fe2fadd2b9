//! The end of a report: a row for every host, and a line for all of them.

use std::collections::BTreeSet;

use proto::control::Done;
use proto::text::escape;

use super::{Failed, Report, lines, sources};
use crate::format::{self, count, cut, duration_ms, size};
use crate::names;

/// What is left out of a table that is too wide, one after the other: that the image ID is the expected one, then two columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Narrow {
    Not,
    Identity,
    Layers,
    Present,
}

impl Report {
    /// A row for every image on every host, by name of the host; as wide as `columns`, if it can be.
    pub(super) fn table(&self, columns: Option<usize>) -> Vec<String> {
        let width = columns.unwrap_or(usize::MAX);
        for narrow in [Narrow::Not, Narrow::Identity, Narrow::Layers] {
            let (rows, lines) = self.lines(narrow);
            let fits = |(row, line): (&Vec<String>, &String)| row.len() < rows[0].len() || line.chars().count() <= width;
            if rows.iter().zip(&lines).all(fits) {
                return shorten(&rows, lines, width);
            }
        }
        let (rows, lines) = self.lines(Narrow::Present);
        shorten(&rows, lines, width)
    }

    /// `sent 41.0 MB to 3 hosts in 0.9 s, 146 MB were already there; 41.0 MB left this host`
    pub(super) fn total(&self) -> String {
        let dry_run = self.done.iter().all(|done| done.dry_run);
        let bytes = |done: &Done| if dry_run { self.forecast_bytes(done) } else { (done.sent_bytes, done.present_bytes) };
        let (sent_bytes, present_bytes) = self.done.iter().map(bytes).fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let place = if self.is_pull() { "here" } else { "there" };
        let egress_bytes = self.summary.as_ref().map(|summary| summary.egress_bytes).filter(|&egress_bytes| egress_bytes < sent_bytes);
        let origin = self.origin.place();
        if dry_run {
            let egress = egress_bytes.map(|bytes| format!("; {} would leave {origin}", size(bytes))).unwrap_or_default();
            let (sent, present) = (size(sent_bytes), size(present_bytes));
            return format!("dry run: nothing was {}; {sent} would be, {present} are {place} already{egress}", self.verb());
        }
        let slowest_ms = self.done.iter().map(|done| done.elapsed_ms).max().unwrap_or(0);
        let time = duration_ms(self.summary.as_ref().map_or(slowest_ms, |summary| summary.elapsed_ms));
        let sent = if sent_bytes == 0 { "nothing".to_owned() } else { size(sent_bytes) };
        let hosts: BTreeSet<&str> = self.done.iter().map(|done| done.host.as_str()).collect();
        let hosts = if self.one_host { String::new() } else { format!(" to {}", count(hosts.len() as u64, "host")) };
        let present = if present_bytes == 0 { String::new() } else { format!(", {} were already {place}", size(present_bytes)) };
        let egress = egress_bytes.map(|bytes| format!("; {} left {origin}", size(bytes))).unwrap_or_default();
        format!("{} {sent}{hosts} in {time}{present}{egress}", self.verb())
    }

    fn lines(&self, narrow: Narrow) -> (Vec<Vec<String>>, Vec<String>) {
        let mut rows: Vec<Vec<String>> = self.done.iter().map(|done| self.done_row(done, narrow)).collect();
        rows.extend(self.failures.iter().map(|failed| self.failed_row(failed)));
        rows.sort_by(|one, other| names::compare(&one[0], &other[0]).then_with(|| one.cmp(other)));
        rows.insert(0, self.heading(narrow));
        let lines = format::table(&rows);
        (rows, lines)
    }

    fn heading(&self, narrow: Narrow) -> Vec<String> {
        let sent = if self.done.iter().any(|done| done.dry_run) { "TO SEND" } else { "SENT" };
        let mut words = vec!["HOST", "IMAGE", sent];
        words.extend((narrow < Narrow::Layers).then_some("LAYERS"));
        words.extend((narrow < Narrow::Present).then_some("ALREADY THERE"));
        words.push("TIME");
        words.extend(self.has_sources().then_some("FROM"));
        words.push("RESULT");
        words.into_iter().map(str::to_owned).collect()
    }

    fn done_row(&self, done: &Done, narrow: Narrow) -> Vec<String> {
        let (sent_bytes, present_bytes) = if done.dry_run { self.forecast_bytes(done) } else { (done.sent_bytes, done.present_bytes) };
        let sent = if done.dry_run { format!("{sent_bytes} B") } else { size(sent_bytes) };
        let mut row = vec![escape(&done.host), escape(&done.image), sent];
        row.extend((narrow < Narrow::Layers).then(|| format!("{} of {}", done.layers_sent, done.layers_total)));
        row.extend((narrow < Narrow::Present).then(|| size(present_bytes)));
        row.push(duration_ms(done.elapsed_ms));
        row.extend(self.has_sources().then(|| sources::column(&done.sources)));
        row.push(match narrow {
            _ if done.dry_run => "dry run".to_owned(),
            Narrow::Not => lines::identity(self.direction, &self.origin, done),
            _ => lines::short_identity(self.direction, &self.origin, done),
        });
        row
    }

    /// Nothing is known but why, which takes the place of all other columns.
    fn failed_row(&self, failed: &Failed) -> Vec<String> {
        let why = match &failed.skipped_for {
            Some(host) if self.fleet().has_begun(&failed.host) => format!("stopped, because {} failed", escape(host)),
            Some(host) => format!("not begun, because {} failed", escape(host)),
            None => {
                let cause = failed.error.causes.last().map_or("", String::as_str);
                format!("failed (exit code {}): {cause}", failed.error.exit.code())
            }
        };
        vec![escape(&failed.host), escape(&failed.image), why]
    }

    fn has_sources(&self) -> bool {
        self.done.iter().any(|done| !done.sources.is_empty())
    }
}

/// Reasons are cut at the end of the line. What is known of an image is not: it can be copied.
fn shorten(rows: &[Vec<String>], lines: Vec<String>, width: usize) -> Vec<String> {
    let shorten = |(row, line): (&Vec<String>, String)| if row.len() < rows[0].len() { cut(&line, width) } else { line };
    rows.iter().zip(lines).map(shorten).collect()
}
