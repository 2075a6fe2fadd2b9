//! `imgctl scrub`: every blob is hashed again.

use proto::control::Event;
use tokio::sync::mpsc;

use super::Done;
use super::client::Client;
use super::failure;
use crate::store::Store;
use crate::transfer::Context;

/// Scrubs, and reports what was put aside.
pub(super) async fn scrub<S: Store>(context: &Context<S>, client: &Client) -> Done {
    let (report, mut findings) = mpsc::channel(16);
    let scrubbing = context.store.scrub(None, report);
    let reporting = async {
        let (mut blobs, mut bytes, mut damaged) = (0, 0, 0);
        while let Some(finding) = findings.recv().await {
            blobs += 1;
            bytes += finding.size_bytes;
            if !finding.intact {
                damaged += 1;
                client.event(Event::Damaged(finding.digest)).await;
            }
        }
        Event::Scrubbed { blobs, bytes, damaged }
    };
    let (scrubbed, summary) = tokio::join!(scrubbing, reporting);
    scrubbed.map_err(|error| failure::store("cannot scrub the store", &error))?;
    client.event(summary).await;
    Ok(())
}
