//! Hosts that did not answer, among others that did.

use proto::control::Failure;
use serde_json::json;

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;

/// What `ls`, `diff` and `who-has` make of them: each is named, and the exit code tells.
#[derive(Default)]
pub(crate) struct Silent(Vec<Exit>);

impl Silent {
    /// Says that `host` did not answer, and why.
    pub(crate) fn add(&mut self, context: &Context, host: String, failure: &Failure) {
        let error = Error::from(failure);
        self.0.push(error.exit);
        if context.output.is_json() {
            let (code, text) = (error.exit.code(), error.to_string());
            context.output.object(&json!({"event": "failed", "host": host, "exit_code": code, "error": text, "hint": error.hint}));
        } else {
            context.output.failure(&error.under(format!("no answer from {host}")));
        }
    }

    /// Every host answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The exit code, knowing whether anybody answered.
    pub(crate) fn exit(&self, answered: bool) -> Exit {
        match self.0[..] {
            [] => Exit::Done,
            [only] if !answered => only,
            _ => Exit::SomeFailed,
        }
    }
}
