//! Recorded events, and every word that is made of them.

#![allow(clippy::unwrap_used)]

use proto::control::{Drawn, Failure, PlannedLayer, Source};
use serde_json::json;

use super::*;

const MB: u64 = 1_000_000;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

pub(super) fn planned(host: &str) -> Event {
    let layer = |name: &str, size_bytes, present_bytes| PlannedLayer { digest: digest(name), size_bytes, present_bytes };
    let layers = vec![layer("base", 146 * MB, 146 * MB), layer("app", 38 * MB, 0), layer("version", 3 * MB, 0)];
    Event::Planned(Planned {
        host: host.to_owned(),
        image: "demo:nautilus".to_owned(),
        layers,
        send_bytes: 41 * MB,
        present_bytes: 146 * MB,
    })
}

pub(super) fn done(host: &str) -> Done {
    Done {
        host: host.to_owned(),
        image: "demo:nautilus".to_owned(),
        image_id: digest("image"),
        source_image_id: digest("image"),
        config_digest: digest("config"),
        sent_bytes: 41 * MB,
        sources: vec![],
        wire_bytes: 41 * MB + 1000,
        present_bytes: 146 * MB,
        layers_sent: 2,
        layers_total: 3,
        elapsed_ms: 412,
        replaced: None,
        dry_run: false,
    }
}

pub(super) fn failed(host: &str) -> Event {
    let causes = vec![format!("cannot send demo:nautilus to {host}"), "no answer\u{1b}".to_owned()];
    let failure = Failure { kind: FailureKind::HostUnreachable(host.to_owned()), causes };
    Event::HostFailed { host: host.to_owned(), image: "demo:nautilus".to_owned(), failure }
}

pub(super) fn skipped(host: &str) -> Event {
    let failure = Failure { kind: FailureKind::Skipped("web01".to_owned()), causes: vec!["web01 failed".to_owned()] };
    Event::HostFailed { host: host.to_owned(), image: "demo:nautilus".to_owned(), failure }
}

fn summary(done: u64, failed: u64) -> Event {
    Event::Summary(Summary { total: done + failed, done, failed, egress_bytes: 41 * MB, elapsed_ms: 900 })
}

fn said(report: &mut Report, events: &[Event]) -> String {
    let mut lines: Vec<String> = events.iter().flat_map(|event| report.event(event, 0)).collect();
    lines.extend(report.closing(None));
    lines.join("\n")
}

#[test]
fn one_host() {
    let progress = |name: &str, verified_bytes| {
        Event::Progress(Progress { host: "stapp03".to_owned(), image: "demo:nautilus".to_owned(), digest: digest(name), verified_bytes })
    };
    let waiting = Event::Waiting { host: "stapp03".to_owned(), reason: "timed out".to_owned() };
    let done = Done { replaced: Some(digest("old")), ..done("stapp03") };
    let events = [
        Event::Accepted { id: 1 },
        planned("stapp03"),
        progress("app", 20 * MB),
        waiting,
        planned("stapp03"),
        progress("app", 38 * MB),
        Event::Done(done),
        summary(1, 0),
    ];
    let mut report = Report::new(Direction::Send, true);
    let (base, app, version) = (digest("base").short(), digest("app").short(), digest("version").short());
    let (image, old) = (digest("image").short(), digest("old").short());
    let expected = format!(
        "demo:nautilus → stapp03 · 2 of 3 layers to send, 41.0 MB of 187 MB
  {base}  already exists
stapp03: waiting for it (timed out)
  {app}  sent  38.0 MB
  {version}  sent  3.00 MB
✔ stapp03  demo:nautilus  sha256:{image}  same image ID as here, replaced sha256:{old}
sent 41.0 MB in 0.9 s, 146 MB were already there"
    );
    assert_eq!(said(&mut report, &events), expected);
    assert!(report.error().is_none());
}

#[test]
fn nothing_to_send_and_another_image_id() {
    let plan = Planned { host: "b".to_owned(), image: "demo:1".to_owned(), layers: vec![], send_bytes: 0, present_bytes: 187 * MB };
    let done = Done { sent_bytes: 0, present_bytes: 187 * MB, image_id: digest("other"), ..done("b") };
    let mut report = Report::new(Direction::Pull, true);
    let (config, other) = (digest("config").short(), digest("other").short());
    let expected = format!(
        "demo:1 ← b · nothing to fetch, all of 187 MB is here
✔ here  demo:nautilus  config sha256:{config} as on b, image ID here is sha256:{other}
fetched nothing in 0.4 s, 187 MB were already here"
    );
    assert_eq!(said(&mut report, &[Event::Planned(plan), Event::Done(done)]), expected);
    assert_eq!(report.image_id(), Some(digest("other")));
}

#[test]
fn dry_runs_have_exact_bytes() {
    let mut report = Report::new(Direction::Send, true);
    let done = Done { dry_run: true, sent_bytes: 0, ..done("b") };
    let text = said(&mut report, &[planned("b"), Event::Done(done)]);
    assert!(text.ends_with("\ndry run: 41000000 bytes would be sent, 146000000 are there already"), "{text}");
    assert!(!text.contains('✔'), "{text}");
}

#[test]
fn several_hosts_are_a_table_and_the_failed_ones_can_be_pasted() {
    let mut report = Report::new(Direction::Send, false);
    report.retry = "imgctl send demo:nautilus".to_owned();
    report.terminal = true;
    let accepted = Event::Accepted { id: 12 };
    let text =
        said(&mut report, &[accepted, planned("web02"), failed("web01"), failed("web03"), Event::Done(done("web02")), summary(1, 2)]);
    let image = digest("image").short();
    let expected = format!(
        "HOST   IMAGE          SENT     LAYERS  ALREADY THERE  TIME   RESULT
web01  demo:nautilus  failed (exit code 4): no answer\\u{{1b}}
web02  demo:nautilus  41.0 MB  2 of 3  146 MB         0.4 s  sha256:{image}  same image ID as here
web03  demo:nautilus  failed (exit code 4): no answer\\u{{1b}}
sent 41.0 MB to 1 host in 0.9 s, 146 MB were already there"
    );
    assert_eq!(text, expected);
    let failure = report.failure(&failed("web01")).unwrap();
    assert_eq!((failure.to_string().as_str(), failure.hint), ("cannot send demo:nautilus to web01: no answer\\u{1b}", None));
    let error = report.error().unwrap();
    assert_eq!((error.exit, error.to_string().as_str()), (Exit::SomeFailed, "2 of 3 failed: web01 web03"));
    let hint = "once that is mended: imgctl send --retry-failed 12, or imgctl send demo:nautilus web01 web03";
    assert_eq!(error.hint.unwrap(), hint);
    // Nothing was sent: nothing is sent again by a pasted number.
    report.dry_run = true;
    assert_eq!(report.error().unwrap().hint.unwrap(), "once that is mended: imgctl send demo:nautilus web01 web03");
}

#[test]
fn a_single_failure_keeps_its_code() {
    let mut report = Report::new(Direction::Send, true);
    assert_eq!(said(&mut report, &[Event::Accepted { id: 1 }, failed("stapp03"), summary(0, 1)]), "");
    let error = report.error().unwrap();
    assert_eq!((error.exit, error.hint.unwrap().contains("doctor stapp03")), (Exit::Host, true));
    assert!(report.failure(&failed("stapp03")).is_none());
}

#[test]
fn failed_hosts_are_few_words() {
    let mut report = Report::new(Direction::Send, false);
    let events: Vec<Event> = ["web17", "web04", "web03", "web05"].map(failed).into();
    said(&mut report, &[&[Event::Accepted { id: 12 }][..], &events[..], &[Event::Done(done("web01"))][..]].concat());
    let error = report.error().unwrap();
    assert_eq!(error.to_string(), "4 of 5 failed: 'web[03-05]' web17");
    assert_eq!(error.hint.unwrap(), "once that is mended: imgctl send --retry-failed 12");
}

#[test]
fn without_a_terminal_there_is_a_line_for_what_happens_and_none_for_progress() {
    let hosts: Vec<String> = (0..40).map(|number| format!("web{number:02}")).collect();
    let mut report = Report::new(Direction::Send, false);
    let mut lines = vec![];
    lines.extend(hosts.iter().flat_map(|host| report.event(&planned(host), 0)));
    assert_eq!((lines.len(), lines[7].as_str()), (40, "demo:nautilus → web07 · 2 of 3 layers to send, 41.0 MB of 187 MB"));
    for second in 1..=25 {
        for host in &hosts {
            let (host, image) = (host.clone(), "demo:nautilus".to_owned());
            let progress = Progress { host, image, digest: digest("app"), verified_bytes: second * MB };
            lines.extend(report.event(&Event::Progress(progress), second * 1000));
        }
    }
    // One every ten seconds.
    assert_eq!(lines.len(), 42, "{lines:#?}");
    assert!(lines[40].starts_with("0 of 40 hosts have demo:nautilus, ") && lines[40].contains(" of 1.64 GB, 40.0 MB/s, "), "{}", lines[40]);
    let source = |host: &str, received_bytes| Source { host: host.to_owned(), received_bytes };
    let served = Done { sources: vec![source("web06", 38 * MB), source("stapp01", 3 * MB)], elapsed_ms: 12_345, ..done("web07") };
    let id = digest("image").short();
    let expected = format!("✔ web07  demo:nautilus  sha256:{id}  12.3 s  from web06, stapp01 7 %");
    assert_eq!(report.event(&Event::Done(served), 26_000), [expected]);
    let waiting = Event::Waiting { host: "web08".to_owned(), reason: "timed out".to_owned() };
    assert_eq!(report.event(&waiting, 26_000), ["web08: waiting for it (timed out)"]);
}

#[test]
fn on_a_terminal_many_hosts_are_drawn_and_not_told() {
    let mut report = Report::new(Direction::Send, false);
    report.terminal = true;
    let waiting = Event::Waiting { host: "a".to_owned(), reason: "timed out".to_owned() };
    let events = [planned("a"), waiting, Event::Done(done("a")), failed("b"), skipped("c")];
    assert_eq!(events.iter().flat_map(|event| report.event(event, 20_000)).count(), 0);
    assert!(report.failure(&events[3]).is_some() && report.failure(&events[4]).is_none());
    report.terminal = false;
    assert!(report.failure(&events[4]).is_some());
}

#[test]
fn a_single_failure_is_said_once() {
    let queued = |host: &str| Event::Queued { host: host.to_owned(), image: "demo:nautilus".to_owned() };
    let mut report = Report::new(Direction::Send, false);
    said(&mut report, &[queued("b"), failed("b")]);
    assert!(report.failure(&failed("b")).is_none() && report.error().unwrap().exit == Exit::Host);
    let mut report = Report::new(Direction::Send, true);
    report.several_images = true;
    said(&mut report, &[failed("b"), failed("b")]);
    assert!(report.failure(&failed("b")).is_some());
    assert_eq!(report.error().unwrap().to_string(), "2 of 2 failed: b");
}

#[test]
fn detached() {
    let mut report = Report::new(Direction::Send, true);
    report.detached = true;
    let text = said(&mut report, &[Event::Accepted { id: 7 }]);
    assert_eq!(text, "under way as 7: imgctl status --watch 7 shows how it goes, imgctl cancel 7 stops it");
}

#[test]
fn objects() {
    let done = Done { replaced: Some(digest("old")), ..done("stapp03") };
    let object = json::object(&Event::Done(done)).unwrap();
    let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "event",
        "host",
        "image",
        "image_id",
        "source_image_id",
        "config_digest",
        "bytes_sent",
        "wire_bytes",
        "bytes_present",
        "layers_sent",
        "layers_total",
        "elapsed_ms",
        "replaced",
    ] {
        assert!(keys.contains(&key), "{key}");
    }
    assert!(object["image_id"].as_str().unwrap().starts_with("sha256:") && !keys.contains(&"dry_run"));
    let object = json::object(&failed("b")).unwrap();
    assert_eq!((object["event"].as_str(), object["exit_code"].as_u64(), object["host"].as_str()), (Some("failed"), Some(4), Some("b")));
    assert_eq!(
        json::object(&summary(8, 0)).unwrap(),
        json!({"event": "summary", "hosts": 8, "done": 8, "failed": 0, "egress_bytes": 41 * MB, "elapsed_ms": 900})
    );
    assert_eq!(json::object(&planned("b")).unwrap()["layers"].as_array().unwrap().len(), 3);
    assert!(json::object(&Event::End).is_none());
}

#[test]
fn sources_as_objects() {
    let sources = vec![Source { host: "web06".to_owned(), received_bytes: 38 * MB }, Source { host: "a".to_owned(), received_bytes: 1 }];
    let drawn = Drawn { host: "web07".to_owned(), image: "demo:1".to_owned(), sources: sources.clone() };
    assert_eq!(
        json::object(&Event::Drawn(drawn)).unwrap(),
        json!({"event": "drawn", "host": "web07", "image": "demo:1", "sources": [{"host": "web06", "bytes": 38 * MB}, {"host": "a", "bytes": 1}]})
    );
    let object = json::object(&Event::Done(Done { sources, ..done("web07") })).unwrap();
    assert_eq!(object["sources"], json!({"web06": 38 * MB, "a": 1}));
    assert!(json::object(&Event::Done(done("web07"))).unwrap().get("sources").is_none());
    let queued = Event::Queued { host: "b".to_owned(), image: "demo:1".to_owned() };
    assert_eq!(json::object(&queued).unwrap(), json!({"event": "queued", "host": "b", "image": "demo:1"}));
}
