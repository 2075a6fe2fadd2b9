//! What the agent knows of an earlier command: enough to report it as that command would.

use std::collections::BTreeSet;

use proto::control::{Event, Request, Status, TransferRow};

use crate::context::Context;
use crate::error::Error;
use crate::report::{Direction, Origin, Report};

/// Every transfer, running or recent, of this job or of all.
pub(super) fn rows(context: &Context, id: Option<u64>) -> Result<Vec<TransferRow>, Error> {
    let mut rows = vec![];
    context.each(&Request::Status(Status { id, watch: false }), |event| {
        if let Event::Transfer(row) = event {
            rows.push(row);
        }
    })?;
    Ok(rows)
}

/// A report for a job with these transfers. One host has its layers shown, as `send` does it.
pub(super) fn report<'a>(rows: impl IntoIterator<Item = &'a TransferRow>) -> Report {
    let rows: Vec<&TransferRow> = rows.into_iter().collect();
    let hosts: BTreeSet<&str> = rows.iter().map(|row| row.host.as_str()).collect();
    let direction = if !rows.is_empty() && rows.iter().all(|row| row.incoming) { Direction::Pull } else { Direction::Send };
    let mut report = Report::new(direction, hosts.len() == 1);
    report.several_images = rows.len() > 1;
    report.origin = Origin::Unknown;
    report
}

#[cfg(test)]
mod tests {
    use proto::control::TransferState;

    use super::*;

    #[test]
    fn one_host_has_its_layers_shown() {
        let row = |host: &str, incoming| TransferRow {
            id: 7,
            incoming,
            image: "demo:1".to_owned(),
            host: host.to_owned(),
            state: TransferState::Running,
            done_bytes: 0,
            total_bytes: 0,
            elapsed_ms: 0,
        };
        let look = |rows: &[TransferRow]| (report(rows).shows_layers(), report(rows).is_pull(), report(rows).several_images);
        assert_eq!(look(&[]), (false, false, false));
        assert_eq!(look(&[row("a", false)]), (true, false, false));
        assert_eq!(look(&[row("a", true)]), (true, true, false));
        assert_eq!(look(&[row("a", false), row("a", false)]), (true, false, true));
        assert_eq!(look(&[row("a", false), row("b", false)]), (false, false, true));
    }
}
