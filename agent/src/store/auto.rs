//! Which store a host has when nobody says: looked up once, and remembered, so that an engine that is down never means another store.

use std::path::{Path, PathBuf};

use super::StoreError;
use super::kind::{CONTAINERD_NAMESPACE, CONTAINERD_SOCKET, DOCKER_SOCKET, PODMAN_SOCKET, StoreKind};
use crate::sys::durable;

/// Where Kubernetes distributions keep a containerd of their own: k3s and RKE2, MicroK8s, k0s.
const KUBERNETES_SOCKETS: [&str; 3] =
    ["/run/k3s/containerd/containerd.sock", "/var/snap/microk8s/common/run/containerd.sock", "/run/k0s/containerd.sock"];

/// The store of this host, and why it is that one. Chosen at the first start; from then on what `state_dir` remembers. Blocking.
pub fn choose(state_dir: &Path) -> Result<(StoreKind, String), StoreError> {
    let path = state_dir.join("store");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let malformed = |reason: String| StoreError::Malformed { path: path.clone(), reason };
            let kind = StoreKind::parse(text.trim(), state_dir).map_err(|error| malformed(error.to_string()))?;
            Ok((kind, format!("chosen at the first start and remembered in {}", path.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (kind, reason) = decide(&Host::look(), state_dir);
            std::fs::create_dir_all(state_dir).map_err(StoreError::io("create", state_dir))?;
            durable::write(&path, format!("{kind}\n").as_bytes(), 0o600)?;
            Ok((kind, reason))
        }
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

/// What is to be seen of the engines of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Host {
    docker: Option<Sign>,
    podman: Option<Sign>,
    containerd: Option<Sign>,
    is_kubernetes_node: bool,
    /// The containerd of a Kubernetes distribution.
    kubernetes: Option<PathBuf>,
}

/// By what an engine was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sign {
    Socket(PathBuf),
    /// It is installed, and not running.
    Program(PathBuf),
}

/// Namespace of the images that a kubelet sees.
pub(super) const KUBERNETES_NAMESPACE: &str = "k8s.io";

/// A Docker that runs, then the containerd of a Kubernetes distribution; else Docker before Podman before containerd: whoever has Docker has a containerd
/// too, which is not where its images are.
fn decide(host: &Host, state_dir: &Path) -> (StoreKind, String) {
    let seen = |sign: &Sign| match sign {
        Sign::Socket(path) => format!("{} is here", path.display()),
        Sign::Program(path) => format!("{} is installed", path.display()),
    };
    let socket = |sign: &Sign, usual: &str| match sign {
        Sign::Socket(path) => path.clone(),
        Sign::Program(_) => PathBuf::from(usual),
    };
    // An engine that is only installed is not the one that runs.
    let docker_runs = matches!(host.docker, Some(Sign::Socket(_)));
    if let Some(socket) = host.kubernetes.as_ref().filter(|_| !docker_runs) {
        let reason = format!("{} is here", socket.display());
        return (StoreKind::Containerd { socket: socket.clone(), namespace: KUBERNETES_NAMESPACE.to_owned() }, reason);
    }
    if let Some(sign) = &host.docker {
        return (StoreKind::Docker { socket: socket(sign, DOCKER_SOCKET), containerd: None }, seen(sign));
    }
    if let Some(sign) = &host.podman {
        return (StoreKind::Podman { socket: socket(sign, PODMAN_SOCKET) }, seen(sign));
    }
    if let Some(sign) = &host.containerd {
        let namespace = if host.is_kubernetes_node { KUBERNETES_NAMESPACE } else { CONTAINERD_NAMESPACE }.to_owned();
        return (StoreKind::Containerd { socket: socket(sign, CONTAINERD_SOCKET), namespace }, seen(sign));
    }
    (StoreKind::Layout(state_dir.join("layout")), "no engine is installed".to_owned())
}

/// The socket of a Kubernetes distribution's own containerd, where there is one: its kubelet sees the images in there, and no others.
pub(super) fn kubernetes_socket() -> Option<PathBuf> {
    KUBERNETES_SOCKETS.iter().map(PathBuf::from).find(|path| path.try_exists().unwrap_or(true))
}

impl Host {
    fn look() -> Self {
        // A socket that may not be looked at is there: its engine is chosen, and says what is wrong. Absence would choose another store for good.
        let first = |paths: Vec<PathBuf>| paths.into_iter().find(|path| path.try_exists().unwrap_or(true));
        let programs = |name: &str| ["/usr/bin", "/usr/sbin", "/usr/local/bin"].iter().map(|dir| Path::new(dir).join(name)).collect();
        // Who is not root has sockets of its own, of engines without root.
        let user_sockets = |name: &str| std::env::var_os("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join(name));
        let sign = |socket: &str, user_socket: Option<PathBuf>, program: &str| {
            let sockets = std::iter::once(PathBuf::from(socket)).chain(user_socket).collect();
            first(sockets).map(Sign::Socket).or_else(|| first(programs(program)).map(Sign::Program))
        };
        Self {
            docker: sign(DOCKER_SOCKET, user_sockets("docker.sock"), "dockerd"),
            podman: sign(PODMAN_SOCKET, user_sockets("podman/podman.sock"), "podman"),
            containerd: sign(CONTAINERD_SOCKET, None, "containerd"),
            is_kubernetes_node: Path::new("/var/lib/kubelet").try_exists().unwrap_or(true),
            kubernetes: kubernetes_socket(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn docker_goes_before_podman_before_containerd() {
        let state = Path::new("/state");
        let program = |name: &str| Some(Sign::Program(name.into()));
        let mut host = Host { containerd: program("/usr/bin/containerd"), is_kubernetes_node: true, ..Host::default() };
        assert_eq!(decide(&host, state).0.to_string(), "containerd:/run/containerd/containerd.sock?namespace=k8s.io");
        host.podman = Some(Sign::Socket("/run/user/1000/podman/podman.sock".into()));
        assert_eq!(decide(&host, state).0.to_string(), "podman:unix:///run/user/1000/podman/podman.sock");
        host.docker = program("/usr/sbin/dockerd");
        assert_eq!(
            decide(&host, state),
            (StoreKind::Docker { socket: DOCKER_SOCKET.into(), containerd: None }, "/usr/sbin/dockerd is installed".to_owned())
        );
        assert_eq!(decide(&Host::default(), state).0, StoreKind::Layout("/state/layout".into()));
        host.kubernetes = Some(KUBERNETES_SOCKETS[0].into());
        assert_eq!(decide(&host, state).0.to_string(), "containerd:/run/k3s/containerd/containerd.sock?namespace=k8s.io");
        host.docker = Some(Sign::Socket(DOCKER_SOCKET.into()));
        assert!(matches!(decide(&host, state).0, StoreKind::Docker { .. }));
    }

    #[test]
    fn a_choice_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("store"), "podman:unix:///p.sock\n").unwrap();
        assert_eq!(choose(directory.path()).unwrap().0, StoreKind::Podman { socket: "/p.sock".into() });
        std::fs::write(directory.path().join("store"), "floppy").unwrap();
        assert!(matches!(choose(directory.path()), Err(StoreError::Malformed { .. })));
        let fresh = tempfile::tempdir().unwrap();
        let (chosen, _) = choose(&fresh.path().join("state")).unwrap();
        assert_eq!(choose(&fresh.path().join("state")).unwrap().0, chosen);
    }
}
