//! Real engines for tests: each with its own files and socket, beside whatever else runs on the machine. They come from Debian's packages,
//! newer ones unpacked beside the system by `.ci/engines`. Where one is not installed, the test that needs it says so and is skipped.

pub mod containerd;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub mod docker;
pub mod host;
pub mod podman;

/// How long a daemon may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A process that is stopped by its pid when this is dropped, with the mounts that it left in its directory.
pub struct Daemon {
    directory: TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// A directory for a daemon that has not been started yet.
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), child: None }
    }

    /// Where its files are.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts it, with its output in `log`, and waits until `ready` says that it answers.
    pub fn start(&mut self, command: &mut Command, ready: impl Fn() -> bool) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + START_TIMEOUT;
        while !ready() {
            let ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            assert!(!ended && Instant::now() < deadline, "{command:?} does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        }
    }

    /// Stops it in order. Its files stay.
    pub fn stop(&mut self) {
        self.signal("TERM");
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.stop();
    }

    /// Makes a directory of it a disk of so many MiB, until this is dropped. False where disks cannot be mounted: that needs root.
    pub fn mount(&self, name: &str, mib: u32) -> bool {
        let directory = self.path(name);
        std::fs::create_dir_all(&directory).unwrap();
        let options = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "none"]).arg(&directory).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success())
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal("CONT");
        self.stop();
        // Engines leave network namespaces and container mounts behind.
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let below: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for mount in below.iter().rev().filter(|mount| Path::new(mount).starts_with(self.directory.path())) {
            let _ = Command::new("umount").args(["-l", mount]).stderr(Stdio::null()).status();
        }
    }
}

/// The first of these programs that is installed.
pub fn installed(candidates: &[&str]) -> Option<PathBuf> {
    candidates.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Where `.ci/engines` unpacks engines that are newer than those of the system: one directory for each suite of Debian.
pub fn unpacked_engines() -> PathBuf {
    std::env::var_os("IMGD_ENGINES").map_or_else(
        || {
            let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
            std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("imgd-engines")
        },
        PathBuf::from,
    )
}
