//! Roles of the users of one host, as the kernel knows them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tests::process::{Process, program};
use tests::sample::{Recipe, archive_file};

/// Groups that every Debian has, in their roles here: those who send, who administer, and who read.
const SENDERS: &str = "games";
const ADMINS: &str = "staff";
const READERS: &str = "users";

/// A user who has nothing by itself.
const NOBODY: &str = "65534";

fn gid(group: &str) -> u32 {
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<String>>();
    groups.lines().map(fields).find(|fields| fields[0] == group).map(|fields| fields[2].parse().unwrap()).unwrap()
}

/// An agent whose socket is for the senders, and `imgctl` where every user finds it. `None` where this is not root on a machine with these groups.
fn agent(arguments: &[&str]) -> Option<Process> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let has = |group: &&str| groups.lines().any(|line| line.starts_with(&format!("{group}:")));
    let is_root = rustix::process::geteuid().is_root() && Command::new("setpriv").arg("--version").output().is_ok();
    if !is_root || ![SENDERS, ADMINS, READERS].iter().all(has) {
        assert!(std::env::var_os("IMGD_TEST_ALL").is_none(), "needs root, setpriv and the groups of Debian");
        println!("skipped: needs root, setpriv and the groups of Debian");
        return None;
    }
    let mut agent = Process::new("a");
    std::fs::set_permissions(agent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(program("imgctl"), imgctl(&agent)).unwrap();
    agent.in_group(gid(SENDERS));
    for argument in arguments {
        agent.argument(argument);
    }
    agent.start();
    Some(agent)
}

fn imgctl(agent: &Process) -> PathBuf {
    agent.path().join("imgctl")
}

/// Runs `imgctl` as a user of these further groups.
fn run(agent: &Process, groups: &[&str], arguments: &[&str]) -> Output {
    let groups: Vec<String> = groups.iter().map(|group| gid(group).to_string()).collect();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--inh-caps=-all"]);
    match groups.is_empty() {
        true => command.arg("--clear-groups"),
        false => command.args(["--groups", &groups.join(",")]),
    };
    command.arg(imgctl(agent)).arg("--socket").arg(agent.socket()).args(arguments).output().unwrap()
}

#[track_caller]
fn may(agent: &Process, groups: &[&str], arguments: &[&str]) -> Vec<u8> {
    let output = run(agent, groups, arguments);
    assert!(output.status.success(), "{groups:?} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The request is refused with exit code 5; the error and the audit line name the request and the group that may make it.
#[track_caller]
fn may_not(agent: &Process, groups: &[&str], arguments: &[&str], (request, group): (&str, &str)) {
    let output = run(agent, groups, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{groups:?} {arguments:?}: {error}");
    let refused = format!("{request} is for root and the group {group}");
    assert!(error.contains(&refused) && error.contains(&format!("usermod -aG {group} $USER")), "{error}");
}

#[test]
fn groups_do_what_is_theirs() {
    let Some(agent) = agent(&["--admin-group", ADMINS, "--read-group", READERS]) else { return };
    may_not(&agent, &[SENDERS], &["fleet", "init"], ("fleet init", ADMINS));
    // The audit has the first ones of a user each minute, and the number of the others.
    let log = agent.log();
    let refused = format!("fleet init is for root and the group {ADMINS}");
    let is_line = |line: &str| line.contains("refused") && line.contains("uid 65534") && line.contains(&refused);
    assert!(log.lines().any(is_line), "{log}");
    may(&agent, &[ADMINS], &["fleet", "init"]);
    let archive = archive_file(agent.path(), &Recipe::new(1, &[1_000]).build("demo:1"));
    let load = ["load", "-i", archive.to_str().unwrap()];
    may_not(&agent, &[READERS], &load, ("load", SENDERS));
    may(&agent, &[SENDERS], &load);
    may(&agent, &[SENDERS, READERS], &["tag", "demo:1", "demo:2"]);
    for groups in [&[READERS][..], &[SENDERS], &[ADMINS]] {
        for arguments in [&["-q", "ls"][..], &["peers"], &["status"], &["inspect", "demo:1"], &["fleet", "ls"], &["doctor"]] {
            may(&agent, groups, arguments);
        }
        administers_only_as_administrator(&agent, groups);
    }
    // What is in an image is not for those who only look.
    may_not(&agent, &[READERS], &["save", "demo:1"], ("save", SENDERS));
    may_not(&agent, &[READERS], &["rm", "demo:1"], ("rm", SENDERS));
    may_not(&agent, &[], &["ls"], ("ls", READERS));
    assert!(!may(&agent, &[ADMINS], &["save", "demo:1"]).is_empty());
}

/// Nobody but an administrator takes the key of the fleet away, or decides who is in it.
#[track_caller]
fn administers_only_as_administrator(agent: &Process, groups: &[&str]) {
    for (arguments, request) in [
        (&["fleet", "backup"][..], "fleet backup"),
        (&["fleet", "invite"], "fleet invite"),
        (&["fleet", "remove", "nobody"], "fleet remove"),
        (&["fleet", "group", "add", "web", "a"], "fleet group"),
    ] {
        if groups != [ADMINS] {
            may_not(agent, groups, arguments, (request, ADMINS));
        } else if request != "fleet remove" {
            may(agent, groups, arguments);
        }
    }
}

#[test]
fn without_readers_the_socket_is_for_its_group() {
    let Some(agent) = agent(&["--admin-group", ADMINS]) else { return };
    assert_eq!(agent.socket().metadata().unwrap().permissions().mode() & 0o777, 0o660);
    may(&agent, &[SENDERS], &["ls"]);
    may(&agent, &[SENDERS, ADMINS], &["fleet", "init"]);
    may_not(&agent, &[SENDERS], &["fleet", "backup"], ("fleet backup", ADMINS));
    assert_eq!(run(&agent, &[READERS], &["ls"]).status.code(), Some(5));
}

#[test]
fn without_administrators_senders_administer() {
    if std::fs::read_to_string("/etc/group").unwrap_or_default().lines().any(|line| line.starts_with("imgd-admin:")) {
        return println!("skipped: this machine has the group imgd-admin");
    }
    let Some(agent) = agent(&[]) else { return };
    may(&agent, &[SENDERS], &["fleet", "init"]);
    assert!(!may(&agent, &[SENDERS], &["fleet", "backup"]).is_empty());
}

#[test]
fn a_group_that_is_named_has_to_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("config.toml"), "").unwrap();
    let mut command = Command::new(program("imgd"));
    command.arg("--config").arg(path("config.toml")).arg("--state-dir").arg(path("state")).arg("--socket").arg(path("socket"));
    let output = command.args(["--store", "layout", "--no-mdns", "--listen", "127.0.0.1:0", "--admin-group", "no-such-group"]).output();
    let output = output.unwrap();
    let error = [output.stdout, output.stderr].concat();
    let error = String::from_utf8_lossy(&error);
    assert!(!output.status.success() && error.contains("no-such-group") && error.contains("admin_group"), "{error}");
}

#[test]
fn a_backup_is_of_no_use_without_its_passphrase() {
    let mut hosts = [Process::new("a"), Process::new("b")];
    hosts.iter_mut().for_each(Process::start);
    hosts[0].must(&["fleet", "init"]);
    let file = |name: &str, text: &str| {
        let path = hosts[0].path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "correct horse\n"), file("wrong", "battery staple\n"));
    let backup = hosts[0].path().join("fleet.backup").to_str().unwrap().to_owned();
    hosts[0].must(&["fleet", "backup", "-o", &backup, "--passphrase-file", &right]);
    let text = std::fs::read_to_string(&backup).unwrap();
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n") && !text.contains("ca_key"), "{text}");
    for (arguments, code) in [(&["--passphrase-file", &wrong][..], 1), (&[], 2)] {
        let output = hosts[1].run(&[&["fleet", "restore", "-i", &backup], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    }
    hosts[1].must(&["fleet", "restore", "-i", &backup, "--passphrase-file", &right]);
    hosts[1].must(&["fleet", "invite"]);
}
