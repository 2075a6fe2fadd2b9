//! Nothing stands still: slow readers and much at once leave everything else as it was.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tests::process::{self, Process};
use tests::sample::{Recipe, archive_file};

/// Nothing here takes longer, or it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends within the time, with success.
#[track_caller]
fn ends(mut child: Child, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{what} hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{what}: {status}");
}

#[test]
fn many_slow_readers_leave_questions_answered() {
    let mut hosts = ["a", "b"].map(Process::new);
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    process::join(&hosts[0], &hosts[1]);
    // Twelve sends, of which each reads four ranges at once.
    let names: Vec<String> = (0..12).map(|i| format!("slow{i}:1")).collect();
    for (i, name) in names.iter().enumerate() {
        let archive = archive_file(hosts[0].path(), &Recipe::new(400 + 10 * i as u64, &[5_000_000; 4]).build(name));
        hosts[0].must(&["load", "-i", archive.to_str().unwrap()]);
    }
    let mut sending: Vec<Child> = vec![];
    for name in &names {
        let mut command = hosts[0].imgctl(&["-q", "send", name, "b", "--limit", "100KB/s"]);
        sending.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }
    // All of them have begun.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = hosts[0].must(&["--json", "status"]);
        let rows = status.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        if rows.filter(|row| row["bytes_done"].as_u64().unwrap_or(0) > 0).count() == names.len() {
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for (host, arguments) in
        [(0, &["ls"][..]), (0, &["doctor", "b"]), (0, &["ls", "b"]), (1, &["ls"]), (1, &["ls", "a"]), (0, &["tag", "slow0:1", "x:1"])]
    {
        let child = hosts[host].imgctl(arguments).stdout(Stdio::null()).spawn().unwrap();
        ends(child, &arguments.join(" "));
    }
    for mut child in sending {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
