//! What people do wrong, and what they are told: an exit code for scripts, the thing that is meant, and what helps.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tests::process::{self, Process};
use tests::sample::{Recipe, append, archive_file};

/// The command fails with this code; the error names this, and a hint stands behind a blank line.
#[track_caller]
fn fails(host: &Process, arguments: &[&str], code: i32, names: &str) {
    refused(&host.run(arguments), code, names);
}

#[track_caller]
fn refused(output: &Output, code: i32, names: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}{}", String::from_utf8_lossy(&output.stdout));
    assert!(error.contains(names), "{names} is not named: {error}");
    assert!(error.contains("\n\nhint: "), "no hint: {error}");
}

/// A fleet of two, `a` with `demo:1`.
fn two() -> [Process; 2] {
    fleet(["a", "b"].map(Process::new), 200_000)
}

fn fleet(mut hosts: [Process; 2], size: usize) -> [Process; 2] {
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);
    let archive = archive_file(hosts[0].path(), &Recipe::new(100, &[size]).build("demo:1"));
    hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    hosts
}

/// A file of a host, with this content.
fn file(host: &Process, name: &str, content: &[u8]) -> String {
    let path = host.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn archives_that_are_none() {
    let mut host = Process::new("a");
    host.start();
    let whole = std::fs::read(archive_file(host.path(), &Recipe::new(101, &[100_000]).build("demo:1"))).unwrap();
    let mut tar = tar::Builder::new(vec![]);
    append(&mut tar, "readme.txt", b"no image");
    for (name, content) in [
        ("empty.tar", vec![]),
        ("wrong.tar", tests::sample::noise(1, 10_000)),
        ("cut.tar", whole[..whole.len() / 2].to_vec()),
        ("other.tar", tar.into_inner().unwrap()),
    ] {
        fails(&host, &["load", "-i", &file(&host, name, &content)], 1, name);
    }
    assert_eq!(host.must(&["-q", "ls"]).trim(), "");
}

#[test]
fn images_and_hosts_that_there_are_not() {
    let mut hosts = two();
    fails(&hosts[0], &["send", "nothing:1", "b"], 3, "nothing:1");
    fails(&hosts[0], &["send", "Demo:1", "b"], 2, "Demo:1");
    fails(&hosts[0], &["send", "demo:1", "nowhere"], 4, "nowhere");
    fails(&hosts[0], &["send", "demo:1", "b", "--platform", "windows/arm64"], 6, "windows/arm64");
    fails(&hosts[0], &["inspect", "nothing:1"], 3, "nothing:1");
    hosts[1].kill();
    fails(&hosts[0], &["send", "demo:1", "b"], 4, "b");
}

#[test]
fn hosts_that_are_not_members() {
    let hosts = two();
    hosts[0].must(&["fleet", "remove", "b"]);
    fails(&hosts[0], &["send", "demo:1", "b"], 4, "b");
    let archive = archive_file(hosts[1].path(), &Recipe::new(102, &[1_000]).build("demo:2"));
    hosts[1].must(&["load", "-i", archive.to_str().unwrap()]);
    fails(&hosts[1], &["send", "demo:2", "a"], 5, "a");
    let mut alone = Process::new("alone");
    alone.start();
    fails(&alone, &["send", "demo:1", "b"], 5, "fleet");
}

#[test]
fn a_policy_that_says_no() {
    let hosts = ["a", "b"].map(Process::new);
    // Beside the configuration file, which is where it is looked for.
    file(&hosts[1], "policy.toml", b"[[push]]\nfrom = [\"a\"]\nallow = false\n");
    let hosts = fleet(hosts, 1_000);
    fails(&hosts[0], &["send", "demo:1", "b"], 6, "b");
    assert_eq!(hosts[1].must(&["-q", "ls"]).trim(), "");
}

#[test]
fn tokens_and_names_that_are_taken() {
    let hosts = two();
    let token = hosts[0].json(&["fleet", "invite"], "invited")["token"].as_str().unwrap().to_owned();
    let mut second = Process::new("b");
    second.start();
    let join = |host: &Process, token: &str| host.run(&["fleet", "join", "--token-file", &file(host, "token", token.as_bytes())]);
    refused(&join(&second, "imgj1-nonsense"), 5, "token");
    let mut other = Process::new("c");
    other.start();
    let used = hosts[0].json(&["fleet", "invite"], "invited")["token"].as_str().unwrap().to_owned();
    assert!(join(&other, &used).status.success());
    refused(&join(&second, &used), 5, "token");
    refused(&join(&second, &token), 6, "b");
}

#[test]
fn agents_that_cannot_start() {
    let mut host = Process::new("a");
    host.start();
    let imgd = |config: &str, state: &Path| {
        let config = file(&host, "other.toml", config.as_bytes());
        let mut command = Command::new(process::program("imgd"));
        command.args(["--config", &config, "--listen", "127.0.0.1:0", "--no-mdns", "--state-dir"]).arg(state);
        command.arg("--socket").arg(host.path().join("other.sock")).stdin(Stdio::null());
        command
    };
    let wrong = imgd("colour = \"red\"\n", &host.path().join("other")).output().unwrap();
    let error = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && error.contains("colour"), "{error}");
    let second = imgd("store = \"layout\"\n", &host.path().join("state")).output().unwrap();
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && error.contains(host.path().join("state").to_str().unwrap()), "{error}");
    let unwritable = imgd("", Path::new("/proc/imgd")).output().unwrap();
    let error = String::from_utf8_lossy(&unwritable.stderr).into_owned();
    assert!(!unwritable.status.success() && error.contains("/proc/imgd"), "{error}");
    host.must(&["ls"]);
}

#[test]
fn agents_that_do_not_answer() {
    let mut host = Process::new("a");
    fails(&host, &["ls"], 1, host.socket().to_str().unwrap());
    host.start();
    let socket = host.socket();
    let mut other = Command::new("setpriv");
    // Copied to where another user may run it; the socket stays where that user may not go.
    let shared = tempfile::tempdir_in("/tmp").unwrap();
    let imgctl = shared.path().join("imgctl");
    std::fs::copy(process::program("imgctl"), &imgctl).unwrap();
    std::fs::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(imgctl).arg("--socket").arg(&socket).arg("ls");
    match other.output() {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("setpriv:") => refused(&output, 5, socket.to_str().unwrap()),
        other => tests::skipped(&format!("another user needs root and setpriv: {other:?}")),
    }
}

#[test]
fn a_full_disk_is_known_before_a_byte_moves() {
    let small = Process::on_disk("b", 40);
    if !small.can_mount() {
        tests::skipped("a small disk needs root (unshare --mount)");
        return;
    }
    let hosts = fleet([Process::new("a"), small], 60_000_000);
    fails(&hosts[0], &["send", "demo:1", "b"], 6, "b");
    let output = hosts[0].run(&["--json", "send", "demo:1", "b"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("free") && text.contains("needed"), "the numbers are told: {text}");
    let status = hosts[0].must(&["--json", "status"]);
    let moved = status.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(moved.filter_map(|row| row["bytes_done"].as_u64()).all(|bytes| bytes == 0), "{status}");
}

#[test]
fn an_interrupted_send_leaves_nothing_half() {
    let hosts = fleet(["a", "b"].map(Process::new), 30_000_000);
    let mut sending = hosts[0].imgctl(&["send", "demo:1", "b", "--limit", "4MB/s"]);
    let sending = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = hosts[0].must(&["--json", "status"]);
        let mut rows = status.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        if rows.any(|row| row["bytes_done"].as_u64().is_some_and(|bytes| bytes > 1_000_000)) {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &sending.id().to_string()]).status().unwrap().success());
    let output = sending.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(hosts[1].must(&["-q", "ls"]).trim(), "", "nothing is visible");
    let done = hosts[0].json(&["send", "demo:1", "b"], "done");
    assert!(done["bytes_sent"].as_u64().unwrap() < 30_000_000, "what had arrived was kept: {done}");
}
