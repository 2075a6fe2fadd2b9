//! containerd on its own, and Docker with containerd's image store.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use agent::store::containerd::{ContainerdStore, Flavour, Settings};

use super::{Daemon, installed, unpacked_engines};

/// A containerd of its own.
pub struct Containerd {
    daemon: Daemon,
    program: PathBuf,
}

/// A Docker daemon of its own, whose images are in its containerd.
pub struct DockerOnContainerd {
    daemon: Daemon,
    programs: PathBuf,
}

impl Containerd {
    /// The one of the system; `None` where none is installed.
    pub fn of_system() -> Option<Self> {
        installed(&["/usr/bin/containerd"]).map(Self::start)
    }

    /// One that `.ci/engines` unpacked; `None` where that was not done.
    pub fn unpacked(suite: &str) -> Option<Self> {
        let program = unpacked_engines().join(suite).join("usr/bin/containerd");
        program.exists().then(|| Self::start(program))
    }

    /// The one of the system, whose files lie on a disk of so many MiB; `None` where that cannot be had.
    pub fn on_disk(mib: u32) -> Option<Self> {
        let daemon = Daemon::new();
        let program = installed(&["/usr/bin/containerd"])?;
        daemon.mount("root", mib).then(|| Self::start_in(daemon, program))
    }

    /// Starts this program.
    pub fn start(program: PathBuf) -> Self {
        Self::start_in(Daemon::new(), program)
    }

    fn start_in(daemon: Daemon, program: PathBuf) -> Self {
        let mut containerd = Self { daemon, program };
        let at = |name: &str| containerd.daemon.path(name);
        // The CRI plugin wants a network configuration.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = {:?}\n",
            at("root"),
            at("state"),
            at("socket")
        );
        std::fs::write(at("config.toml"), config).unwrap();
        containerd.restart();
        containerd
    }

    /// Starts it again after it was killed or stopped.
    pub fn restart(&mut self) {
        let config = self.daemon.path("config.toml");
        let (socket, ctr) = (self.socket(), self.ctr_program());
        let ready = || Command::new(&ctr).arg("--address").arg(&socket).arg("version").output().is_ok_and(|output| output.status.success());
        self.daemon.start(Command::new(&self.program).arg("--config").arg(config), ready);
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Stops it in order; its files stay.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) {
        self.daemon.signal(name);
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.daemon.path("socket")
    }

    /// Where the file of a blob is.
    pub fn blob(&self, digest: &proto::Digest) -> PathBuf {
        self.daemon.path("root").join("io.containerd.content.v1.content/blobs/sha256").join(digest.hex())
    }

    /// A directory for agents.
    pub fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    /// A store in one of its namespaces, for an agent with files in `state_dir`.
    pub fn store(&self, namespace: &str, flavour: Flavour, state_dir: &Path) -> ContainerdStore {
        open(self.socket(), namespace, flavour, state_dir)
    }

    /// Runs `ctr` with these arguments.
    pub fn ctr(&self, namespace: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.ctr_program());
        command.arg("--address").arg(self.socket()).args(["--namespace", namespace]).args(arguments).output().unwrap()
    }

    fn ctr_program(&self) -> PathBuf {
        self.program.with_file_name("ctr")
    }
}

impl DockerOnContainerd {
    /// One that `.ci/engines` unpacked; `None` where that was not done.
    pub fn unpacked(suite: &str) -> Option<Self> {
        let programs = unpacked_engines().join(suite).join("usr");
        if !programs.join("sbin/dockerd").exists() {
            return None;
        }
        let mut docker = Self { daemon: Daemon::new(), programs };
        docker.start_again();
        Some(docker)
    }

    /// The same engine with the same files, after it was stopped.
    pub fn start_again(&mut self) {
        let at = |name: &str| self.daemon.path(name);
        std::fs::write(at("daemon.json"), r#"{"features":{"containerd-snapshotter":true}}"#).unwrap();
        let mut command = Command::new(self.programs.join("sbin/dockerd"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{}:{path}", self.programs.join("sbin").display(), self.programs.join("bin").display()));
        command.arg("--config-file").arg(at("daemon.json")).arg("--data-root").arg(at("root")).arg("--exec-root").arg(at("exec"));
        command.arg("-p").arg(at("pid")).arg("-H").arg(format!("unix://{}", at("docker.sock").display()));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "overlayfs"]);
        let socket = at("docker.sock");
        let client = self.programs.join("bin/docker");
        let ready = || docker_command(&client, &socket).arg("version").output().is_ok_and(|output| output.status.success());
        self.daemon.start(&mut command, ready);
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.daemon.kill();
        // As with the classic store.
        let _ = std::fs::remove_file(self.daemon.path("exec/containerd/containerd.pid"));
    }

    /// Stops it in order; its files stay.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) {
        self.daemon.signal(name);
    }

    /// Where its containerd listens.
    pub fn socket(&self) -> PathBuf {
        self.daemon.path("exec/containerd/containerd.sock")
    }

    /// Where Docker listens.
    pub fn docker_socket(&self) -> PathBuf {
        self.daemon.path("docker.sock")
    }

    /// A directory for agents.
    pub fn path(&self, name: &str) -> PathBuf {
        self.daemon.path(name)
    }

    /// Its images, for an agent with files in `state_dir`.
    pub fn store(&self, state_dir: &Path) -> ContainerdStore {
        open(self.socket(), "moby", Flavour::Docker, state_dir)
    }

    /// Runs `docker` with these arguments.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        docker_command(&self.programs.join("bin/docker"), &self.docker_socket()).args(arguments).output().unwrap()
    }

    /// Runs `ctr` on what Docker has there.
    pub fn ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.programs.join("bin/ctr"));
        command.arg("--address").arg(self.socket()).args(["--namespace", "moby"]).args(arguments).output().unwrap()
    }
}

/// A name for a container: all containerds of a machine share one list of those that run.
pub fn container_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn docker_command(client: &Path, socket: &Path) -> Command {
    // The client may be a package of its own.
    let mut command = if client.exists() { Command::new(client) } else { Command::new("docker") };
    // The builder that needs nothing beside the engine.
    command.arg("-H").arg(format!("unix://{}", socket.display())).env("DOCKER_BUILDKIT", "0");
    command
}

fn open(socket: PathBuf, namespace: &str, flavour: Flavour, state_dir: &Path) -> ContainerdStore {
    ContainerdStore::open(Settings { socket, namespace: namespace.to_owned(), flavour, snapshotter: None, state_dir }).unwrap()
}
