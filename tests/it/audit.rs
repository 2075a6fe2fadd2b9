//! What is written of who has done what, and that it can be checked.

use std::path::Path;
use std::process::{Command, Output};

use proto::control::{Event, Hosts, Platforms, Pull, Request, Send};
use serde_json::Value;
use tests::fleet::{self, Client, Host, failed, send};
use tests::process::{self, Process, program};
use tests::sample::{Sample, archive_file};

fn lines(state: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(state.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines of an event: who, what, old and new.
fn of(lines: &[Value], event: &str) -> Vec<[String; 4]> {
    let fields = |line: &Value| ["who", "what", "old", "new"].map(|key| line[key].as_str().unwrap().to_owned());
    lines.iter().filter(|line| line["event"] == event).map(fields).collect()
}

fn verify(state: &Path) -> Output {
    let empty = state.join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    Command::new(program("imgd")).arg("--config").arg(&empty).arg("--state-dir").arg(state).args(["audit", "verify"]).output().unwrap()
}

async fn load(host: &Host, sample: &Sample) {
    let archive = std::fs::read(archive_file(host.path(), sample)).unwrap();
    let mut client = Client::connect(&host.socket()).await;
    client.write(&Request::Load).await;
    client.data(&archive).await;
    client.data(&[]).await;
    assert!(matches!(client.next().await, Event::Loaded { .. }));
    assert_eq!(client.next().await, Event::End);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_a_store_or_leaves_it_is_written_with_its_name_and_digests() {
    let (one, two) = (Sample::small("demo:1", 1), Sample::small("demo:1", 2));
    let ids = [&one, &two].map(|sample| sample.image_id().to_string());
    let [first, second] = &ids;
    let mut hosts = vec![Host::new("a"), Host::new("b")];
    let policy = "[[push]]\nname = \"no acme\"\nrepositories = [\"docker.io/acme/*\"]\nallow = false\n\n[[push]]\n";
    std::fs::write(hosts[1].path().join("policy.toml"), policy).unwrap();
    fleet::found(&mut hosts).await;
    let (a, b) = (&hosts[0], &hosts[1]);
    load(a, &one).await;
    load(a, &two).await;
    a.must(Request::Tag { image: "demo:1".to_owned(), name: "other:1".parse().unwrap() }).await;
    a.send("other:1", "b").await;
    a.send(&two.image_id().hex()[..12], "b").await;
    a.must(Request::Send(Send { dry_run: true, ..send("demo:1", &["b"]) })).await;
    let refused = a.must(Request::Send(Send { rename: Some("acme/x:1".parse().unwrap()), ..send("demo:1", &["b"]) })).await;
    assert_eq!(failed(&refused).len(), 1);
    let pull = Pull {
        image: "demo:1".parse().unwrap(),
        from: Some("a".to_owned()),
        platforms: Platforms::Receiver,
        rename: None,
        dry_run: false,
        limit_bytes_per_s: None,
    };
    b.must(Request::Pull(pull)).await;
    for _ in 0..20 {
        b.must(Request::List(Hosts { names: vec!["a".to_owned()], all: false, except: vec![] })).await;
    }
    a.must(Request::Remove(vec!["other:1".to_owned()])).await;

    let (demo, other) = ("docker.io/library/demo:1", "docker.io/library/other:1");
    let written = lines(a.path());
    let loaded = of(&written, "loaded");
    assert_eq!(loaded.len(), 2, "{written:#?}");
    assert!(loaded[0][0].starts_with("uid "), "{loaded:?}");
    assert_eq!(loaded[0][1..], [demo, "", first]);
    assert_eq!(loaded[1][1..], [demo, first, second]);
    assert_eq!(of(&written, "tag moved")[0][1..], [demo, first, second]);
    assert_eq!(of(&written, "tagged")[0][1..], [other, "", second]);
    assert_eq!(of(&written, "image removed")[0][1..], ["other:1", second, ""]);
    assert_eq!(of(&written, "pull accepted"), [["b", demo, "", second].map(str::to_owned)]);
    assert_eq!(of(&written, "read").len(), 1, "{written:#?}");
    assert_eq!(of(&written, "joined").len(), 1);

    let written = lines(b.path());
    let pushed = of(&written, "push accepted");
    assert_eq!(pushed, [["a", other, "", second].map(str::to_owned), ["a", second, "", second].map(str::to_owned)]);
    assert_eq!(of(&written, "dry run").len(), 1, "{written:#?}");
    let refused: Vec<&Value> = written.iter().filter(|line| line["event"] == "refused").collect();
    assert!(refused.len() == 1 && refused[0]["rule"].as_str().unwrap().contains("no acme"), "{refused:?}");
    let pulled = of(&written, "pulled");
    assert!(pulled.len() == 1 && pulled[0][0].starts_with("uid "), "{pulled:?}");
    assert_eq!(pulled[0][1..], [demo, "", second]);

    let states = [a.path().to_owned(), b.path().to_owned()];
    for host in &mut hosts {
        host.stop().await;
    }
    let read = lines(&states[0]).into_iter().filter(|line| line["event"] == "read").map(|line| line["what"].as_str().unwrap().to_owned());
    assert_eq!(read.collect::<Vec<_>>(), ["list of images", "19 more"]);
    for state in states {
        assert!(verify(&state).status.success());
    }
}

/// At a log level that shows no information, too.
#[test]
fn a_flood_of_refused_joins_is_ten_lines_and_a_count_and_a_changed_byte_is_found() {
    let mut hosts = ["a", "b"].map(Process::new);
    hosts[0].argument("--log-level").argument("warn");
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    let token = hosts[0].json(&["fleet", "invite", "--for", "somebody"], "invited")["token"].as_str().unwrap().to_owned();
    let file = hosts[1].path().join("token");
    std::fs::write(&file, token).unwrap();
    for _ in 0..40 {
        assert!(!hosts[1].run(&["fleet", "join", "--token-file", file.to_str().unwrap()]).status.success());
    }
    assert!(hosts[0].terminate().success());
    let state = hosts[0].path().join("state");
    let written = of(&lines(&state), "join refused");
    assert_eq!(written.len(), 11, "{written:#?}");
    assert_eq!(written[10][..2], ["strangers", "30 more"]);
    let log = hosts[0].log();
    assert_eq!(log.matches("join refused").count(), 11, "{log}");
    assert!(!log.contains("agent started"), "{log}");

    let whole = verify(&state);
    let said = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(whole.status.success() && said.contains(&format!("{} lines fit, from 20", lines(&state).len())), "{said}");
    let path = state.join("audit.log");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("fleet made", "fleet mAde", 1)).unwrap();
    let changed = verify(&state);
    let said = String::from_utf8_lossy(&changed.stderr).into_owned();
    assert_eq!(changed.status.code(), Some(1));
    assert!(said.contains("audit.log: line ") && said.contains("does not fit"), "{said}");
}

/// `kill -9` and a torn line.
#[test]
fn the_chain_goes_on_after_a_crash() {
    let mut hosts = ["a", "b"].map(Process::new);
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    hosts[0].kill();
    let state = hosts[0].path().join("state");
    let path = state.join("audit.log");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 20]).unwrap();
    hosts[0].start();
    process::join(&hosts[0], &hosts[1]);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"event\":\"torn line\"") && text.contains("\"event\":\"joined\""), "{text}");
    let checked = verify(&state);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
