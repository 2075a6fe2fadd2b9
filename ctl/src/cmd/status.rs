//! `imgctl status`

use proto::control::{Event, Request, Status, TransferRow, TransferState};
use proto::text::escape;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::format::{duration_ms, size};

/// Shows transfers, running and recent.
pub(crate) fn run(context: &Context) -> super::Result {
    let mut rows = vec![["ID", "DIRECTION", "IMAGE", "HOST", "BYTES", "%", "TIME", "STATE"].map(str::to_owned).to_vec()];
    context.each(&Request::Status(Status::default()), |event| {
        if let Event::Transfer(transfer) = event {
            context.output.object(&object(&transfer));
            rows.push(row(&transfer));
        }
    })?;
    if rows.len() == 1 {
        context.output.line("no transfers, running or recent");
    }
    context.output.table(&rows);
    Ok(Exit::Done)
}

fn row(transfer: &TransferRow) -> Vec<String> {
    let known = transfer.total_bytes > 0;
    let percent = |done: u64, total: u64| (u128::from(done) * 100 / u128::from(total)).min(100).to_string();
    vec![
        transfer.id.to_string(),
        if transfer.incoming { "in" } else { "out" }.to_owned(),
        escape(&transfer.image),
        escape(&transfer.host),
        if known { format!("{} / {}", size(transfer.done_bytes), size(transfer.total_bytes)) } else { size(transfer.done_bytes) },
        if known { percent(transfer.done_bytes, transfer.total_bytes) } else { "-".to_owned() },
        duration_ms(transfer.elapsed_ms),
        state(&transfer.state),
    ]
}

fn state(state: &TransferState) -> String {
    match state {
        TransferState::Running => "running".to_owned(),
        TransferState::Waiting => "waiting".to_owned(),
        TransferState::Done => "done".to_owned(),
        TransferState::Failed(reason) => format!("failed: {}", escape(reason)),
        TransferState::Cancelled => "cancelled".to_owned(),
    }
}

fn object(transfer: &TransferRow) -> serde_json::Value {
    let (state, reason) = match &transfer.state {
        TransferState::Failed(reason) => ("failed".to_owned(), Some(reason)),
        other => (state(other), None),
    };
    json!({
        "event": "transfer", "id": transfer.id, "direction": if transfer.incoming { "in" } else { "out" }, "image": transfer.image,
        "host": transfer.host, "state": state, "error": reason, "bytes_done": transfer.done_bytes, "bytes_total": transfer.total_bytes,
        "elapsed_ms": transfer.elapsed_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let transfer = |state, total_bytes| TransferRow {
            id: 7,
            incoming: false,
            image: "demo:nautilus".to_owned(),
            host: "stapp03".to_owned(),
            state,
            done_bytes: 41_000_000,
            total_bytes,
            elapsed_ms: 412,
        };
        let running = row(&transfer(TransferState::Running, 82_000_000));
        assert_eq!(running, ["7", "out", "demo:nautilus", "stapp03", "41.0 MB / 82.0 MB", "50", "0.4 s", "running"]);
        let failed = transfer(TransferState::Failed("no\u{1b}".to_owned()), 0);
        assert_eq!(row(&failed)[4..], ["41.0 MB", "-", "0.4 s", "failed: no\\u{1b}"]);
        assert_eq!(object(&failed)["state"], "failed");
    }
}
