//! A real Docker Engine at both ends of an archive: what it saves is loaded and sent, what we save it loads, and the image ID stays.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

/// An engine of its own, with its own files. Stopped when it is dropped, with what it left behind.
struct Docker {
    directory: TempDir,
    daemon: Child,
}

impl Docker {
    /// `None`, with the reason printed, where there is no engine.
    fn start() -> Option<Self> {
        let daemon = ["/usr/sbin/dockerd", "/usr/bin/dockerd"].into_iter().map(PathBuf::from).find(|path| path.exists());
        let Some(daemon) = daemon.filter(|_| Command::new("docker").arg("--version").output().is_ok()) else {
            println!("skipped: no Docker Engine here (apt-get install docker.io)");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("daemon.json"), "{}").unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let mut command = Command::new(daemon);
        command.arg("--config-file").arg(at("daemon.json")).arg("--data-root").arg(at("root")).arg("--exec-root").arg(at("exec"));
        command.arg("-p").arg(at("pid")).arg("-H").arg(format!("unix://{}", at("docker.sock").display()));
        command
            .args(["--iptables=false", "--bridge=none", "--storage-driver", "vfs"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let docker = Self { daemon: command.spawn().unwrap(), directory };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !docker.run(&["version"]).status.success() {
            if Instant::now() > deadline || !docker.directory.path().exists() {
                println!("skipped: the Docker Engine does not start here:\n{}", std::fs::read_to_string(docker.path("log")).unwrap());
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(docker)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.path("docker.sock").display())).args(arguments);
        command.output().unwrap()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn id(&self, image: &str) -> String {
        self.must(&["image", "inspect", "--format", "{{.Id}}", image])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
        // Left behind by the engine itself.
        let _ = Command::new("umount").arg(self.path("exec/netns/default")).stderr(Stdio::null()).status();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_image_keeps_its_id_from_engine_to_engine() {
    let Some(docker) = Docker::start() else { return };
    let mut hosts = ["stapp01", "stapp03"].map(Process::new);
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);

    // The engine gets its first image from an archive of ours, and saves it in its own way.
    let sample = Recipe::new(5, &[3_000_000, 20_000, 100]).build("demo:nautilus");
    hosts[0].must(&["load", "-i", text(&archive_file(hosts[0].path(), &sample))]);
    // Not zstd: engines before 23 cannot read it.
    for (compress, suffix) in [("none", "tar"), ("gzip", "tar.gz")] {
        let ours = hosts[0].path().join(format!("ours.{suffix}"));
        hosts[0].must(&["save", "--compress", compress, "-o", text(&ours), "demo:nautilus"]);
        docker.must(&["load", "-i", text(&ours)]);
        assert_eq!(docker.id("demo:nautilus"), sample.image_id().to_string(), "{compress}");
    }
    docker.must(&["tag", "demo:nautilus", "demo:saved"]);
    let theirs = docker.path("theirs.tar");
    docker.must(&["save", "-o", text(&theirs), "demo:saved", "demo:nautilus"]);
    hosts[0].must(&["load", "-i", text(&theirs)]);

    let done = hosts[0].json(&["send", "demo:saved", "stapp03"], "done");
    assert_eq!(done["image_id"], docker.id("demo:saved"));
    docker.must(&["rmi", "demo:saved", "demo:nautilus"]);
    let back = hosts[1].path().join("back.tar");
    hosts[1].must(&["save", "-o", text(&back), "demo:saved"]);
    docker.must(&["load", "-i", text(&back)]);
    assert_eq!(docker.id("demo:saved"), sample.image_id().to_string());
}
