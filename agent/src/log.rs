//! Where the log goes: to the journal under systemd, with all fields; else to standard error.

use std::io::IsTerminal;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Sets up the log of this process. `level` is a level, or a filter (`info,agent::net=debug`). Noise of libraries stays out unless it is asked for.
pub(crate) fn init(level: &str) -> Result<(), ParseError> {
    let quiet =
        if level.contains('=') { level.to_owned() } else { format!("{level},quinn=warn,quinn_proto=warn,rustls=warn,mdns_sd=error") };
    let filter = EnvFilter::builder().parse(quiet)?;
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let layer = match journal {
        Some(journal) => journal.boxed(),
        None => fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
    };
    // A second agent in the same process (tests) keeps the first one's log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}
