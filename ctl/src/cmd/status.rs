//! `imgctl status`

use std::collections::BTreeSet;

use proto::control::{Request, Status, TransferRow, TransferState};
use proto::text::escape;
use serde_json::json;

use super::job::Known;
use super::{job, transfer};
use crate::context::Context;
use crate::exit::Exit;
use crate::format::{count, duration_ms, size};

/// Show transfers, running and recent
///
/// A send to several hosts is one line; with its number every host has one. --watch shows a send that is under way as send itself
/// does, and ends with the same exit code; Ctrl-C ends the watching and not the send.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  imgctl status
  imgctl status 12
  imgctl status --watch 12")]
pub(crate) struct Args {
    /// Only this job; with --watch and without a number, the last send that was begun here
    #[arg(value_name = "JOB")]
    id: Option<u64>,
    /// Show how a send goes until it ends
    #[arg(long, short)]
    watch: bool,
}

/// Shows transfers, or one send until it ends.
pub(crate) fn run(context: &Context, args: &Args) -> super::Result {
    let Known { rows, unfinished } = job::known(context, args.id)?;
    if args.watch {
        return watch(context, args.id, &rows);
    }
    rows.iter().for_each(|row| context.output.object(&object(row)));
    match args.id {
        Some(id) if rows.is_empty() => context.output.line(&format!("no transfers of {id}, running or recent")),
        None if rows.is_empty() => context.output.line("no transfers, running or recent"),
        _ => {}
    }
    let mut table = vec![["ID", "DIRECTION", "IMAGE", "HOST", "BYTES", "%", "TIME", "STATE"].map(str::to_owned).to_vec()];
    let parts = if args.id.is_some() { rows.iter().map(|row| vec![row]).collect() } else { jobs(&rows) };
    table.extend(parts.iter().map(|part| line(part)));
    context.output.table(&table);
    if let Some((blobs, bytes)) = unfinished {
        context.output.object(&json!({"event": "unfinished", "blobs": blobs, "bytes": bytes}));
        let kept = format!("{} of {} that no transfer has finished are kept for a day", size(bytes), count(blobs, "layer"));
        context.output.line(&format!("{kept}; imgctl prune frees them"));
    }
    Ok(Exit::Done)
}

impl Args {
    /// What goes on when the watching is interrupted.
    pub(crate) fn goes_on(&self) -> Option<String> {
        let again = "the send goes on; imgctl status --watch";
        let what = match self.id {
            Some(id) => format!("{again} {id} shows it again, imgctl cancel {id} stops it"),
            None => format!("{again} shows it again"),
        };
        self.watch.then_some(what)
    }
}

fn watch(context: &Context, id: Option<u64>, rows: &[TransferRow]) -> super::Result {
    let last = rows.iter().filter(|row| !row.incoming).map(|row| row.id).max();
    let id = id.or(last);
    let report = job::report(rows.iter().filter(|row| Some(row.id) == id));
    transfer::run(context, &Request::Status(Status { id, watch: true }), report)
}

/// Rows of one number together, in the order of their first ones.
fn jobs(rows: &[TransferRow]) -> Vec<Vec<&TransferRow>> {
    let mut jobs: Vec<Vec<&TransferRow>> = vec![];
    for row in rows {
        match jobs.iter_mut().find(|job| job.iter().any(|other| (other.id, other.incoming) == (row.id, row.incoming))) {
            Some(job) => job.push(row),
            None => jobs.push(vec![row]),
        }
    }
    jobs
}

/// A line for one row, or for all of a job.
fn line(rows: &[&TransferRow]) -> Vec<String> {
    let sum = |bytes: fn(&TransferRow) -> u64| rows.iter().map(|row| bytes(row)).fold(0, u64::saturating_add);
    let (done_bytes, total_bytes) = (sum(|row| row.done_bytes), sum(|row| row.total_bytes));
    let known = total_bytes > 0;
    let percent = |done: u64, total: u64| (u128::from(done) * 100 / u128::from(total)).min(100).to_string();
    vec![
        rows.first().map(|row| row.id.to_string()).unwrap_or_default(),
        if rows.iter().any(|row| row.incoming) { "in" } else { "out" }.to_owned(),
        one_or_count(rows.iter().map(|row| row.image.as_str()), "image"),
        one_or_count(rows.iter().map(|row| row.host.as_str()), "host"),
        if known { format!("{} / {}", size(done_bytes), size(total_bytes)) } else { size(done_bytes) },
        if known { percent(done_bytes, total_bytes) } else { "-".to_owned() },
        duration_ms(rows.iter().map(|row| row.elapsed_ms).max().unwrap_or(0)),
        states(rows),
    ]
}

/// The name that all have, or how many there are.
fn one_or_count<'a>(names: impl Iterator<Item = &'a str>, noun: &str) -> String {
    let names: BTreeSet<&str> = names.collect();
    match names.first() {
        Some(only) if names.len() == 1 => escape(only),
        _ => count(names.len() as u64, noun),
    }
}

/// The state of the only row, or how many have which: `37 done, 2 failed, 1 running`.
fn states(rows: &[&TransferRow]) -> String {
    if let [only] = rows {
        return match &only.state {
            TransferState::Failed(reason) => format!("failed: {}", escape(reason)),
            state => word(state).to_owned(),
        };
    }
    let number = |state: &str| rows.iter().filter(|row| word(&row.state) == state).count();
    let numbers = ["done", "failed", "cancelled", "waiting", "running"].map(|state| (number(state), state));
    let words: Vec<String> = numbers.iter().filter(|(number, _)| *number > 0).map(|(number, state)| format!("{number} {state}")).collect();
    words.join(", ")
}

fn word(state: &TransferState) -> &'static str {
    match state {
        TransferState::Running => "running",
        TransferState::Waiting => "waiting",
        TransferState::Done => "done",
        TransferState::Failed(_) => "failed",
        TransferState::Cancelled => "cancelled",
    }
}

fn object(transfer: &TransferRow) -> serde_json::Value {
    let reason = match &transfer.state {
        TransferState::Failed(reason) => Some(reason),
        _ => None,
    };
    json!({
        "event": "transfer", "id": transfer.id, "direction": if transfer.incoming { "in" } else { "out" }, "image": transfer.image,
        "host": transfer.host, "state": word(&transfer.state), "error": reason, "bytes_done": transfer.done_bytes,
        "bytes_total": transfer.total_bytes, "elapsed_ms": transfer.elapsed_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(id: u64, host: &str, state: TransferState, total_bytes: u64) -> TransferRow {
        let (image, host) = ("demo:nautilus".to_owned(), host.to_owned());
        TransferRow { id, incoming: false, image, host, state, done_bytes: 41_000_000, total_bytes, elapsed_ms: 412 }
    }

    #[test]
    fn rows() {
        let running = line(&[&transfer(7, "stapp03", TransferState::Running, 82_000_000)]);
        assert_eq!(running, ["7", "out", "demo:nautilus", "stapp03", "41.0 MB / 82.0 MB", "50", "0.4 s", "running"]);
        let failed = transfer(7, "stapp03", TransferState::Failed("no\u{1b}".to_owned()), 0);
        assert_eq!(line(&[&failed])[4..], ["41.0 MB", "-", "0.4 s", "failed: no\\u{1b}"]);
        assert_eq!((object(&failed)["state"].as_str(), object(&failed)["error"].as_str()), (Some("failed"), Some("no\u{1b}")));
    }

    #[test]
    fn a_job_with_several_hosts_is_one_line() {
        let mut rows: Vec<TransferRow> = (0..37).map(|host| transfer(12, &format!("web{host}"), TransferState::Done, 41_000_000)).collect();
        rows.push(transfer(13, "db", TransferState::Done, 41_000_000));
        rows.push(transfer(12, "web38", TransferState::Failed("full".to_owned()), 82_000_000));
        rows.push(TransferRow { elapsed_ms: 12_345, ..transfer(12, "web39", TransferState::Running, 82_000_000) });
        let jobs = jobs(&rows);
        let lines: Vec<Vec<String>> = jobs.iter().map(|job| line(job)).collect();
        let expected = ["12", "out", "demo:nautilus", "39 hosts", "1.60 GB / 1.68 GB", "95", "12.3 s", "37 done, 1 failed, 1 running"]
            .map(str::to_owned);
        assert_eq!((lines.len(), &lines[0][..], lines[1][3].as_str()), (2, &expected[..], "db"));
    }

    #[test]
    fn several_images_are_counted() {
        let mut rows = [transfer(1, "a", TransferState::Cancelled, 0), transfer(1, "a", TransferState::Waiting, 0)];
        rows[1].image = "b:1".to_owned();
        assert_eq!(line(&rows.iter().collect::<Vec<_>>())[2..], ["2 images", "a", "82.0 MB", "-", "0.4 s", "1 cancelled, 1 waiting"]);
        rows[1].incoming = true;
        assert_eq!(jobs(&rows).len(), 2);
    }

    #[test]
    fn watching_is_not_sending() {
        let goes_on = |id, watch| Args { id, watch }.goes_on();
        let expected = "the send goes on; imgctl status --watch 12 shows it again, imgctl cancel 12 stops it";
        assert_eq!(goes_on(Some(12), true).as_deref(), Some(expected));
        assert!(goes_on(None, true).is_some_and(|text| text.starts_with("the send goes on") && !text.contains("cancel")));
        assert_eq!(goes_on(Some(12), false), None);
    }
}
