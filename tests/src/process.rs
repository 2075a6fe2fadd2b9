//! The built programs, as processes: for what only a process can show (`kill -9`, memory, real output).

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Builds `imgd` and `imgctl` once for this process, in the profile of the tests, and tells where a program lies.
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "agent", "-p", "ctl"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        // What cargo tells its tests would have the build scripts of libraries run again, here and after it (ring).
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
            build.env_remove(name);
        }
        build.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
        assert!(build.status().unwrap().success(), "imgd and imgctl do not build");
        // target/<profile>/deps/<this test>
        std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
    });
    directory.join(name)
}

/// A directory for an agent, with an empty policy, so that `fleet init` writes none: members may move every tag.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("policy.toml"), "").unwrap();
    directory
}

/// A running `imgd` with its own files. Killed when it is dropped.
pub struct Process {
    /// Its name.
    pub name: String,
    directory: TempDir,
    arguments: Vec<String>,
    /// In front of the program: `ip netns exec …`.
    prefix: Vec<String>,
    child: Option<Child>,
}

impl Process {
    /// An agent that does not run yet, on loopback and without multicast.
    pub fn new(name: &str) -> Self {
        let arguments = ["--listen", "127.0.0.1:0", "--no-mdns"].map(str::to_owned).to_vec();
        Self { name: name.to_owned(), directory: directory(), arguments, prefix: vec![], child: None }
    }

    /// An agent in a network namespace, found by multicast on `interface`.
    pub fn in_namespace(name: &str, namespace: &str, interface: &str) -> Self {
        let arguments = ["--listen", "[::]:7117", "--interface", interface].map(str::to_owned).to_vec();
        let prefix = ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec();
        Self { name: name.to_owned(), directory: directory(), arguments, prefix, child: None }
    }

    /// An agent in a network namespace, found by its address.
    pub fn at(name: &str, namespace: &str, address: &str) -> Self {
        let arguments = ["--listen", address, "--no-mdns"].map(str::to_owned).to_vec();
        let prefix = ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec();
        Self { name: name.to_owned(), directory: directory(), arguments, prefix, child: None }
    }

    /// An agent as [`Process::new`] makes it, whose state lies on a disk of so many MiB, which only it sees.
    pub fn on_disk(name: &str, mib: u32) -> Self {
        let mut process = Self::new(name);
        let state = process.path().join("state");
        let mount = format!("mkdir -p '{0}' && mount -t tmpfs -o size={mib}m none '{0}' && exec \"$@\"", state.display());
        process.prefix = ["unshare", "--mount", "sh", "-c", &mount, "sh"].map(str::to_owned).to_vec();
        process
    }

    /// The agent, if it is started as root, has not this right of root: `dac_override` …
    pub fn without(&mut self, capability: &str) -> &mut Self {
        self.prefix = ["setpriv", "--bounding-set", &format!("-{capability}")].map(str::to_owned).to_vec();
        self
    }

    /// The agent, if it is started as root, has this group and no other one: its socket is for that group.
    pub fn in_group(&mut self, gid: u32) -> &mut Self {
        self.prefix = ["setpriv", "--regid", &gid.to_string(), "--clear-groups"].map(str::to_owned).to_vec();
        self
    }

    /// False where disks cannot be mounted: that needs root.
    pub fn can_mount(&self) -> bool {
        self.command(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Further arguments for the next start.
    pub fn argument(&mut self, argument: &str) -> &mut Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it, and waits until it answers.
    pub fn start(&mut self) {
        let empty = self.path().join("config.toml");
        std::fs::write(&empty, "").unwrap();
        let log = std::fs::File::create(self.path().join("log")).unwrap();
        let mut command = self.command(&program("imgd"));
        command.arg("--config").arg(&empty).arg("--state-dir").arg(self.path().join("state")).arg("--socket").arg(self.socket());
        if !self.arguments.iter().any(|argument| argument.starts_with("--store")) {
            command.args(["--store", "layout"]);
        }
        command.args(["--name", &self.name]).args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // The group is signalled as a whole: `ip netns exec` replaces itself, but a wrapper may not.
        self.child = Some(command.process_group(0).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(
                Instant::now() < deadline && self.child.as_mut().unwrap().try_wait().unwrap().is_none(),
                "{}: {}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.path().join("imgd.sock")
    }

    /// Its embedded store.
    pub fn layout(&self) -> PathBuf {
        self.path().join("state/layout")
    }

    /// What it has logged since its start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// `imgctl` for this agent.
    pub fn imgctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&program("imgctl"));
        command.arg("--socket").arg(self.socket()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `imgctl`, whatever comes of it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.imgctl(arguments).output().unwrap()
    }

    /// Runs `imgctl`, which must succeed, and returns what it printed.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{} imgctl {arguments:?}: {}\n{out}{err}\n{}", self.name, output.status, self.log());
        out
    }

    /// The last `--json` line of a command that must succeed, with this event.
    pub fn json(&self, arguments: &[&str], event: &str) -> serde_json::Value {
        let out = self.must(&[&["--json"], arguments].concat());
        let lines = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.rev().find(|line| line["event"] == event).unwrap_or_else(|| panic!("no {event} in {out}"))
    }

    /// Ends it as a power cut would: `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A signal by name: STOP, CONT, TERM.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Ends it in order, and waits for it.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.child.take().unwrap().wait().unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Highest resident memory so far, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Resident memory now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// CPU time so far, user and system, in seconds.
    pub fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Fields 14 and 15 (proc(5)), counted behind the name, which may have blanks; 100 ticks a second on every Linux.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    fn command(&self, program: &Path) -> Command {
        match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes two running agents a fleet.
pub fn join(signer: &Process, host: &Process) {
    let token = signer.json(&["fleet", "invite"], "invited")["token"].as_str().unwrap().to_owned();
    let file = host.path().join("token");
    std::fs::write(&file, token).unwrap();
    host.must(&["fleet", "join", "--token-file", file.to_str().unwrap()]);
}
