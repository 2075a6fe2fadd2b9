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

#[cfg(test)]
mod tests {
    use proto::Digest;
    use proto::control::{Event, Source, Summary};

    use super::super::tests::{done, failed, planned, skipped};
    use super::super::{Direction, Origin};
    use super::*;

    fn served(host: &str, by: &[&str]) -> Event {
        let sources = by.iter().map(|by| Source { host: (*by).to_owned(), received_bytes: 41 }).collect();
        Event::Done(Done { sources, ..done(host) })
    }

    fn report(events: &[Event]) -> Report {
        let mut report = Report::new(Direction::Send, false);
        events.iter().for_each(|event| drop(report.event(event, 0)));
        report
    }

    #[test]
    fn a_row_for_every_host_by_name() {
        let report = report(&[
            served("web10", &["web9", "a", "b"]),
            served("web9", &["stapp01"]),
            planned("web3"),
            skipped("web3"),
            skipped("web2"),
            failed("web1"),
        ]);
        let id = Digest::of(b"image").short();
        let expected = format!(
            "HOST   IMAGE          SENT     LAYERS  ALREADY THERE  TIME   FROM     RESULT
web1   demo:nautilus  failed (exit code 4): no answer\\u{{1b}}
web2   demo:nautilus  not begun, because web01 failed
web3   demo:nautilus  stopped, because web01 failed
web9   demo:nautilus  41.0 MB  2 of 3  146 MB         0.4 s  stapp01  sha256:{id}  same image ID as here
web10  demo:nautilus  41.0 MB  2 of 3  146 MB         0.4 s  web9 +2  sha256:{id}  same image ID as here"
        );
        assert_eq!(report.table(None).join("\n"), expected);
    }

    #[test]
    fn a_narrow_terminal_has_less_to_show() {
        let mut lines = vec![];
        let report = report(&[served("web10", &["web9", "a"]), failed("web11")]);
        for columns in [200, 100, 85, 80, 30] {
            lines.push(report.table(Some(columns)));
        }
        let heading = |at: usize| lines[at][0].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>();
        assert_eq!(heading(0), ["HOST", "IMAGE", "SENT", "LAYERS", "ALREADY THERE", "TIME", "FROM", "RESULT"]);
        assert!(lines[0][1].contains("same image ID") && !lines[1][1].contains("same image ID"));
        assert_eq!(heading(1), heading(0));
        assert_eq!(heading(2), ["HOST", "IMAGE", "SENT", "ALREADY THERE", "TIME", "FROM", "RESULT"]);
        assert_eq!(heading(3), ["HOST", "IMAGE", "SENT", "TIME", "FROM", "RESULT"]);
        for (at, columns) in [(0, 200), (1, 100), (2, 85), (3, 80)] {
            assert!(lines[at].iter().all(|line| line.chars().count() <= columns), "{:#?}", lines[at]);
        }
        // An ID is never cut, a reason is.
        assert!(lines[4][1].ends_with(&Digest::of(b"image").short()));
        assert_eq!(lines[4][2], "web11  demo:nautilus  failed …");
    }

    #[test]
    fn the_total_names_who_sent() {
        let summary = |egress_bytes| Event::Summary(Summary { total: 2, done: 2, failed: 0, egress_bytes, elapsed_ms: 900 });
        let mut report = report(&[served("a", &[]), served("b", &["a"]), summary(41_000_000)]);
        let total = "sent 82.0 MB to 2 hosts in 0.9 s, 292 MB were already there; 41.0 MB left ";
        assert_eq!(report.total(), format!("{total}this host"));
        report.origin = Origin::Host("stapp05".to_owned());
        assert_eq!(report.total(), format!("{total}stapp05"));
        report.event(&summary(82_000_000), 0);
        assert_eq!(report.total(), "sent 82.0 MB to 2 hosts in 0.9 s, 292 MB were already there");
    }

    #[test]
    fn a_dry_run_says_what_would_leave() {
        let forecast = |host: &str| Event::Done(Done { dry_run: true, sent_bytes: 0, ..done(host) });
        let summary = Event::Summary(Summary { total: 2, done: 2, failed: 0, egress_bytes: 41_000_000, elapsed_ms: 9 });
        let report = report(&[planned("a"), planned("b"), forecast("a"), forecast("b"), summary]);
        let expected = "dry run: nothing was sent; 82.0 MB would be, 292 MB are there already; 41.0 MB would leave this host";
        assert_eq!(report.total(), expected);
        assert_eq!(report.table(None)[1], "a     demo:nautilus  41000000 B  2 of 3  146 MB         0.4 s  dry run");
    }
}
