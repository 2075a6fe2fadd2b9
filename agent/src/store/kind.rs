//! Which store an agent has, as people write it: `--store KIND[:ADDRESS]`.

use std::fmt;
use std::path::{Path, PathBuf};

/// A store and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// Whatever engine this host has; the embedded layout where it has none.
    Auto,
    /// An OCI image layout in a directory.
    Layout(PathBuf),
    /// Docker Engine, whichever of its two stores it uses.
    Docker {
        /// Socket of its API.
        socket: PathBuf,
        /// Socket of its containerd, where it does not say; `?containerd=PATH`.
        containerd: Option<PathBuf>,
    },
    /// containerd.
    Containerd {
        /// Socket of its API.
        socket: PathBuf,
        /// `?namespace=NAME`.
        namespace: String,
    },
    /// Podman.
    Podman {
        /// Socket of its API.
        socket: PathBuf,
    },
}

/// What is written is no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown store \"{}\": known are auto, layout[:DIR], docker[:unix://SOCKET], containerd[:SOCKET][?namespace=NAME] and podman[:unix://SOCKET]", proto::text::escape(.0))]
pub struct InvalidStore(String);

/// Where Docker Engine listens unless it is told otherwise.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Where containerd listens.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// Where Podman's service listens.
pub const PODMAN_SOCKET: &str = "/run/podman/podman.sock";
/// The namespace that containerd's own tools use.
pub const CONTAINERD_NAMESPACE: &str = "default";

impl StoreKind {
    /// What somebody wrote. A layout without a directory lies in `state_dir`.
    pub fn parse(text: &str, state_dir: &Path) -> Result<Self, InvalidStore> {
        let invalid = || InvalidStore(text.to_owned());
        let (location, options) = text.split_once('?').unwrap_or((text, ""));
        let (kind, address) = location.split_once(':').map_or((location, None), |(kind, address)| (kind, Some(address)));
        let socket = |usual: &str| {
            let path = address.map_or(usual, |address| address.strip_prefix("unix://").unwrap_or(address));
            path.starts_with('/').then(|| PathBuf::from(path)).ok_or_else(invalid)
        };
        let option = |key: &str| match options.split_once('=') {
            _ if options.is_empty() => Ok(None),
            Some((name, value)) if name == key && !value.is_empty() => Ok(Some(value.to_owned())),
            _ => Err(invalid()),
        };
        match kind {
            "auto" if address.is_none() && options.is_empty() => Ok(Self::Auto),
            "layout" if options.is_empty() => match address {
                None => Ok(Self::Layout(state_dir.join("layout"))),
                Some("") => Err(invalid()),
                Some(directory) => Ok(Self::Layout(PathBuf::from(directory))),
            },
            "docker" => {
                let containerd = option("containerd")?.map(PathBuf::from);
                if containerd.as_ref().is_some_and(|path| !path.is_absolute()) {
                    return Err(invalid());
                }
                Ok(Self::Docker { socket: socket(DOCKER_SOCKET)?, containerd })
            }
            "containerd" => {
                let namespace = option("namespace")?.unwrap_or_else(|| CONTAINERD_NAMESPACE.to_owned());
                if !is_namespace(&namespace) {
                    return Err(invalid());
                }
                Ok(Self::Containerd { socket: socket(CONTAINERD_SOCKET)?, namespace })
            }
            "podman" if options.is_empty() => Ok(Self::Podman { socket: socket(PODMAN_SOCKET)? }),
            _ => Err(invalid()),
        }
    }
}

/// As containerd has them (`pkg/identifiers` of containerd).
fn is_namespace(name: &str) -> bool {
    let separator = |byte: u8| matches!(byte, b'-' | b'_' | b'.');
    let parts = || name.as_bytes().split(|&byte| separator(byte));
    name.len() <= 76 && parts().all(|part| !part.is_empty() && part.iter().all(u8::is_ascii_alphanumeric))
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Layout(directory) => write!(f, "layout:{}", directory.display()),
            Self::Docker { socket, containerd: None } => write!(f, "docker:unix://{}", socket.display()),
            Self::Docker { socket, containerd: Some(containerd) } => {
                write!(f, "docker:unix://{}?containerd={}", socket.display(), containerd.display())
            }
            Self::Containerd { socket, namespace } => write!(f, "containerd:{}?namespace={namespace}", socket.display()),
            Self::Podman { socket } => write!(f, "podman:unix://{}", socket.display()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_written_again() {
        let parse = |text: &str| StoreKind::parse(text, Path::new("/state"));
        assert_eq!(parse("layout").unwrap(), StoreKind::Layout("/state/layout".into()));
        for (text, full) in [
            ("auto", "auto"),
            ("layout:/images", "layout:/images"),
            ("docker", "docker:unix:///var/run/docker.sock"),
            ("docker:unix:///x.sock", "docker:unix:///x.sock"),
            ("docker:/x.sock?containerd=/y.sock", "docker:unix:///x.sock?containerd=/y.sock"),
            ("containerd", "containerd:/run/containerd/containerd.sock?namespace=default"),
            ("containerd:unix:///c.sock?namespace=k8s.io", "containerd:/c.sock?namespace=k8s.io"),
            ("podman", "podman:unix:///run/podman/podman.sock"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), full);
            assert_eq!(parse(full).unwrap(), parse(text).unwrap());
        }
        for wrong in [
            "",
            "floppy",
            "layout:",
            "docker:",
            "docker:tcp://host:2375",
            "containerd?name=x",
            "containerd?namespace=",
            "containerd?namespace=../x",
            "docker?containerd=x.sock",
            "podman?x=y",
            "auto:x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
