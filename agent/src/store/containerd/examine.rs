//! What the engine is, and what we may do with it.

use proto::control::Verdict;
use std::path::Path;

use super::{Flavour, Shared};
use crate::store::{Finding, Room, StoreError};
use crate::sys::{blocking, file};

/// Bytes of unpacked layers for each byte that arrives, in percent: layers that are packed grow, plain ones do not.
const UNPACKED_PERCENT: u64 = 150;

impl Shared {
    /// See [`crate::store::Store::examine`].
    pub(super) async fn examine(&self) -> Vec<Finding> {
        let address = self.connection.socket().display();
        let fine = |text: String| Finding { verdict: Verdict::Ok, text, remedy: None };
        let version = match self.connection.ask(self.connection.version().version(self.connection.request(()))).await {
            Ok(answer) => answer.version,
            Err(status) => return vec![unreachable(&self.connection.failed("say its version", &status))],
        };
        let whose = match self.flavour {
            Flavour::Docker => " of Docker's image store",
            Flavour::Kubernetes => " of Kubernetes",
            Flavour::Plain => "",
        };
        let mut findings = vec![fine(format!("containerd {version} at {address}, namespace {}{whose}", self.namespace))];
        match self.facts().await {
            Err(error) => findings.push(Finding { verdict: Verdict::Wrong, text: text(&error), remedy: None }),
            Ok(facts) => {
                findings.push(fine(format!("layers are unpacked by the snapshotter {}", facts.snapshotter)));
                let root = facts.content_root.clone();
                let readable = blocking(move || root.is_some_and(|root| is_readable(&root))).await;
                findings.push(if readable {
                    fine("content is read from containerd's directory".to_owned())
                } else {
                    let remedy = "run imgd with the right to read containerd's directory".to_owned();
                    Finding {
                        verdict: Verdict::Warning,
                        text: "content is read through the socket, which is slower".to_owned(),
                        remedy: Some(remedy),
                    }
                });
            }
        }
        findings
    }

    /// See [`crate::store::Store::room`].
    pub(super) async fn room(&self) -> Result<Vec<Room>, StoreError> {
        let facts = self.facts().await?;
        let roots = [(facts.content_root.clone(), 100), (facts.snapshot_root.clone(), UNPACKED_PERCENT)];
        blocking(move || {
            let mut rooms: Vec<Room> = vec![];
            for (root, needed_percent) in roots {
                // The engine makes its directories when it needs them first. Where we may not look nothing is known.
                let Some(space) = root.and_then(|root| root.ancestors().find_map(|path| file::space(path).ok())) else { continue };
                Room { device: space.device, free_bytes: space.free_bytes, needed_percent }.add_to(&mut rooms);
            }
            Ok(rooms)
        })
        .await
    }
}

/// True for a directory that we may read; one that is not there yet counts when those above it can be searched.
fn is_readable(root: &Path) -> bool {
    match std::fs::read_dir(root) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn unreachable(error: &StoreError) -> Finding {
    let remedy = match error {
        StoreError::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "run imgd as root, or let its group use the socket"
        }
        StoreError::Unreachable { .. } => "systemctl start containerd, or name its socket in the configuration",
        _ => "look at what containerd says: journalctl -u containerd",
    };
    Finding { verdict: Verdict::Wrong, text: text(error), remedy: Some(remedy.to_owned()) }
}

fn text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
