//! A send that is under way while something happens at one of its ends.

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::engine::host::Host;

/// Nothing here takes longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// `imgctl send`, while it runs.
pub(super) struct Sending<'a> {
    from: &'a Host,
    image: String,
    child: Child,
}

/// How a send ended.
#[derive(Debug)]
pub(super) struct Ended {
    code: Option<i32>,
    events: Vec<Value>,
    log: String,
}

impl<'a> Sending<'a> {
    /// Begins to send an image to a host, so fast.
    pub(super) fn begin(from: &'a Host, image: &str, to: &str, rate: &str) -> Self {
        let mut command = from.agent.imgctl(&["--json", "send", image, to, "--limit", rate]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { from, image: image.to_owned(), child }
    }

    /// Waits until so many bytes have left the source.
    #[track_caller]
    pub(super) fn wait_for_bytes(&mut self, bytes: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let out = self.from.agent.must(&["--json", "status"]);
            let rows = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let mut running = rows.filter(|row| row["image"] == self.image.as_str() && row["state"] == "running");
            if running.any(|row| row["bytes_done"].as_u64().unwrap() >= bytes) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?} {out}{}", self.from.agent.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the transfer is in this state.
    #[track_caller]
    pub(super) fn wait_for_state(&mut self, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let out = self.from.agent.must(&["--json", "status"]);
            let mut rows = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            if rows.any(|row| row["image"] == self.image.as_str() && row["state"] == state) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?} {out}{}", self.from.agent.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    pub(super) fn end(self) -> Ended {
        let Output { status, stdout, .. } = self.child.wait_with_output().unwrap();
        let out = String::from_utf8(stdout).unwrap();
        let events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let events = events.filter(|event| event["event"] != "progress").collect();
        Ended { code: status.code(), events, log: self.from.agent.log() }
    }
}

impl Ended {
    /// It succeeded; its `done`.
    #[track_caller]
    pub(super) fn done(self) -> Value {
        let done = self.events.iter().find(|event| event["event"] == "done");
        done.unwrap_or_else(|| panic!("{:?} {:#?}\n{}", self.code, self.events, self.log)).clone()
    }

    /// Its `done`, or, where it failed, an error that names this.
    #[track_caller]
    pub(super) fn result(self, names: &str) -> Result<Value, String> {
        if self.code == Some(0) { Ok(self.done()) } else { Err(self.failed(1, names)) }
    }

    /// It failed with this code, and its error names this; all of the error.
    #[track_caller]
    pub(super) fn failed(self, code: i32, names: &str) -> String {
        let failed = self.events.iter().find(|event| event["event"] == "failed");
        let failed = failed.unwrap_or_else(|| panic!("{:?} {:#?}\n{}", self.code, self.events, self.log));
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains(names), "{names} is not named: {failed}");
        assert_eq!((self.code, failed["exit_code"].as_i64()), (Some(code), Some(code.into())), "{failed}");
        assert!(failed["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{failed}");
        error.to_owned()
    }
}
