//! Two agents that live as long as the demo.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

const START_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// Running agents and their directory. Dropped: stopped and removed.
pub(super) struct Agents {
    // The order of fields is the order of dropping: nobody writes any more when the directory goes.
    running: Mutex<Vec<Agent>>,
    contexts: Vec<Context>,
    program: PathBuf,
    directory: TempDir,
}

struct Agent(Child);

impl Agents {
    /// Starts `demo1` and `demo2`, and waits until they answer.
    pub(super) fn start(context: &Context) -> Result<Self, Error> {
        let program = find_program()?;
        let directory = tempfile::Builder::new().prefix("imgd-demo-").tempdir();
        let directory = directory.map_err(|error| Error::new(Exit::Failed, "cannot make a temporary directory").because(error))?;
        let mut agents = Self { running: Mutex::new(vec![]), contexts: vec![], program, directory };
        for name in ["demo1", "demo2"] {
            agents.start_one(context, name)?;
        }
        Ok(agents)
    }

    /// For commands to the first or the second agent.
    pub(super) fn context(&self, agent: usize) -> &Context {
        &self.contexts[agent]
    }

    /// For files of the demo; removed with everything else.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The `imgd` that runs.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Ends both, as systemd would.
    pub(super) fn stop(&self) -> Result<(), Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().for_each(Agent::ask_to_stop);
        let clean = running.drain(..).all(|agent| agent.wait());
        if clean { Ok(()) } else { Err(Error::new(Exit::Failed, "an agent did not stop when it was asked to")) }
    }

    fn start_one(&mut self, context: &Context, name: &str) -> Result<(), Error> {
        let path = |suffix: &str| self.directory.path().join(format!("{name}{suffix}"));
        let (socket, log, config) = (path(".sock"), path(".log"), path(".toml"));
        let cannot = |error: std::io::Error| Error::file("cannot start", &self.program, &error);
        // An empty configuration, so that the one of this host is not read.
        File::create(&config).map_err(cannot)?;
        let log_file = File::create(&log).map_err(cannot)?;
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&config).arg("--state-dir").arg(path("")).arg("--socket").arg(&socket);
        command.args(["--listen", "127.0.0.1:0", "--no-mdns", "--store", "layout", "--name", name]);
        command.stdin(Stdio::null()).stdout(log_file.try_clone().map_err(cannot)?).stderr(log_file);
        let mut agent = Agent(command.spawn().map_err(cannot)?);
        let answered = agent.wait_for(&socket, context);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(agent);
        if !answered {
            return Err(if context.interrupt.came() { Error::interrupted() } else { said(name, &log) });
        }
        let output = Output::new(context.output.is_json(), context.output.is_quiet());
        self.contexts.push(Context::new(socket, output, context.interrupt.clone()));
        Ok(())
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        // Whoever wanted to know whether they end well has called stop.
        let _ = self.stop();
    }
}

impl Agent {
    fn wait_for(&mut self, socket: &Path, context: &Context) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && !context.interrupt.came() {
            if UnixStream::connect(socket).is_ok() {
                return true;
            }
            if !matches!(self.0.try_wait(), Ok(None)) {
                return false;
            }
            std::thread::sleep(STEP);
        }
        false
    }

    fn ask_to_stop(&self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
    }

    /// True when it ended by itself in time.
    fn wait(mut self) -> bool {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(STEP);
        }
        let _ = self.0.kill().and_then(|()| self.0.wait());
        false
    }
}

/// The last words of an agent that did not come up.
fn said(name: &str, log: &Path) -> Error {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let words = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Error::new(Exit::Failed, format!("the agent {name} does not come up")).because(words)
}

/// Beside this program, as both are installed; else wherever the shell would find it.
fn find_program() -> Result<PathBuf, Error> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("imgd")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).map(|directory| directory.join("imgd"));
    beside.into_iter().chain(others).find(|path| path.is_file()).ok_or_else(|| {
        let error = Error::new(Exit::Failed, "cannot find imgd beside imgctl, nor in PATH");
        error.hint("install imgd, or put it into the directory of imgctl (cargo build builds both)")
    })
}
