//! Hosts: an engine, and an agent that is started for it.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tests::bench::argument;
use tests::engine::containerd::{Containerd, DockerOnContainerd};
use tests::engine::docker::Docker;
use tests::engine::podman::Podman;
use tests::namespace::Lan;
use tests::process::Process;

/// The namespace that `ctr` uses.
const NAMESPACE: &str = "default";

/// Which engine is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Docker,
    Podman,
    Containerd,
    DockerOnContainerd,
}

/// A running engine without images.
pub(crate) enum Engine {
    Docker(Docker),
    Podman(Podman),
    Containerd(Containerd),
    DockerOnContainerd(DockerOnContainerd),
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Docker, Self::Podman, Self::Containerd, Self::DockerOnContainerd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Containerd => "containerd",
            Self::DockerOnContainerd => "Docker on containerd's store",
        }
    }

    /// False when `--engine` names another one.
    pub(crate) fn is_wanted(self) -> bool {
        argument("--engine").is_none_or(|engine| self.name().eq_ignore_ascii_case(&engine))
    }

    /// `None`, and a line that says so, where it is not installed.
    pub(crate) fn start(self) -> Option<Engine> {
        let engine = match self {
            Self::Docker => Docker::system().map(|program| Engine::Docker(Docker::start(&program, "overlay2"))),
            Self::Podman => Podman::is_installed().then(|| Engine::Podman(Podman::start())),
            Self::Containerd => Containerd::of_system().map(Engine::Containerd),
            Self::DockerOnContainerd => DockerOnContainerd::unpacked("trixie").map(Engine::DockerOnContainerd),
        };
        if engine.is_none() {
            println!("  left out: {} is not here", self.name());
        }
        engine
    }
}

impl Engine {
    /// As the agent is told of it.
    pub(crate) fn store(&self) -> String {
        match self {
            Self::Docker(docker) => format!("docker:unix://{}", docker.socket().display()),
            Self::Podman(podman) => format!("podman:unix://{}", podman.socket().display()),
            Self::Containerd(containerd) => format!("containerd:{}?namespace={NAMESPACE}", containerd.socket().display()),
            Self::DockerOnContainerd(docker) => {
                format!("docker:unix://{}?containerd={}", docker.docker_socket().display(), docker.socket().display())
            }
        }
    }

    /// Its own tool.
    pub(crate) fn tool(&self, arguments: &[&str]) {
        let output: Output = match self {
            Self::Docker(docker) => docker.run(arguments),
            Self::Podman(podman) => podman.run(arguments),
            Self::Containerd(containerd) => containerd.ctr(NAMESPACE, arguments),
            Self::DockerOnContainerd(docker) => docker.docker(arguments),
        };
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The engine reads an archive.
    pub(crate) fn load(&self, archive: &Path) {
        let path = archive.to_str().unwrap();
        match self {
            Self::Containerd(_) => self.tool(&["images", "import", path]),
            _ => self.tool(&["load", "--input", path]),
        }
    }

    /// The engine reads an archive that comes at so many bytes in a second.
    pub(crate) fn load_at(&self, archive: &Path, bytes_per_s: f64) {
        let mut loading = self.piped(&["load"], &["images", "import", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut archive = File::open(archive).unwrap();
        let mut engine = loading.stdin.take().unwrap();
        let (mut block, mut written_bytes, start) = (vec![0; 1 << 20], 0, Instant::now());
        loop {
            let read_bytes = archive.read(&mut block).unwrap();
            if read_bytes == 0 {
                break;
            }
            written_bytes += read_bytes;
            let due = start + Duration::from_secs_f64(written_bytes as f64 / bytes_per_s);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            engine.write_all(&block[..read_bytes]).unwrap();
        }
        drop(engine);
        assert!(loading.wait().unwrap().success());
    }

    /// The engine writes an archive, which nobody keeps.
    pub(crate) fn save(&self, image: &str) {
        let name = format!("docker.io/library/{image}");
        // Engines refuse to write to a device.
        let mut saving =
            self.piped(&["save", image], &["images", "export", "-", &name]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::with_capacity(1 << 20, saving.stdout.take().unwrap());
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        assert!(saving.wait().unwrap().success());
    }

    /// Its own tool, for somebody who reads from it or writes to it: with these arguments, or with those for `ctr`.
    fn piped(&self, arguments: &[&str], of_ctr: &[&str]) -> Command {
        let docker = |socket: &Path| {
            let mut command = Command::new("docker");
            command.arg("-H").arg(format!("unix://{}", socket.display())).args(arguments);
            command
        };
        match self {
            Self::Docker(engine) => docker(&engine.socket()),
            Self::DockerOnContainerd(engine) => docker(&engine.docker_socket()),
            Self::Podman(podman) => {
                let mut command = podman.command();
                command.args(arguments);
                command
            }
            Self::Containerd(containerd) => {
                let mut command = Command::new("ctr");
                command.arg("--address").arg(containerd.socket()).args(["--namespace", NAMESPACE]).args(of_ctr);
                command
            }
        }
    }

    /// All images go, with all that belongs to them.
    pub(crate) fn clear(&self) {
        match self {
            Self::Docker(docker) => docker.clear(),
            Self::Podman(podman) => podman.clear(),
            Self::Containerd(containerd) => {
                let names = containerd.ctr(NAMESPACE, &["images", "ls", "--quiet"]);
                String::from_utf8_lossy(&names.stdout).lines().for_each(|name| self.tool(&["images", "rm", "--sync", name]));
            }
            Self::DockerOnContainerd(docker) => {
                let ids = docker.docker(&["images", "--all", "--quiet", "--no-trunc"]);
                String::from_utf8_lossy(&ids.stdout).lines().for_each(|id| drop(docker.docker(&["rmi", "--force", id])));
                // What was loaded is leased for a day; the last lease that goes has its garbage collected before the answer.
                docker.ctr(&["leases", "create", "--id", "last"]);
                let leases = docker.ctr(&["leases", "ls", "--quiet"]);
                let leases = String::from_utf8_lossy(&leases.stdout).into_owned();
                leases.lines().for_each(|lease| drop(docker.ctr(&["leases", "rm", "--sync", lease])));
            }
        }
    }

    /// An agent for it that has never seen it before, on loopback or on a LAN.
    pub(crate) fn agent(&self, name: &str, place: Option<(&Lan, u32)>) -> Process {
        let mut agent = match place {
            Some((lan, number)) => Process::in_namespace(name, &lan.host(number), "eth0"),
            None => Process::new(name),
        };
        agent.argument(&format!("--store={}", self.store()));
        agent.start();
        agent
    }
}

/// Two agents that trust each other.
pub(crate) fn found(agents: &[Process; 2]) {
    agents[0].must(&["fleet", "init"]);
    tests::process::join(&agents[0], &agents[1]);
}
