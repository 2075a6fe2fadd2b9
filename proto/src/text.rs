//! Text that came from somebody else, made safe to show.

use std::fmt::Write as _;

/// `text` without control characters, escapes and direction marks: those are written as `\u{…}`.
/// A terminal, a log or an error that shows the result shows what was sent and does nothing else.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// [`escape`], cut at `limit` characters with an ellipsis.
pub fn escape_short(text: &str, limit: usize) -> String {
    let mut safe: String = text.chars().take(limit).collect();
    if safe.len() < text.len() {
        safe.push('…');
    }
    escape(&safe)
}

/// Zero-width and bidirectional marks: they change what is seen without being seen.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c), 0xad | 0x61c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_moves_the_cursor_or_hides() {
        assert_eq!(escape("demo:nautilus"), "demo:nautilus");
        assert_eq!(escape("a\x1b[2Jb\u{202e}c\n"), "a\\u{1b}[2Jb\\u{202e}c\\u{a}");
        assert_eq!(escape_short("0123456789", 4), "0123…");
    }
}
