//! What there is to say about the engine, and what to do about it.

use proto::control::Verdict;
use std::io::ErrorKind;

use super::info::{EngineStoreKind, Info};
use super::{Engine, Shared};
use crate::store::{Finding, StoreError};
use proto::text::escape_short;

impl Shared {
    /// See [`crate::store::Store::examine`].
    pub(super) async fn examine(&self) -> Vec<Finding> {
        // An engine that was well a minute ago may be down.
        match self.info_now().await {
            Err(error) => vec![unreachable(self.client.engine(), &error)],
            Ok(info) if info.store == EngineStoreKind::Classic => {
                let mut findings = vec![self.engine(&info), self.reading(&info).await];
                findings.extend(self.unreadable().await);
                findings
            }
            Ok(info) => vec![self.engine(&info)],
        }
    }

    /// Images that the engine has, and cannot show.
    async fn unreadable(&self) -> Vec<Finding> {
        let name = self.client.engine().name();
        let command = self.client.engine().kind();
        let finding = |text: String, remedy: String| Finding { verdict: Verdict::Wrong, text, remedy: Some(remedy) };
        match self.inventory().await {
            Ok(inventory) => {
                let unreadable = inventory.rows.iter().filter_map(|row| Some((row.id.short(), row.details.unreadable.as_ref()?)));
                unreadable
                    .map(|(id, reason)| {
                        let text = format!("{name} cannot show image {id}: {}", escape_short(reason, 300));
                        finding(text, format!("it is of no use to imgd; {command} rmi -f {id} removes it"))
                    })
                    .collect()
            }
            // One image is enough for that; the engine says which.
            Err(error @ StoreError::Engine { .. }) => {
                vec![finding(
                    error.to_string(),
                    format!("if it names an image: {command} rmi -f with the ID of that one; else look at the log of the engine"),
                )]
            }
            Err(error) => vec![unreachable(self.client.engine(), &error)],
        }
    }

    /// Which engine it is, or why it does not answer.
    pub(super) async fn examine_engine(&self) -> Finding {
        match self.info_now().await {
            Err(error) => unreachable(self.client.engine(), &error),
            Ok(info) => self.engine(&info),
        }
    }

    fn engine(&self, info: &Info) -> Finding {
        let rights = if info.is_rootless { ", rootless" } else { "" };
        let text = format!("{} {}{rights} with {} at {}", self.client.engine().name(), info.version, info.driver, self.client.address());
        Finding { verdict: Verdict::Ok, text, remedy: None }
    }

    async fn reading(&self, info: &Info) -> Finding {
        let root = info.root.display();
        let obstacle = match self.ground().await {
            Ok(ground) => crate::sys::blocking(move || ground.obstacle()).await,
            Err(error) => return unreachable(self.client.engine(), &error),
        };
        let Some(obstacle) = obstacle else {
            return Finding { verdict: Verdict::Ok, text: format!("layers are read where they lie, in {root}"), remedy: None };
        };
        let slow = "images are sent through the engine's save, which is 5 to 10 times slower and copies each image to disk first";
        let remedy = match obstacle.kind() {
            ErrorKind::PermissionDenied => Some(
                "run imgd as root, or let it read all files: AmbientCapabilities=CAP_DAC_READ_SEARCH in a drop-in (systemctl edit imgd)"
                    .to_owned(),
            ),
            ErrorKind::NotFound => Some(format!("give imgd a view of {root}: it is not in its mount namespace")),
            _ => None,
        };
        Finding { verdict: Verdict::Warning, text: format!("layers cannot be read in {root} ({obstacle}): {slow}"), remedy }
    }
}

fn unreachable(engine: Engine, error: &StoreError) -> Finding {
    let start = match engine {
        Engine::Docker => "systemctl start docker",
        Engine::Podman => "systemctl enable --now podman.socket",
    };
    let (reason, remedy) = match error {
        StoreError::Unreachable { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            let remedy = match engine {
                Engine::Docker => "add the user of imgd to the group docker, or run imgd as root",
                Engine::Podman => "run imgd as root, or as the user whose Podman it is",
            };
            (format!(": {source}"), remedy)
        }
        StoreError::Unreachable { source, .. } => (format!(": {source}"), start),
        StoreError::Silent { .. } => (String::new(), "look at its log (journalctl -u docker -u podman), and restart it if it hangs"),
        _ => (String::new(), start),
    };
    Finding { verdict: Verdict::Wrong, text: format!("{error}{reason}"), remedy: Some(remedy.to_owned()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_remedy() {
        let finding = |engine, kind: ErrorKind| {
            let error = StoreError::Unreachable { engine: "x", address: "unix:///x".to_owned(), source: kind.into() };
            unreachable(engine, &error).remedy.unwrap()
        };
        assert!(finding(Engine::Docker, ErrorKind::PermissionDenied).contains("group docker"));
        assert!(finding(Engine::Podman, ErrorKind::PermissionDenied).contains("root"));
        assert!(finding(Engine::Docker, ErrorKind::NotFound).contains("systemctl start docker"));
        assert!(finding(Engine::Podman, ErrorKind::ConnectionRefused).contains("podman.socket"));
    }
}
