//! Which members know of a change of the fleet.

use proto::control::Event;
use proto::text::escape;

use crate::context::Context;
use crate::format::count;

/// Names of those that have taken the new member list over, and of those that were not reached in time.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) reached: Vec<String>,
    pub(super) not_reached: Vec<String>,
}

impl Told {
    /// Takes note of one of them.
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Told { host, reached: true } => self.reached.push(host),
            Event::Told { host, reached: false } => self.not_reached.push(host),
            _ => {}
        }
    }

    /// Nobody else was to be told.
    pub(super) fn is_empty(&self) -> bool {
        self.reached.is_empty() && self.not_reached.is_empty()
    }

    /// Says it.
    pub(super) fn print(&self, context: &Context) {
        if !self.reached.is_empty() {
            context.output.line(&format!("{} {} of it", count(self.reached.len() as u64, "other member"), know(self.reached.len())));
        }
        if !self.not_reached.is_empty() {
            let names: Vec<String> = self.not_reached.iter().map(|name| escape(name)).collect();
            context.output.line(&format!("not reached: {}; told as soon as they can be reached", names.join(", ")));
        }
    }
}

fn know(members: usize) -> &'static str {
    if members == 1 { "knows" } else { "know" }
}
