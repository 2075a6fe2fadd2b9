//! `imgctl fleet ls`

use proto::control::{Event, Fleet, MemberRow, Request};
use proto::text::escape;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;

/// Lists the members.
pub(super) fn run(context: &Context) -> super::super::Result {
    let mut rows = vec![["NAME", "ROLE", "GROUPS", "ID"].map(str::to_owned).to_vec()];
    context.each(&Request::Fleet(Fleet::List), |event| {
        if let Event::Member(member) = event {
            context.output.object(&json!({
                "event": "member", "name": member.name, "id": member.id.to_string(), "signer": member.signer, "here": member.here,
                "groups": member.groups,
            }));
            rows.push(row(&member));
        }
    })?;
    context.output.table(&rows);
    Ok(Exit::Done)
}

fn row(member: &MemberRow) -> Vec<String> {
    let role = match (member.signer, member.here) {
        (true, true) => "holds the key, this host",
        (true, false) => "holds the key",
        (false, true) => "this host",
        (false, false) => "-",
    };
    let groups: Vec<String> = member.groups.iter().map(|group| format!("@{}", escape(group))).collect();
    let groups = if groups.is_empty() { "-".to_owned() } else { groups.join(" ") };
    vec![escape(&member.name), role.to_owned(), groups, member.id.to_string()]
}
