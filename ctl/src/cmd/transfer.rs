//! What `send` and `pull` have in common: events become lines, bars or objects, and an exit code.

use std::time::{Duration, Instant};

use proto::control::{Event, Request};

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Bars;
use crate::report::{Report, json};

/// Carries the request out, and shows how it goes.
pub(crate) fn run(context: &Context, request: &Request, report: Report) -> super::Result {
    let report = carry_out(context, request, report)?;
    if let Some(error) = report.error() {
        if !context.output.is_json() {
            context.output.failure(&error);
        }
        return Ok(error.exit);
    }
    if let (Some(id), true) = (report.id(), context.output.is_quiet() && report.detached) {
        context.output.answer(&id.to_string());
    }
    if let (Some(id), true) = (report.image_id(), context.output.is_quiet() && report.is_pull()) {
        context.output.answer(&id.to_string());
    }
    Ok(Exit::Done)
}

/// The same, for who wants to know what came of it.
pub(crate) fn carry_out(context: &Context, request: &Request, mut report: Report) -> Result<Report, Error> {
    let started = Instant::now();
    let bars = || if report.shows_layers() { Bars::layers() } else { Bars::hosts(report.shared_fleet(), started) };
    let bars = context.output.has_bars().then(bars);
    report.terminal = bars.is_some();
    let mut screen = Screen { output: &context.output, bars, waiting: vec![], printed: Duration::ZERO };
    let result = context.each(request, |event| screen.show(&mut report, &event, started.elapsed()));
    drop(screen);
    result?;
    report.closing(context.output.columns()).iter().for_each(|line| context.output.line(line));
    Ok(report)
}

/// Where events are shown.
struct Screen<'a> {
    output: &'a Output,
    bars: Option<Bars>,
    /// To be printed when the bars may be drawn again.
    waiting: Vec<Words>,
    /// When something was printed last.
    printed: Duration,
}

/// What is printed about an event.
enum Words {
    Line(String),
    Failure(Error),
}

impl Screen<'_> {
    fn show(&mut self, report: &mut Report, event: &Event, now: Duration) {
        if let Some(object) = json::object(event).filter(|_| !self.output.is_quiet() || json::is_result(event)) {
            self.output.object(&object);
        }
        self.waiting.extend(report.event(event, now.as_millis() as u64).into_iter().map(Words::Line));
        let failure = report.failure(event).filter(|_| !self.output.is_json());
        self.waiting.extend(failure.map(Words::Failure));
        if let Some(bars) = &mut self.bars {
            bars.event(event);
        }
        let pause = self.bars.as_ref().map_or(Duration::ZERO, Bars::pause);
        if !self.waiting.is_empty() && now.saturating_sub(self.printed) >= pause {
            self.print();
            self.printed = now;
        }
    }

    fn print(&mut self) {
        let (output, waiting) = (self.output, std::mem::take(&mut self.waiting));
        let print = || {
            waiting.iter().for_each(|words| match words {
                Words::Line(line) => output.line(line),
                Words::Failure(error) => output.failure(error),
            });
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }
}

/// What was held back is said, and the bars go.
impl Drop for Screen<'_> {
    fn drop(&mut self) {
        if !self.waiting.is_empty() {
            self.print();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Direction;

    /// How many words wait after each of these times, when one came at each of them.
    fn waiting(times_ms: &[u64], bars: Option<Bars>) -> Vec<usize> {
        let output = Output::new(false, true);
        let mut report = Report::new(Direction::Send, false);
        let mut screen = Screen { output: &output, bars, waiting: vec![], printed: Duration::ZERO };
        let show = |&at_ms: &u64| {
            screen.waiting.push(Words::Line(String::new()));
            screen.show(&mut report, &Event::Accepted { id: 1 }, Duration::from_millis(at_ms));
            screen.waiting.len()
        };
        times_ms.iter().map(show).collect()
    }

    #[test]
    fn many_words_are_printed_together_where_all_hosts_are_drawn_again() {
        let times_ms = [1000, 1010, 1020, 1100, 1300, 1301];
        let hosts = Bars::hosts(Report::new(Direction::Send, false).shared_fleet(), Instant::now());
        assert_eq!(waiting(&times_ms, Some(hosts)), [0, 1, 2, 0, 0, 1]);
        assert_eq!(waiting(&times_ms, Some(Bars::layers())), [0; 6]);
        assert_eq!(waiting(&times_ms, None), [0; 6]);
    }
}
