//! A send to many hosts as it goes: the lines of a terminal of a given size, at a given time. Whoever draws them decides nothing.

use proto::text::{escape, escape_short};

use super::fleet::{Bytes, Counts, Fleet};
use super::host::{Host, State};
use super::sources;
use crate::format::{self, cut, size};
use crate::names;
use crate::terminal::Size;

/// Longer names of hosts are cut.
const NAME: usize = 24;

/// The bar of a host, and the one of all hosts.
const BAR: std::ops::RangeInclusive<usize> = 8..=28;

/// The longest rate: `12.3 MB/s`.
const RATE: usize = 9;

/// Room for the words about sources, before the bar takes it.
const SOURCES: usize = 26;

/// The lines to draw: one less than the terminal has, so that it never scrolls, and none wider than it. What matters comes first and
/// in an order that stays: hosts that wait for their connection, then those that receive, then those that will; each by name. Those
/// that are done or have failed are only counted.
pub(crate) fn lines(fleet: &Fleet, terminal: Size, now_ms: u64) -> Vec<String> {
    let most = terminal.rows.saturating_sub(1).max(1);
    let mut lines = vec![headline(fleet, terminal.columns, now_ms), format!("  {}", counts(&fleet.counts()))];
    if fleet.hosts().next().is_none() {
        lines.clear();
    }
    let hosts = unfinished(fleet);
    let name = fleet.hosts().map(|(name, _)| escape_short(name, NAME).chars().count()).max().unwrap_or(0).min(NAME + 1);
    let room = most.saturating_sub(lines.len());
    let shown = if hosts.len() > room { room.saturating_sub(1) } else { hosts.len() };
    lines.extend(hosts.iter().take(shown).map(|(label, host)| self::host(label, name, host, terminal.columns, now_ms)));
    if shown < hosts.len() {
        lines.push(format!("  … and {} more", hosts.len() - shown));
    }
    lines.truncate(most);
    lines.into_iter().map(|line| cut(&line, terminal.columns)).collect()
}

/// Hosts by state: `12 done · 26 receiving · 1 waiting · 1 failed`.
pub(super) fn counts(counts: &Counts) -> String {
    let all = [
        (counts.done, "done"),
        (counts.receiving, "receiving"),
        (counts.starting, "starting"),
        (counts.queued, "queued"),
        (counts.waiting, "waiting"),
        (counts.failed, "failed"),
    ];
    let words: Vec<String> = all.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")).collect();
    words.join(" · ")
}

/// The hosts that are not finished, those that matter first.
fn unfinished(fleet: &Fleet) -> Vec<(&str, &Host)> {
    let rank = |host: &Host| match host.state() {
        State::Waiting => Some(0),
        // Together, so that a host stays where it is when its first byte comes.
        State::Receiving | State::Starting => Some(1),
        State::Queued => Some(2),
        State::Failed | State::Done => None,
    };
    let mut hosts: Vec<(u8, &str, &Host)> = fleet.hosts().filter_map(|(name, host)| Some((rank(host)?, name, host))).collect();
    hosts.sort_by(|one, other| one.0.cmp(&other.0).then_with(|| names::compare(one.1, other.1)));
    hosts.into_iter().map(|(_, name, host)| (name, host)).collect()
}

/// `demo:nautilus → 40 hosts  ━━━━━━━╸──────  480 MB / 1.60 GB  110 MB/s  9 s left`
fn headline(fleet: &Fleet, columns: usize, now_ms: u64) -> String {
    let bytes = fleet.bytes();
    let mut facts = vec![format!("{} / {}", size(bytes.received), total(&bytes))];
    facts.extend(fleet.bytes_per_s(now_ms).map(|rate| format!("{}/s", size(rate))));
    facts.extend(fleet.left_ms(now_ms).and_then(left));
    let hosts = format!(" → {}", format::count(fleet.hosts().count() as u64, "host"));
    let fixed = |facts: &[String]| hosts.chars().count() + 2 + 2 + facts.join("  ").chars().count();
    // Where there is little room, the bytes and the time say most.
    if facts.len() > 2 && fixed(&facts) + BAR.start() * 2 > columns {
        facts.remove(1);
    }
    let fixed = fixed(&facts);
    // The name gives way to the facts, and the bar to the name.
    let image = cut(&fleet.images(), columns.saturating_sub(fixed + BAR.start()).max(*BAR.start()));
    let bar = bar(width(columns, fixed + image.chars().count()), bytes.received, bytes.total);
    format!("{image}{hosts}  {bar}  {}", facts.join("  "))
}

/// `  web07  ━━━━╸───   62 %  11.2 MB/s  from web06`
fn host(label: &str, name: usize, host: &Host, columns: usize, now_ms: u64) -> String {
    let start = format!("  {:<name$}", escape_short(label, NAME));
    match host.state() {
        State::Waiting => match host.waiting() {
            Some(reason) => format!("{start}  waiting for its connection ({})", escape(reason)),
            None => format!("{start}  waiting for its connection"),
        },
        State::Queued => format!("{start}  queued"),
        State::Starting => format!("{start}  {}", host.hashing().unwrap_or_else(|| "starting".to_owned())),
        State::Receiving => {
            let (received_bytes, total_bytes) = host.bytes();
            let percent = u128::from(received_bytes) * 100 / u128::from(total_bytes.max(1));
            let bar = bar(width(columns, start.chars().count() + 2 + 7 + 2 + RATE + 2 + SOURCES), received_bytes, total_bytes);
            let rate = host.bytes_per_s(now_ms).map(|rate| format!("{}/s", size(rate))).unwrap_or_default();
            let sources = sources::shares(&host.sources());
            let from = if sources.is_empty() { String::new() } else { format!("  from {sources}") };
            format!("{start}  {bar}  {percent:>3} %  {rate:>RATE$}{from}").trim_end().to_owned()
        }
        State::Failed | State::Done => start,
    }
}

/// `1.60 GB`, or `~1.60 GB` while some hosts have not said what they lack.
pub(super) fn total(bytes: &Bytes) -> String {
    let nearly = if bytes.is_estimate { "~" } else { "" };
    format!("{nearly}{}", size(bytes.total))
}

/// `9 s left`; nothing when it is hardly worth a word.
pub(super) fn left(left_ms: u64) -> Option<String> {
    match left_ms {
        0..1000 => None,
        1000..60_000 => Some(format!("{} s left", left_ms / 1000)),
        _ => Some(format!("{} left", format::duration_ms(left_ms))),
    }
}

/// What is left for a bar.
fn width(columns: usize, taken: usize) -> usize {
    columns.saturating_sub(taken).clamp(*BAR.start(), *BAR.end())
}

fn bar(width: usize, part: u64, whole: u64) -> String {
    let full = (u128::from(part.min(whole)) * width as u128 / u128::from(whole.max(1))) as usize;
    let head = usize::from(full < width && part > 0);
    format!("{}{}{}", "━".repeat(full), "╸".repeat(head), "─".repeat(width - full - head))
}

#[cfg(test)]
mod tests {
    use proto::control::Event;

    use super::super::samples::{done, drawn, failed, fleet, planned, progress, queued, waiting};
    use super::*;

    const TERMINAL: Size = Size { rows: 24, columns: 80 };

    fn width(line: &str) -> usize {
        line.chars().count()
    }

    /// Names that stand at the beginning of the lines of hosts.
    fn shown(lines: &[String]) -> Vec<&str> {
        lines.iter().skip(2).filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "…").collect()
    }

    #[test]
    fn a_small_fleet() {
        let mut fleet = fleet(&["web09", "web08", "web07", "web10", "web11", "web12", "web13"].map(queued));
        let at_once = [
            planned("web07", 40),
            planned("web08", 40),
            planned("web09", 40),
            planned("web11", 40),
            done("web11"),
            failed("web12"),
            progress("web07", 0),
        ];
        at_once.iter().for_each(|event| fleet.event(0, event));
        for second in 1..=2 {
            fleet.event(second * 1000, &progress("web07", second * 10));
        }
        let at_last =
            [progress("web08", 10), drawn("web07", &[("web06", 88), ("stapp01", 12)]), drawn("web08", &[("web06", 1)]), waiting("web13")];
        at_last.iter().for_each(|event| fleet.event(2000, event));
        let expected = [
            "demo:1 → 7 hosts  ━━━━━━╸──────────────  70.0 MB / ~240 MB  15.0 MB/s  11 s left",
            "  1 done · 2 receiving · 1 starting · 1 queued · 1 waiting · 1 failed",
            "  web13  waiting for its connection (timed out)",
            "  web07  ━━━━━━━━━━━━╸────────────   50 %  10.0 MB/s  from web06, stapp01 12 %",
            "  web08  ━━━━━━╸──────────────────   25 %             from web06",
            "  web09  starting",
            "  web10  queued",
        ];
        assert_eq!(lines(&fleet, TERMINAL, 2000), expected);
    }

    #[test]
    fn five_hundred_hosts_fit() {
        let name = |number: u64| format!("web{number:03}");
        let mut fleet = fleet(&(0..500).map(|number| queued(&name(number))).collect::<Vec<_>>());
        (0..400).for_each(|number| fleet.event(0, &planned(&name(number), 40)));
        let mut orders = vec![];
        for step in 0..40 {
            // Now the one is ahead, now the other.
            (0..400).for_each(|number| fleet.event(step * 100, &progress(&name(number), 1 + (step * (1 + (number * 7 + step) % 5)) / 5)));
            let sources = [("a-source-with-a-long-name", 9), ("another-long-name", 5)];
            (0..400).for_each(|number| fleet.event(step * 100, &drawn(&name(number), &sources)));
            let lines = lines(&fleet, TERMINAL, step * 100);
            assert_eq!(lines.len(), 23);
            assert!(lines.iter().all(|line| width(line) <= 80), "{lines:#?}");
            orders.push(shown(&lines).into_iter().map(str::to_owned).collect::<Vec<_>>());
        }
        assert!(orders.iter().all(|order| *order == orders[0]), "the order changes");
        assert_eq!(orders[0], (0..20).map(name).collect::<Vec<_>>());
        let at_last = [waiting("web499"), done("web000"), done("web002"), failed("web003")];
        at_last.iter().for_each(|event| fleet.event(5000, event));
        let lines = lines(&fleet, TERMINAL, 5000);
        assert_eq!(lines[1], "  2 done · 397 receiving · 99 queued · 1 waiting · 1 failed");
        assert_eq!(shown(&lines)[..4], ["web499", "web001", "web004", "web005"]);
        // 500 hosts, three of them finished, 20 shown.
        assert_eq!((lines.len(), lines[22].as_str()), (23, "  … and 477 more"));
    }

    #[test]
    fn every_terminal_is_large_enough() {
        let long = "a-host-with-a-very-long-name-that-nobody-wants-to-type-twice-x";
        let mut events: Vec<Event> = vec![planned(long, 40), progress(long, 7), drawn(long, &[("b", 3), (long, 4)]), waiting("c\u{1b}[2J")];
        events.extend((0..30).map(|number| planned(&format!("d{number}"), 1)));
        let fleet = fleet(&events);
        for rows in 0..40 {
            for columns in [1, 10, 39, 80, 200] {
                let lines = lines(&fleet, Size { rows, columns }, 0);
                assert!(!lines.is_empty() && lines.len() <= rows.saturating_sub(1).max(1), "{rows}: {lines:#?}");
                assert!(lines.iter().all(|line| width(line) <= columns && !line.contains('\u{1b}')), "{columns}: {lines:#?}");
            }
        }
        assert_eq!(lines(&fleet, Size { rows: 35, columns: 80 }, 0).len(), 34);
    }

    #[test]
    fn numbers_count_and_nothing_is_nothing() {
        let fleet = fleet(&[planned("web10", 1), planned("web9", 1)]);
        assert_eq!(shown(&lines(&fleet, TERMINAL, 0)), ["web9", "web10"]);
        assert!(lines(&Fleet::default(), TERMINAL, 0).is_empty());
    }

    #[test]
    fn bars() {
        assert_eq!((bar(4, 0, 9).as_str(), bar(4, 5, 9).as_str(), bar(4, 9, 9).as_str()), ("────", "━━╸─", "━━━━"));
        assert_eq!(bar(4, 0, 0), "────");
    }
}
