//! What the agent knows of an earlier command: enough to report it as that command would.

use std::collections::BTreeSet;

use proto::control::{Event, Request, Status, TransferRow};

use crate::context::Context;
use crate::error::Error;
use crate::report::{Direction, Origin, Report};

/// What the agent knows of transfers.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Every transfer, running or recent, of one job or of all.
    pub(super) rows: Vec<TransferRow>,
    /// Blobs that transfers have not finished, and their bytes.
    pub(super) unfinished: Option<(u64, u64)>,
}

/// Asks the agent for the transfers of this job, or for all.
pub(super) fn known(context: &Context, id: Option<u64>) -> Result<Known, Error> {
    let mut known = Known::default();
    context.each(&Request::Status(Status { id, watch: false }), |event| match event {
        Event::Transfer(row) => known.rows.push(row),
        Event::Unfinished { blobs, bytes } => known.unfinished = Some((blobs, bytes)),
        _ => {}
    })?;
    Ok(known)
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
