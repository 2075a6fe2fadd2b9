//! Docker Engine, the system's or one that is unpacked beside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Daemon;

/// An engine of its own, with its own files.
pub struct Docker {
    daemon: Daemon,
    binary: PathBuf,
    driver: String,
}

impl Docker {
    /// The program of the system's engine.
    pub fn system() -> Option<PathBuf> {
        super::installed(&["/usr/sbin/dockerd", "/usr/bin/dockerd"])
    }

    /// The program of a newer engine, unpacked by `.ci/engines`.
    pub fn unpacked(suite: &str) -> Option<PathBuf> {
        let path = super::unpacked_engines().join(suite).join("usr/sbin/dockerd");
        path.exists().then_some(path)
    }

    /// Starts `dockerd` with this storage driver.
    pub fn start(binary: &Path, driver: &str) -> Self {
        Self::start_in(Daemon::new(), binary, driver)
    }

    /// The system's engine with its classic store on a disk of so many MiB; `None` where that cannot be had.
    pub fn on_disk(mib: u32) -> Option<Self> {
        let daemon = Daemon::new();
        let binary = Self::system()?;
        daemon.mount("root", mib).then(|| Self::start_in(daemon, &binary, "overlay2"))
    }

    fn start_in(daemon: Daemon, binary: &Path, driver: &str) -> Self {
        let mut docker = Self { daemon, binary: binary.to_owned(), driver: driver.to_owned() };
        docker.start_again();
        docker
    }

    /// The same engine with the same files, after it was stopped.
    pub fn start_again(&mut self) {
        let at = |name: &str| self.daemon.path(name);
        std::fs::write(at("daemon.json"), "{}").unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("--config-file").arg(at("daemon.json")).arg("--data-root").arg(at("root")).arg("--exec-root").arg(at("exec"));
        command.arg("-p").arg(at("pid")).arg("-H").arg(format!("unix://{}", at("docker.sock").display()));
        command.args(["--iptables=false", "--bridge=none", "--storage-driver", &self.driver]);
        command.env("PATH", path_with(&self.binary));
        let socket = self.socket();
        self.daemon.start(&mut command, || run(&socket, &["version"]).status.success());
    }

    /// Stops it in order; its files stay.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.daemon.kill();
        // Its containerd dies with it. Where nobody reaps that one, the next engine would take it for alive.
        let _ = std::fs::remove_file(self.daemon.path("exec/containerd/containerd.pid"));
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        self.daemon.signal(name);
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.daemon.path("docker.sock")
    }

    /// A place for files beside the engine's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    /// `docker …`
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&self.socket(), arguments)
    }

    /// `docker …`, which has to succeed; what it prints.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// An image's ID.
    pub fn id(&self, image: &str) -> String {
        self.must(&["image", "inspect", "--format", "{{.Id}}", image])
    }

    /// Removes all images.
    pub fn clear(&self) {
        let ids = self.must(&["images", "--all", "--quiet", "--no-trunc"]);
        for id in ids.lines() {
            self.run(&["rmi", "--force", id]);
        }
    }
}

fn run(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", socket.display())).args(arguments).env("DOCKER_BUILDKIT", "0");
    command.output().unwrap()
}

/// Helpers that were unpacked with the engine come before those of the system.
fn path_with(binary: &Path) -> OsString {
    let system = std::env::var_os("PATH").unwrap_or_default();
    let root = binary.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    let own = [root.join("bin"), root.join("sbin")];
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&system))).unwrap()
}
