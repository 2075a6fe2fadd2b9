//! The only place that prints. Results go to stdout, failures to stderr; a reader that has gone away is no failure.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use proto::text::escape;
use serde_json::{Value, json};

use crate::error::Error;
use crate::exit::Exit;
use crate::format;
use crate::terminal;

/// For whom is printed, and how.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    terminal: bool,
    colour: bool,
    /// Nobody reads stdout any more, or the disk behind it is full.
    gone: AtomicBool,
    broken: AtomicBool,
}

impl Output {
    /// What the user asked for, and what stdout and stderr are.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let real = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal() && real;
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, quiet, terminal, colour, gone: AtomicBool::new(false), broken: AtomicBool::new(false) }
    }

    /// One JSON object per line is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Only failures are wanted, and what a script cannot do without.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Bars can be drawn, and somebody looks at them.
    pub(crate) fn has_bars(&self) -> bool {
        self.terminal && !self.json && !self.quiet
    }

    /// A line for people.
    pub(crate) fn line(&self, line: &str) {
        if !self.quiet {
            self.answer(line);
        }
    }

    /// What was asked for: printed even when only that is wanted.
    pub(crate) fn answer(&self, line: &str) {
        if !self.json {
            self.write(&self.paint(line));
        }
    }

    /// Rows under a heading, for people. Only the heading and nothing below it is not worth a line.
    pub(crate) fn table(&self, rows: &[Vec<String>]) {
        if rows.len() > 1 {
            format::table(rows).iter().for_each(|line| self.line(line));
        }
    }

    /// An object for programs.
    pub(crate) fn object(&self, object: &Value) {
        if self.json {
            self.write(&visible(&one_line(object)));
        }
    }

    /// JSON for people, over several lines.
    pub(crate) fn pretty(&self, value: &Value) {
        self.answer(&visible(&serde_json::to_string_pretty(value).unwrap_or_default()));
    }

    /// A failure, to whoever is there.
    #[allow(clippy::print_stderr, reason = "the place where failures are printed")]
    pub(crate) fn failure(&self, error: &Error) {
        if self.json {
            return self.object(&failed(error));
        }
        let name = if self.colour { "\x1b[31mimgctl\x1b[0m" } else { "imgctl" };
        let hint = error.hint.as_ref().map(|hint| format!("\n\nhint: {hint}")).unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "{name}: {error}{hint}");
    }

    /// A text that is neither for people nor JSON: a script, a manual page.
    pub(crate) fn text(&self, text: &[u8]) {
        self.write_all(text);
    }

    /// Stdout for bytes that are no text.
    pub(crate) fn raw(&self) -> std::io::Stdout {
        std::io::stdout()
    }

    /// A terminal would be ruined by bytes.
    pub(crate) fn stdout_is_terminal(&self) -> bool {
        std::io::stdout().is_terminal()
    }

    /// Characters of a line, where somebody looks at it; nothing where a program reads.
    pub(crate) fn columns(&self) -> Option<usize> {
        self.stdout_is_terminal().then(|| terminal::size(std::io::stdout()).columns)
    }

    /// True when something could not be written for another reason than that nobody reads it.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn write(&self, line: &str) {
        self.write_all(format!("{line}\n").as_bytes());
    }

    fn write_all(&self, bytes: &[u8]) {
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        let mut stdout = std::io::stdout().lock();
        if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            self.gone.store(true, Ordering::Relaxed);
            self.broken.store(error.kind() != ErrorKind::BrokenPipe, Ordering::Relaxed);
        }
    }

    /// Colours repeat what a sign says, and are never all that says it.
    fn paint(&self, line: &str) -> String {
        let colour = match line.chars().next() {
            Some('✔') => "32",
            Some('✘') => "31",
            _ => return line.to_owned(),
        };
        if !self.colour {
            return line.to_owned();
        }
        let sign = &line[..'✔'.len_utf8()];
        format!("\x1b[{colour}m{sign}\x1b[0m{}", &line[sign.len()..])
    }
}

/// The object for a request that failed as a whole.
pub(crate) fn failed(error: &Error) -> Value {
    json!({"event": "failed", "exit_code": error.exit.code(), "error": error.to_string(), "hint": error.hint})
}

/// Prints what the parser of the command line has to say: help, the version, or what is wrong.
pub(crate) fn parsed(error: &clap::Error) -> Exit {
    let _ = error.print();
    if error.exit_code() == 0 { Exit::Done } else { Exit::Usage }
}

/// What kind of object it is comes first, for people who read along.
fn one_line(object: &Value) -> String {
    let mut rest = object.clone();
    match rest.as_object_mut().and_then(|fields| fields.remove("event")) {
        Some(event) => format!("{{\"event\":{event},{}", &rest.to_string()[1..]),
        None => rest.to_string(),
    }
}

/// Valid JSON stays valid, and shows nothing that a terminal would obey: what `escape` changes is written as `\uXXXX`.
fn visible(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut buffer = [0; 2];
    for c in text.chars() {
        if c == '\n' || escape(c.encode_utf8(&mut [0; 4])).len() == c.len_utf8() {
            safe.push(c);
        } else {
            c.encode_utf16(&mut buffer).iter().for_each(|unit| safe.push_str(&format!("\\u{unit:04x}")));
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cannot_move_the_cursor_and_stays_the_same_value() {
        let value = json!({"a": "x\u{202e}\u{9b}2J\u{1b}[m\u{e0001}é"});
        let text = visible(&value.to_string());
        assert!(!text.contains(['\u{202e}', '\u{9b}', '\u{1b}', '\u{e0001}']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(value));
    }

    #[test]
    fn objects_begin_with_their_event() {
        assert_eq!(one_line(&json!({"a": 1, "event": "done"})), "{\"event\":\"done\",\"a\":1}");
        assert_eq!(one_line(&json!([1])), "[1]");
    }

    #[test]
    fn failures_as_objects() {
        let error = Error::new(Exit::Host, "a").because("b").hint("c");
        assert_eq!(failed(&error), json!({"event": "failed", "exit_code": 4, "error": "a: b", "hint": "c"}));
    }

    #[test]
    fn colour_is_only_on_the_sign() {
        let output = |colour| Output { colour, ..Output::new(false, false) };
        assert_eq!(output(true).paint("✔ stapp03"), "\x1b[32m✔\x1b[0m stapp03");
        assert_eq!(output(false).paint("✔ stapp03"), "✔ stapp03");
        assert_eq!(output(true).paint("stapp03"), "stapp03");
    }
}
