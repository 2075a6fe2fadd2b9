//! `imgctl doctor [HOST]`

use proto::control::{Check, Event, Request, Verdict};
use proto::text::escape;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;

/// Say what is wrong here, or between here and a host, and what to do about it
///
/// The exit code is 1 when something does not work.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The other host
    #[arg(value_name = "HOST")]
    host: Option<String>,
}

/// Shows every check.
pub(crate) fn run(context: &Context, args: Args) -> super::Result {
    let (mut wrong, mut warnings) = (0, 0);
    context.each(&Request::Doctor(args.host), |event| {
        if let Event::Check(check) = event {
            wrong += u64::from(check.verdict == Verdict::Wrong);
            warnings += u64::from(check.verdict == Verdict::Warning);
            show(context, &check);
        }
    })?;
    context.output.line(&match (wrong, warnings) {
        (0, 0) => "nothing is wrong".to_owned(),
        (wrong, warnings) => format!("{wrong} wrong, {}", crate::format::count(warnings, "warning")),
    });
    Ok(if wrong == 0 { Exit::Done } else { Exit::Failed })
}

/// Shows a check: quietly when it is well.
pub(super) fn show(context: &Context, check: &Check) {
    context.output.object(&json!({
        "event": "check", "verdict": word(check.verdict), "subject": check.subject, "finding": check.finding, "remedy": check.remedy,
    }));
    lines(check).iter().for_each(|line| if check.verdict == Verdict::Ok { context.output.line(line) } else { context.output.answer(line) });
}

fn lines(check: &Check) -> Vec<String> {
    let sign = match check.verdict {
        Verdict::Ok => "✔",
        Verdict::Warning => "!",
        Verdict::Wrong => "✘",
    };
    let mut lines = vec![format!("{sign} {:<7}  {}: {}", word(check.verdict), escape(&check.subject), escape(&check.finding))];
    lines.extend(check.remedy.iter().map(|remedy| format!("           → {}", escape(remedy))));
    lines
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Wrong => "wrong",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_has_its_own_line() {
        let check = Check {
            verdict: Verdict::Wrong,
            subject: "UDP 7117".to_owned(),
            finding: "in use".to_owned(),
            remedy: Some("ss -ulpn".to_owned()),
        };
        assert_eq!(lines(&check), ["✘ wrong    UDP 7117: in use", "           → ss -ulpn"]);
    }
}
