//! `imgctl fleet invite`

use proto::control::{Event, Fleet, Request};
use proto::text::escape;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::format::{count, now_unix_s, valid_s};
use crate::value;

/// Print a token with which another host joins
///
/// On this host, which holds the key of the fleet. With -q only the token is printed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many hosts may use the token
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// For how long: 24h, 30m, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = value::duration_s)]
    valid: u64,
    /// Only for a host of this name
    #[arg(long = "for", value_name = "NAME")]
    for_name: Option<String>,
    /// The new host takes the place of this member, which was reinstalled
    #[arg(long, value_name = "NAME", conflicts_with = "for_name")]
    replace: Option<String>,
}

/// Prints the token, and what to do with it.
pub(super) fn run(context: &Context, args: Args) -> super::super::Result {
    let request = Fleet::Invite { uses: args.uses, valid_s: args.valid, for_name: args.for_name, replace: args.replace };
    context.each(&Request::Fleet(request), |event| {
        if let Event::Invited { token, expires_unix_s, uses } = event {
            context.output.object(&json!({"event": "invited", "token": token, "expires_unix_s": expires_unix_s, "uses": uses}));
            if context.output.is_quiet() {
                context.output.answer(&escape(&token));
            }
            lines(&token, expires_unix_s.saturating_sub(now_unix_s()), uses).iter().for_each(|line| context.output.line(line));
        }
    })?;
    Ok(Exit::Done)
}

fn lines(token: &str, left_s: u64, uses: u32) -> Vec<String> {
    // The clock has moved on since the agent wrote down when it ends.
    let left = valid_s(left_s.next_multiple_of(60));
    vec![
        "On the host that shall join, run".to_owned(),
        String::new(),
        "  imgctl fleet join".to_owned(),
        String::new(),
        "and paste this token when it asks:".to_owned(),
        String::new(),
        format!("  {}", escape(token)),
        String::new(),
        format!("It is good for {} and {left}. Whoever has it can join: treat it like a password.", count(u64::from(uses), "host")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stands_alone() {
        let lines = lines("imgj1-a-b", 86_399, 1);
        assert!(lines.contains(&"  imgj1-a-b".to_owned()) && lines.contains(&"  imgctl fleet join".to_owned()));
        assert!(lines[8].starts_with("It is good for 1 host and 24 h."), "{}", lines[8]);
    }
}
