//! A host as people have them: an engine, and an agent that keeps its images there.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::containerd::{Containerd, DockerOnContainerd, container_name};
use super::docker::Docker;
use super::podman::Podman;
use crate::process::{self, Process};

/// How long an agent may take to tidy up behind itself, or to hear the news.
const TIDY: Duration = Duration::from_secs(10);

/// What keeps the images of a host.
pub enum Engine {
    /// Docker Engine with its classic store.
    Docker(Docker),
    /// Docker Engine with containerd's store.
    DockerOnContainerd(DockerOnContainerd),
    /// containerd, and the namespace that is used.
    Containerd(Containerd, &'static str),
    /// Podman.
    Podman(Podman),
    /// None: the embedded layout.
    Layout,
}

/// A host.
pub struct Host {
    /// Its agent, which ends before its engine.
    pub agent: Process,
    /// Its engine.
    pub engine: Engine,
}

impl Engine {
    /// As the agent is told of it.
    pub fn store(&self) -> String {
        match self {
            Self::Docker(docker) => format!("docker:unix://{}", docker.socket().display()),
            Self::DockerOnContainerd(docker) => {
                format!("docker:unix://{}?containerd={}", docker.docker_socket().display(), docker.socket().display())
            }
            Self::Containerd(containerd, namespace) => format!("containerd:{}?namespace={namespace}", containerd.socket().display()),
            Self::Podman(podman) => format!("podman:unix://{}", podman.socket().display()),
            Self::Layout => "layout".to_owned(),
        }
    }

    /// Sends its program a signal, by name.
    pub fn signal(&self, name: &str) {
        match self {
            Self::Docker(docker) => docker.signal(name),
            Self::DockerOnContainerd(docker) => docker.signal(name),
            Self::Containerd(containerd, _) => containerd.signal(name),
            Self::Podman(podman) => podman.signal(name),
            Self::Layout => panic!("a layout takes no signals"),
        }
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        match self {
            Self::Docker(docker) => docker.stop(),
            Self::DockerOnContainerd(docker) => docker.stop(),
            Self::Containerd(containerd, _) => containerd.stop(),
            Self::Podman(podman) => podman.stop(),
            Self::Layout => panic!("a layout does not stop"),
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        match self {
            Self::Docker(docker) => docker.kill(),
            Self::DockerOnContainerd(docker) => docker.kill(),
            Self::Containerd(containerd, _) => containerd.kill(),
            Self::Podman(podman) => podman.kill(),
            Self::Layout => panic!("a layout is not killed"),
        }
    }

    /// Starts it again, with the files that it had.
    pub fn start_again(&mut self) {
        match self {
            Self::Docker(docker) => docker.start_again(),
            Self::DockerOnContainerd(docker) => docker.start_again(),
            Self::Containerd(containerd, _) => containerd.restart(),
            Self::Podman(podman) => podman.start_again(),
            Self::Layout => panic!("a layout does not start again"),
        }
    }

    /// One of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Docker(docker) => docker.path(name),
            Self::DockerOnContainerd(docker) => docker.path(name),
            Self::Containerd(containerd, _) => containerd.path(name),
            Self::Podman(podman) => podman.path(name),
            Self::Layout => panic!("the files of a layout are the agent's"),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        match self {
            Self::Docker(docker) => docker.socket(),
            Self::DockerOnContainerd(docker) => docker.docker_socket(),
            Self::Containerd(containerd, _) => containerd.socket(),
            Self::Podman(podman) => podman.socket(),
            Self::Layout => panic!("a layout has no socket"),
        }
    }

    /// It keeps manifests and indexes, and shows their digests as image IDs.
    pub fn shows_roots(&self) -> bool {
        matches!(self, Self::DockerOnContainerd(_) | Self::Containerd(..))
    }
}

impl Host {
    /// A host whose agent does not run yet.
    pub fn new(name: &str, engine: Engine) -> Self {
        let mut agent = Process::new(name);
        agent.argument(&format!("--store={}", engine.store()));
        Self { agent, engine }
    }

    /// A host with its agent.
    pub fn start(name: &str, engine: Engine) -> Self {
        let mut host = Self::new(name, engine);
        host.agent.start();
        host
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.agent.name
    }

    /// What the engine's own tool says, or `imgctl` where there is none.
    pub fn tool(&self, arguments: &[&str]) -> Output {
        match &self.engine {
            Engine::Docker(docker) => docker.run(arguments),
            Engine::DockerOnContainerd(docker) => docker.docker(arguments),
            Engine::Containerd(containerd, namespace) => containerd.ctr(namespace, arguments),
            Engine::Podman(podman) => podman.run(arguments),
            Engine::Layout => self.agent.run(arguments),
        }
    }

    /// The same; it has to succeed.
    pub fn said(&self, arguments: &[&str]) -> String {
        said(self.name(), arguments, &self.tool(arguments))
    }

    /// What `ctr` says about what containerd has.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        let output = match &self.engine {
            Engine::Containerd(containerd, namespace) => containerd.ctr(namespace, arguments),
            Engine::DockerOnContainerd(docker) => docker.ctr(arguments),
            _ => panic!("{} has no containerd", self.name()),
        };
        said(self.name(), arguments, &output)
    }

    /// The engine itself reads an archive.
    pub fn load(&self, archive: &Path) {
        let path = archive.to_str().unwrap();
        match &self.engine {
            Engine::Containerd(..) => self.said(&["images", "import", "--all-platforms", path]),
            _ => self.said(&["load", "-i", path]),
        };
    }

    /// The name that the engine itself has for an image.
    pub fn own_name(&self, name: &str) -> String {
        match self.engine {
            Engine::Docker(_) | Engine::DockerOnContainerd(_) | Engine::Layout => name.to_owned(),
            Engine::Containerd(..) | Engine::Podman(_) => format!("docker.io/library/{name}"),
        }
    }

    /// Everything that the engine itself lists, with what has no name and what is ours.
    pub fn names(&self) -> Vec<String> {
        let list = match &self.engine {
            Engine::Docker(_) | Engine::DockerOnContainerd(_) => self.said(&["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"]),
            Engine::Podman(_) => self.said(&["images", "--all", "--noheading", "--format", "{{.Repository}}:{{.Tag}}"]),
            Engine::Containerd(..) => self.said(&["images", "ls", "--quiet"]),
            Engine::Layout => self.rows().iter().map(|row| format!("{}\n", row["name"].as_str().unwrap_or("<none>"))).collect(),
        };
        let mut names: Vec<String> = list.lines().map(|name| name.rsplit('/').next().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// The engine has these images and nothing else, now or soon: no tags, parts or leases of ours.
    #[track_caller]
    pub fn has_only(&self, expected: &[&str]) {
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        let deadline = Instant::now() + TIDY;
        loop {
            let (names, leases) = (self.names(), self.leases());
            if names == expected && leases.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{} has {names:?} and leases {leases:?}, not {expected:?}", self.name());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Leases of agents.
    pub fn leases(&self) -> Vec<String> {
        if !self.engine.shows_roots() {
            return vec![];
        }
        self.ctr(&["leases", "ls", "--quiet"]).lines().filter(|lease| lease.starts_with("imgd-")).map(str::to_owned).collect()
    }

    /// What the engine shows as an image's ID.
    pub fn id(&self, name: &str) -> String {
        let own = self.own_name(name);
        match &self.engine {
            Engine::Docker(_) | Engine::DockerOnContainerd(_) => self.said(&["image", "inspect", "--format", "{{.Id}}", &own]),
            Engine::Podman(_) => format!("sha256:{}", self.said(&["image", "inspect", "--format", "{{.Id}}", &own])),
            Engine::Containerd(..) => {
                let list = self.said(&["images", "ls", &format!("name=={own}")]);
                let digest = list.split_whitespace().find(|word| word.starts_with("sha256:"));
                digest.unwrap_or_else(|| panic!("no {own} in {list}")).to_owned()
            }
            Engine::Layout => self.row(name)["image_id"].as_str().unwrap().to_owned(),
        }
    }

    /// What an image says when it runs; nothing where there is no engine.
    pub fn run(&self, name: &str) -> Option<String> {
        // On a busy machine engines lose, now and then, what a container says that ends at once.
        let mut words = self.run_once(name)?;
        for _ in 0..2 {
            if words.is_empty() {
                words = self.run_once(name)?;
            }
        }
        Some(words)
    }

    /// What the agent lists.
    pub fn rows(&self) -> Vec<serde_json::Value> {
        self.agent.must(&["--json", "ls"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the agent says of one image.
    #[track_caller]
    pub fn row(&self, name: &str) -> serde_json::Value {
        let rows = self.rows();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {rows:?}")).clone()
    }

    /// A document of containerd.
    pub fn document(&self, digest: &str) -> serde_json::Value {
        serde_json::from_str(&self.ctr(&["content", "get", digest])).unwrap()
    }

    /// The digest of an image's config, from the engine itself.
    pub fn config(&self, name: &str) -> String {
        let id = self.id(name);
        if !self.engine.shows_roots() {
            return id;
        }
        let root = self.document(&id);
        let runs = |entry: &&serde_json::Value| entry["platform"]["os"] != "unknown";
        let manifest = match root["manifests"].as_array().and_then(|entries| entries.iter().find(runs)) {
            Some(manifest) => self.document(manifest["digest"].as_str().unwrap()),
            None => root,
        };
        manifest["config"]["digest"].as_str().unwrap().to_owned()
    }

    /// Sends an image, which must succeed; the `done` of it.
    #[track_caller]
    pub fn send(&self, name: &str, to: &Host) -> serde_json::Value {
        self.agent.json(&["send", name, to.name()], "done")
    }

    fn run_once(&self, name: &str) -> Option<String> {
        let own = self.own_name(name);
        match &self.engine {
            Engine::Docker(_) | Engine::DockerOnContainerd(_) => {
                Some(self.said(&["run", "--rm", "--pull", "never", "--network", "none", &own]))
            }
            // Build hosts may not raise the limits of processes, which is what Podman does otherwise.
            Engine::Podman(_) => {
                let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
                Some(self.said(&[&["run", "--rm", "--pull", "never", "--network", "none"][..], &limits, &[&own]].concat()))
            }
            Engine::Containerd(..) => Some(self.said(&["run", "--rm", &own, &container_name()])),
            Engine::Layout => None,
        }
    }
}

/// Makes a fleet of them, in which each knows all others.
pub fn found(hosts: &[&Host]) {
    hosts[0].agent.must(&["fleet", "init"]);
    for host in &hosts[1..] {
        process::join(&hosts[0].agent, &host.agent);
    }
    let deadline = Instant::now() + TIDY;
    for host in hosts {
        let knows_all = || {
            let members = host.agent.must(&["fleet", "ls"]);
            hosts.iter().all(|other| members.split_whitespace().any(|word| word == other.name()))
        };
        while !knows_all() {
            assert!(Instant::now() < deadline, "{} does not know all members: {}", host.name(), host.agent.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Other tools of Debian, where they are installed.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[track_caller]
fn said(name: &str, arguments: &[&str], output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {arguments:?}: {}\n{out}{err}", output.status);
    out.trim().to_owned()
}
