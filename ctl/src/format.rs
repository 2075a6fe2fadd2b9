//! Numbers, times and tables as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

/// `41.0 MB`: three digits, decimal units, as Docker and disks count.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `12 ms`, `0.4 s`, `2 min 05 s`, `1 h 02 min`.
pub(crate) fn duration_ms(ms: u64) -> String {
    let s = ms / 1000;
    match ms {
        0..100 => format!("{ms} ms"),
        100..60_000 => format!("{}.{} s", s, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// `24 h`, `7 days`: for what was asked for in round numbers.
pub(crate) fn valid_s(s: u64) -> String {
    match s {
        s if s % 86_400 == 0 && s > 86_400 => format!("{} days", s / 86_400),
        s if s % 3600 == 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

/// `3 hours ago`, as `docker images` says it.
pub(crate) fn ago(unix_s: u64) -> String {
    ago_s(now_unix_s().saturating_sub(unix_s))
}

/// Seconds since 1970.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `1 layer`, `2 layers`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The first `width` characters of a line, with an ellipsis for the rest.
pub(crate) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

/// Columns with two spaces between them; the first row is the heading. No blanks at the end of a line. The last cell of a row that
/// is shorter than the heading spans the other columns.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let own = |row: &&Vec<String>, column: usize| column + 1 < row.len() || row.len() == columns;
    let cells = |column: usize| rows.iter().filter(move |row| own(row, column)).filter_map(move |row| row.get(column));
    let width = |column: usize| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A word as a shell takes it literally.
pub(crate) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn ago_s(s: u64) -> String {
    let (number, unit) = match s {
        0..2 => return "just now".to_owned(),
        2..120 => (s, "second"),
        120..7_200 => (s / 60, "minute"),
        7_200..172_800 => (s / 3600, "hour"),
        172_800..1_209_600 => (s / 86_400, "day"),
        1_209_600..5_184_000 => (s / 604_800, "week"),
        5_184_000..63_072_000 => (s / 2_592_000, "month"),
        _ => (s / 31_536_000, "year"),
    };
    format!("{} ago", count(number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (41_000_000, "41.0 MB"),
            (187_400_000, "187 MB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (9_996_000, "10.0 MB"),
            (1_234_000_000, "1.23 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations() {
        for (ms, text) in [(12, "12 ms"), (412, "0.4 s"), (12_345, "12.3 s"), (125_000, "2 min 05 s"), (3_720_000, "1 h 02 min")] {
            assert_eq!(duration_ms(ms), text);
        }
        assert_eq!((valid_s(86_400), valid_s(604_800), valid_s(90)), ("24 h".into(), "7 days".into(), "90 s".into()));
        assert_eq!((ago_s(1), ago_s(7_300), ago_s(86_400 * 3)), ("just now".into(), "2 hours ago".into(), "3 days ago".into()));
    }

    #[test]
    fn tables_are_aligned_without_blanks_at_the_end() {
        let rows = vec![vec!["NAME".into(), "TAG".into()], vec!["dé".into(), "nautilus".into()], vec!["demo".into(), String::new()]];
        assert_eq!(table(&rows), ["NAME  TAG", "dé    nautilus", "demo"]);
        let rows =
            vec![vec!["A".into(), "B".into(), "C".into()], vec!["x".into(), "it spans".into()], vec!["x".into(), "y".into(), "z".into()]];
        assert_eq!(table(&rows), ["A  B  C", "x  it spans", "x  y  z"]);
    }

    #[test]
    fn lines_are_cut() {
        assert_eq!((cut("démo", 4), cut("démos", 4), cut("démo", 0)), ("démo".into(), "dém…".into(), String::new()));
    }

    #[test]
    fn words_for_the_shell() {
        assert_eq!((shell("web-01"), shell("web[01-40]"), shell("it's")), ("web-01".into(), "'web[01-40]'".into(), "'it'\\''s'".into()));
    }
}
