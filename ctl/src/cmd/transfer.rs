//! What `send` and `pull` have in common: events become lines, bars or objects, and an exit code.

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
    if let (Some(id), true) = (report.image_id(), context.output.is_quiet() && report.is_pull()) {
        context.output.answer(&id.to_string());
    }
    Ok(Exit::Done)
}

/// The same, for who wants to know what came of it.
pub(crate) fn carry_out(context: &Context, request: &Request, mut report: Report) -> Result<Report, Error> {
    let mut bars = context.output.has_bars().then(|| Bars::new(report.shows_layers()));
    report.terminal = bars.is_some();
    let result = context.each(request, |event| show(context, &mut report, bars.as_mut(), &event));
    drop(bars);
    result?;
    report.closing().iter().for_each(|line| context.output.line(line));
    Ok(report)
}

fn show(context: &Context, report: &mut Report, bars: Option<&mut Bars>, event: &Event) {
    if let Some(object) = json::object(event).filter(|_| !context.output.is_quiet() || json::is_result(event)) {
        context.output.object(&object);
    }
    let lines = report.event(event);
    let print = || lines.iter().for_each(|line| context.output.line(line));
    match bars {
        Some(bars) => {
            bars.event(event);
            if !lines.is_empty() {
                bars.suspend(print);
            }
        }
        None => print(),
    }
}
