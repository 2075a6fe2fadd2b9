//! Podman's service.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Daemon;

/// A service of its own, with its own files.
pub struct Podman {
    daemon: Daemon,
}

impl Podman {
    /// Whether there is one.
    pub fn is_installed() -> bool {
        super::installed(&["/usr/bin/podman"]).is_some()
    }

    /// Starts `podman system service`.
    pub fn start() -> Self {
        Self::start_in(Daemon::new())
    }

    /// The same with its images on a disk of so many MiB; `None` where that cannot be had.
    pub fn on_disk(mib: u32) -> Option<Self> {
        let daemon = Daemon::new();
        (Self::is_installed() && daemon.mount("root", mib)).then(|| Self::start_in(daemon))
    }

    fn start_in(daemon: Daemon) -> Self {
        let mut podman = Self { daemon };
        podman.start_again();
        podman
    }

    /// The same service with the same files, after it was stopped.
    pub fn start_again(&mut self) {
        let mut command = self.command();
        command.args(["system", "service", "-t", "0"]).arg(format!("unix://{}", self.socket().display()));
        let socket = self.socket();
        self.daemon.start(&mut command, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Stops it in order; its files stay.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        self.daemon.signal(name);
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.daemon.path("podman.sock")
    }

    /// A place for files beside the engine's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    /// `podman …`
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// `podman …`, which has to succeed; what it prints.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Removes all images.
    pub fn clear(&self) {
        self.run(&["rmi", "--all", "--force"]);
    }

    /// `buildah …` on the same images, which has to succeed. `None` where it is not installed.
    pub fn buildah(&self) -> Option<impl Fn(&[&str])> {
        let program = super::installed(&["/usr/bin/buildah"])?;
        Some(move |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.arg("--root").arg(self.daemon.path("root")).arg("--runroot").arg(self.daemon.path("run"));
            let output = command.args(["--storage-driver", "overlay"]).args(arguments).output().unwrap();
            assert!(output.status.success(), "buildah {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        })
    }

    /// `podman`, to be told what to do.
    pub fn command(&self) -> Command {
        let mut command = Command::new("podman");
        for (flag, directory) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.daemon.path(directory));
        }
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        // crun refuses the mixed control groups of some build hosts.
        if let Some(runc) = ["/usr/sbin/runc", "/usr/bin/runc"].into_iter().find(|path| Path::new(path).exists()) {
            command.args(["--runtime", runc]);
        }
        command
    }
}
