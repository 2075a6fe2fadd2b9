//! Where the log goes: to the journal under systemd, with all fields; else to standard error. Text is escaped here, whoever logs it.

mod escaping;

use std::io::IsTerminal;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use escaping::Escaping;

/// Sets up the log of this process. `level` is a level, or a filter (`info,agent::net=debug`). Noise of libraries stays out unless it is asked for.
pub(crate) fn init(level: &str) -> Result<(), ParseError> {
    let filter = filter(level)?;
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let layer = match journal {
        Some(journal) => Escaping(journal).boxed(),
        None => text(std::io::stderr, std::io::stderr().is_terminal()).boxed(),
    };
    // A second agent in the same process (tests) keeps the first one's log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}

/// The filter for a level. Lines of the audit pass at every level: who may set the level does not choose what is held against anybody.
fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    let quiet =
        if level.contains('=') { level.to_owned() } else { format!("{level},quinn=warn,quinn_proto=warn,rustls=warn,mdns_sd=error") };
    Ok(EnvFilter::builder().parse(quiet)?.add_directive("audit=info".parse()?))
}

/// Lines of text.
fn text<S, W>(writer: W, is_terminal: bool) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    Escaping(fmt::layer().with_writer(writer).with_ansi(is_terminal).with_target(false))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::{error, info, info_span, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is written at a level.
    fn logged(level: &str, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = text(move || writer.clone(), false).with_filter(filter(level).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_text_from_elsewhere_forges_no_line() {
        let evil = "no room\nINFO joined name=\"evil\"\x1b[2J\u{202e}";
        let written = logged("info", || {
            let span = info_span!("peer", name = %evil, later = tracing::field::Empty);
            let _entered = span.enter();
            span.record("later", tracing::field::display(evil));
            error!(error = %evil, bytes = 7, "refused: {evil}");
            warn!(quoted = evil, debug = ?Some(evil), cause = &std::io::Error::other(evil) as &dyn std::error::Error);
        });
        assert_eq!(written.lines().count(), 2, "{written}");
        assert!(written.bytes().all(|byte| byte == b'\n' || byte >= b' '), "{written:?}");
        assert!(!written.contains('\u{202e}'), "{written:?}");
        let first = written.lines().next().unwrap();
        assert!(first.contains("ERROR peer{name=no room\\u{a}INFO joined"), "{first}");
        assert!(first.contains("refused: no room\\u{a}INFO joined name=\"evil\"\\u{1b}[2J\\u{202e}"), "{first}");
        assert!(first.ends_with("bytes=7"), "{first}");
    }

    #[test]
    fn the_audit_passes_at_every_level() {
        for level in ["warn", "error", "off", "off,audit=off", "agent=warn"] {
            let written = logged(level, || {
                info!(target: "audit", who = "stapp02", "joined");
                info!("noise");
            });
            assert_eq!(written.lines().count(), 1, "{level}: {written}");
            assert!(written.contains("joined who=\"stapp02\""), "{level}: {written}");
        }
    }
}
