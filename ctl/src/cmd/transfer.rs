//! What `send` and `pull` have in common: events become lines, bars or objects, and an exit code.

use std::time::Instant;

use proto::control::{Event, Request};

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
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
    let mut bars = context.output.has_bars().then(bars);
    report.terminal = bars.is_some();
    let result = context.each(request, |event| {
        let now_ms = started.elapsed().as_millis() as u64;
        show(context, &mut report, bars.as_mut(), &event, now_ms);
    });
    drop(bars);
    result?;
    report.closing(context.output.columns()).iter().for_each(|line| context.output.line(line));
    Ok(report)
}

fn show(context: &Context, report: &mut Report, bars: Option<&mut Bars>, event: &Event, now_ms: u64) {
    if let Some(object) = json::object(event).filter(|_| !context.output.is_quiet() || json::is_result(event)) {
        context.output.object(&object);
    }
    let lines = report.event(event, now_ms);
    let failure = report.failure(event).filter(|_| !context.output.is_json());
    let print = || {
        lines.iter().for_each(|line| context.output.line(line));
        failure.iter().for_each(|error| context.output.failure(error));
    };
    match bars {
        Some(bars) => {
            bars.event(event);
            if !lines.is_empty() || failure.is_some() {
                bars.suspend(print);
            }
        }
        None => print(),
    }
}
