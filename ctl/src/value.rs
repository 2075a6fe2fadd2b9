//! Values on the command line that have units.

/// Bytes a second: `50MB`, `50MB/s`, `1.5GiB/s`, `400Mbit/s`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    const FORMS: &str = "write it like 50MB/s, 50MiB/s or 400Mbit/s";
    let bare = text.strip_suffix("/s").unwrap_or(text);
    let (number, unit) = split(bare).ok_or(FORMS)?;
    let unit_bytes = match unit.to_ascii_lowercase().as_str() {
        "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "kbit" => 1e3 / 8.0,
        "mbit" => 1e6 / 8.0,
        "gbit" => 1e9 / 8.0,
        "" => return Err(format!("{text} of what? {FORMS}")),
        _ => return Err(format!("the unit {unit:?} is not known; {FORMS}")),
    };
    let bytes_per_s = (number * unit_bytes).round();
    if !(1.0..1e15).contains(&bytes_per_s) {
        return Err("a limit is between 1B/s and 1000000GB/s".to_owned());
    }
    Ok(bytes_per_s as u64)
}

/// Seconds: `24h`, `30m`, `7d`, `1h30m`.
pub(crate) fn duration_s(text: &str) -> Result<u64, String> {
    const FORMS: &str = "write it like 24h, 30m, 7d or 1h30m";
    let mut rest = text.trim();
    let mut total_s: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| format!("{text} of what? {FORMS}"))?;
        let number: u64 = rest[..end].parse().map_err(|_| FORMS)?;
        let unit = rest[end..].chars().next().ok_or(FORMS)?;
        let unit_s = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(format!("the unit {unit:?} is not known; {FORMS}")),
        };
        total_s = number.checked_mul(unit_s).and_then(|s| total_s.checked_add(s)).ok_or("that is too long")?;
        rest = &rest[end + unit.len_utf8()..];
    }
    if total_s == 0 { Err(FORMS.to_owned()) } else { Ok(total_s) }
}

/// The number and what stands behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, bytes) in [
            ("50MB/s", 50_000_000),
            ("50MB", 50_000_000),
            ("50 MB/s", 50_000_000),
            ("50MiB/s", 52_428_800),
            ("400Mbit/s", 50_000_000),
            ("1.5GB/s", 1_500_000_000),
            ("10b", 10),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for (text, part) in [
            ("50", "of what?"),
            ("fast", "write it like"),
            ("50Mx/s", "\"Mx\" is not known"),
            ("0MB", "between"),
            ("", "write it"),
            ("-5MB", "write it"),
        ] {
            assert!(rate(text).is_err_and(|error| error.contains(part)), "{text}: {:?}", rate(text));
        }
    }

    #[test]
    fn durations() {
        for (text, s) in [("24h", 86_400), ("30m", 1800), ("7d", 604_800), ("1h30m", 5400), ("90s", 90), ("2w", 1_209_600)] {
            assert_eq!(duration_s(text), Ok(s), "{text}");
        }
        for text in ["", "24", "h", "0h", "3x", "99999999999999999999d", "9999999999999999999w", "1é"] {
            assert!(duration_s(text).is_err(), "{text}");
        }
    }
}
