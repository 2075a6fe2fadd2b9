//! What people use without us: an SSH server and a registry, both of their own and on free ports of loopback.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::engine::{Daemon, installed};

/// `sshd` with throw-away keys.
pub(crate) struct Ssh {
    daemon: Daemon,
    port: u16,
    made: Option<&'static Path>,
}

/// `docker-registry` with files of its own.
pub(crate) struct Registry {
    _daemon: Daemon,
    /// Where it listens.
    pub(crate) address: String,
}

/// `sshd` does not start without it; Debian's service makes it.
const SEPARATION: &str = "/run/sshd";

impl Ssh {
    pub(crate) fn start() -> Option<Self> {
        let program = installed(&["/usr/sbin/sshd"])?;
        let mut daemon = Daemon::new();
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(daemon.path(key)).status();
            assert!(made.unwrap().success());
        }
        let made = std::fs::create_dir(SEPARATION).is_ok().then_some(Path::new(SEPARATION));
        let port = free_port();
        let at = |name: &str| daemon.path(name).display().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n",
            at("host"),
            at("user.pub")
        );
        std::fs::write(daemon.path("config"), config).unwrap();
        let config = daemon.path("config");
        daemon.start(Command::new(program).arg("-D").arg("-e").arg("-f").arg(config), || answers(port));
        Some(Self { daemon, port, made })
    }

    /// The command that runs something at the other end.
    pub(crate) fn command(&self) -> String {
        let key = self.daemon.path("user");
        let options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
        format!("ssh -F none {options} -i {} -p {} 127.0.0.1", key.display(), self.port)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.daemon.stop();
        if let Some(made) = self.made {
            let _ = std::fs::remove_dir(made);
        }
    }
}

impl Registry {
    pub(crate) fn start() -> Option<Self> {
        let program: PathBuf = installed(&["/usr/bin/docker-registry"])?;
        let mut daemon = Daemon::new();
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: {address:?}}}\n",
            daemon.path("files")
        );
        std::fs::write(daemon.path("config.yml"), config).unwrap();
        let config = daemon.path("config.yml");
        daemon.start(Command::new(program).arg("serve").arg(config), || answers(port));
        Some(Self { _daemon: daemon, address })
    }
}

/// Runs a line of shell, which must succeed.
pub(crate) fn shell(line: &str) {
    let output = Command::new("bash").args(["-c", &format!("set -eo pipefail; {line}")]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}
