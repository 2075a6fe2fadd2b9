//! How many lines a minute are written, and what was left out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For how long lines are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Windows that are open at once. Members come from a signed list, and strangers share one each event: this many are not reached by an honest fleet.
const WINDOWS: usize = 1024;

/// Lines a minute of one event of one originator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Budget {
    /// Something has changed: every line counts.
    Change,
    /// A member has brought an image. It bounds what that member can do with a name that it moves back and forth.
    Push,
    /// Something was asked for, or refused.
    Request,
    /// Something was read.
    Read,
}

impl Budget {
    /// Lines in a [`WINDOW`].
    pub(super) fn lines(self) -> u32 {
        match self {
            Self::Change => 1000,
            Self::Push => 300,
            Self::Request => 10,
            Self::Read => 1,
        }
    }
}

/// Lines that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct More {
    pub(super) event: &'static str,
    pub(super) who: String,
    pub(super) count: u64,
}

/// What may be written now.
#[derive(Debug, Default)]
pub(super) struct Limits {
    windows: HashMap<(&'static str, String), Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    left: u32,
    /// Lines that were left out since it began.
    more: u64,
}

impl Limits {
    /// Whether one more line of this event may be written for `who`; puts what was left out before into `due`.
    pub(super) fn admit(&mut self, event: &'static str, who: &str, budget: Budget, now: Instant, due: &mut Vec<More>) -> bool {
        let key = (event, who.to_owned());
        if !self.windows.contains_key(&key) {
            self.make_room(due);
        }
        let lines = budget.lines();
        let window = self.windows.entry(key).or_insert(Window { began: now, lines, left: lines, more: 0 });
        if now.duration_since(window.began) >= WINDOW {
            due.extend(window.renew(now).map(|count| More { event, who: who.to_owned(), count }));
        }
        match window.left.checked_sub(1) {
            Some(left) => window.left = left,
            None => window.more += 1,
        }
        window.more == 0
    }

    /// What was left out in minutes that are over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<More> {
        let mut due = vec![];
        self.windows.retain(|(event, who), window| {
            let is_over = now.duration_since(window.began) >= WINDOW;
            let count = if is_over { window.renew(now) } else { None };
            due.extend(count.map(|count| More { event, who: who.clone(), count }));
            !is_over || count.is_some()
        });
        due
    }

    /// What was left out until now.
    pub(super) fn all(&mut self) -> Vec<More> {
        let left_out = self.windows.drain().filter(|(_, window)| window.more > 0);
        left_out.map(|((event, who), window)| More { event, who, count: window.more }).collect()
    }

    /// The oldest window goes where there are too many.
    fn make_room(&mut self, due: &mut Vec<More>) {
        if self.windows.len() < WINDOWS {
            return;
        }
        let oldest = self.windows.iter().min_by_key(|(_, window)| window.began).map(|(key, _)| key.clone());
        if let Some((key, window)) = oldest.and_then(|key| self.windows.remove_entry(&key))
            && window.more > 0
        {
            due.push(More { event: key.0, who: key.1, count: window.more });
        }
    }
}

impl Window {
    /// The next minute begins. The line that says how many were left out in the last one is among its own: a budget of one line is never two.
    fn renew(&mut self, now: Instant) -> Option<u64> {
        let more = std::mem::take(&mut self.more);
        self.began = now;
        self.left = if more > 0 { self.lines.saturating_sub(1) } else { self.lines };
        (more > 0).then_some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "refused";

    /// Lines written of so many tries at one moment, and what was said to have been left out before.
    fn tries(limits: &mut Limits, who: &str, count: usize, now: Instant) -> (usize, u64) {
        let mut due = vec![];
        let written = (0..count).filter(|_| limits.admit(EVENT, who, Budget::Request, now, &mut due)).count();
        (written, due.iter().map(|more| more.count).sum())
    }

    #[test]
    fn what_is_left_out_is_counted_and_said_with_the_next_line() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        assert_eq!(tries(&mut limits, "a", 47, start), (10, 0));
        assert_eq!(tries(&mut limits, "b", 3, start), (3, 0), "others have their own");
        assert_eq!(tries(&mut limits, "a", 1, start + WINDOW), (1, 37));
        assert_eq!(limits.all(), []);
    }

    #[test]
    fn what_is_left_out_is_said_when_the_minute_is_over() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        tries(&mut limits, "a", 12, start);
        tries(&mut limits, "b", 2, start);
        assert_eq!(limits.due(start + WINDOW / 2), []);
        assert_eq!(limits.due(start + WINDOW), [More { event: EVENT, who: "a".to_owned(), count: 2 }]);
        assert_eq!(limits.due(start + WINDOW * 2), []);
        assert!(limits.windows.is_empty(), "nothing is kept of who is quiet");
    }

    #[test]
    fn a_budget_of_one_line_is_one_line_a_minute() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let (mut lines, mut left_out) = (0, 0);
        for second in 0..600 {
            let mut due = vec![];
            lines += usize::from(limits.admit("read", "a", Budget::Read, start + Duration::from_secs(second), &mut due));
            lines += due.len();
            left_out += due.iter().map(|more| more.count).sum::<u64>();
        }
        assert_eq!((lines, left_out), (10, 539));
    }

    #[test]
    fn the_oldest_goes_where_there_are_too_many() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        tries(&mut limits, "first", 11, start);
        let mut left_out = 0;
        for i in 0..WINDOWS * 2 {
            left_out += tries(&mut limits, &i.to_string(), 1, start + Duration::from_millis(1)).1;
        }
        assert_eq!((limits.windows.len(), left_out), (WINDOWS, 1));
    }
}
