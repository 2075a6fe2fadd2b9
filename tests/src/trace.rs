//! Programs under `strace`: a system call of them fails, or is the last one.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What becomes of a system call.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// It fails with this error, and does nothing.
    Fails(&'static str),
    /// The process is killed when it makes it.
    Kills,
}

/// False where a process cannot be traced.
pub fn is_possible() -> bool {
    let traced = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    traced.is_ok_and(|status| status.success())
}

/// Runs a program, and gives the system calls of these names that it made, each as one line with the paths of its file descriptors.
pub fn calls(names: &[&str], program: &Path, arguments: &[&str]) -> (Output, Vec<String>) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = strace(log.path(), &["-y", "-e", &format!("trace={}", names.join(","))], program, arguments);
    let text = std::fs::read_to_string(log.path()).unwrap();
    let lines = text.lines().filter(|line| line.contains('(')).map(str::to_owned).collect();
    (output, lines)
}

/// Runs a program, in which the call number `number` of this name, counted from 1 in each of its threads, has this fate.
pub fn with_fate(name: &str, number: usize, fate: Fate, program: &Path, arguments: &[&str]) -> Output {
    let fate = match fate {
        Fate::Fails(error) => format!("error={error}"),
        Fate::Kills => "signal=KILL".to_owned(),
    };
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:{fate}:when={number}"));
    strace(Path::new("/dev/null"), &["-e", &trace, "-e", &inject], program, arguments)
}

/// How often each thread of the program makes the call: the largest of these numbers, for each name.
pub fn counts(names: &[&str], program: &Path, arguments: &[&str]) -> Vec<usize> {
    let (_, lines) = calls(names, program, arguments);
    let count = |name: &&str| {
        let mut threads = std::collections::HashMap::<&str, usize>::new();
        for line in &lines {
            // `1234  openat(…` with -f and -o.
            if let Some((thread, call)) = line.split_once(char::is_whitespace)
                && call.trim_start().starts_with(&format!("{name}("))
            {
                *threads.entry(thread).or_default() += 1;
            }
        }
        threads.values().max().copied().unwrap_or(0)
    };
    names.iter().map(count).collect()
}

fn strace(log: &Path, options: &[&str], program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(log).args(options).arg(program).args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}
