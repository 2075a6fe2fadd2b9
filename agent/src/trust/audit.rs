//! The audit trail: one line per thing done or refused, under the target `audit`: who, what, from what to what, by which rule.
//!
//! Invitations, joins, renewals, removals and what else changes the fleet write their line themselves; pushes, pulls, tag moves
//! and refused connections are written by whoever carries them out.

use proto::text::escape;
use proto::{Digest, HostId, Reference};

use proto::join::JoinRefusal;

/// An image has come in.
pub fn push_accepted(peer: &str, image: &Reference, old: Option<&Digest>, new: &Digest, rule: &str) {
    line("push accepted", peer, &image.to_string(), &or_none(old), &new.to_string(), rule);
}

/// An image goes out to a host that asked for it.
pub fn pull_accepted(peer: &str, image: &Reference, digest: &Digest, rule: &str) {
    line("pull accepted", peer, &image.to_string(), "", &digest.to_string(), rule);
}

/// An image goes out to others because a host asked for that.
pub fn relay_accepted(peer: &str, what: &str, digest: &Digest, rule: &str) {
    line("relay accepted", peer, what, "", &digest.to_string(), rule);
}

/// A name shows another image now.
pub fn tag_moved(who: &str, name: &Reference, old: &Digest, new: &Digest, rule: &str) {
    line("tag moved", who, &name.to_string(), &old.to_string(), &new.to_string(), rule);
}

/// A name was taken away.
pub fn image_removed(who: &str, name: &str, old: Option<&Digest>) {
    line("image removed", who, name, &or_none(old), "", "");
}

/// Something that a peer wanted was not done; `rule` says why.
pub fn refused(peer: &str, what: &str, rule: &str) {
    line("refused", peer, what, "", "", rule);
}

/// A connection was turned away; `who` is all that is known of the other side.
pub fn connection_refused(who: &str, reason: &str) {
    line("connection refused", who, "connection", "", "", reason);
}

/// A local program has made a request over the control socket.
pub fn requested(user: u32, process: i32, what: &str) {
    line("requested", &format!("uid {user}, pid {process}"), what, "", "", "");
}

/// A fleet was made.
pub fn fleet_made(who: &str, fleet: &HostId) {
    line("fleet made", who, "fleet", "", &fleet.to_string(), "");
}

/// A token was made.
pub fn invited(who: &str, name: &str, uses: u32) {
    line("invited", who, name, "", "", &format!("{uses} uses"));
}

/// A host has become a member, in the place of another one perhaps.
pub fn joined(name: &str, id: &HostId, replaced: Option<&HostId>) {
    line("joined", name, "membership", &replaced.map_or_else(String::new, HostId::to_string), &id.to_string(), "token");
}

/// A host was not let in.
pub fn join_refused(id: &HostId, name: &str, reason: &JoinRefusal) {
    line("join refused", &id.to_string(), name, "", "", &reason.to_string());
}

/// A member has got a new certificate.
pub fn renewed(name: &str, id: &HostId) {
    line("renewed", name, "certificate", "", &id.to_string(), "member");
}

/// A member was removed.
pub fn removed(who: &str, name: &str, id: &HostId) {
    line("removed", who, name, &id.to_string(), "", "");
}

/// Hosts were put into a group, or taken out.
pub fn group_changed(who: &str, group: &str, hosts: &[String], add: bool) {
    let (old, new) = if add { (String::new(), hosts.join(" ")) } else { (hosts.join(" "), String::new()) };
    line("group changed", who, group, &old, &new, "");
}

/// The lists of two signers were made one.
pub fn list_merged(who: &str, old_epoch: u64, new_epoch: u64) {
    line("member lists merged", who, "member list", &old_epoch.to_string(), &new_epoch.to_string(), "");
}

/// The CA's key has left this host.
pub fn backed_up(who: &str, fleet: &HostId) {
    line("backed up", who, "fleet", "", &fleet.to_string(), "");
}

/// This host has become a signer.
pub fn restored(who: &str, fleet: &HostId) {
    line("restored", who, "fleet", "", &fleet.to_string(), "");
}

/// Every field may come from somebody else: none of them can end the line or begin another one.
fn line(event: &'static str, who: &str, what: &str, old: &str, new: &str, rule: &str) {
    let (who, what, old, new, rule) = (escape(who), escape(what), escape(old), escape(new), escape(rule));
    tracing::info!(target: "audit", who, what, old, new, rule, "{event}");
}

fn or_none(digest: Option<&Digest>) -> String {
    digest.map_or_else(String::new, Digest::to_string)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_stays_a_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            super::refused("stapp02", "push of x\nINFO audit: joined", "push rule 1");
        });
        let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count(), 1, "{written}");
        assert!(written.contains("audit: refused who=\"stapp02\""), "{written}");
        assert!(written.contains("rule=\"push rule 1\""), "{written}");
    }
}
