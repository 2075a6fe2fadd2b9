//! `imgctl fleet join`

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use proto::control::Fleet;
use proto::limits::TEXT_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Join a fleet, with a token that is asked for
///
/// The token comes from imgctl fleet invite on the host that holds the key of the fleet. It is a secret, so it is never an argument:
/// other users of this host can read those.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read the token from this file; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ask this host instead of the address in the token
    #[arg(long, value_name = "ADDR:PORT")]
    address: Option<String>,
    /// - reads the token from standard input
    #[arg(value_name = "-", hide = true)]
    word: Option<String>,
}

/// Joins.
pub(super) fn run(context: &Context, args: Args) -> super::super::Result {
    let source = match args.word.as_deref() {
        Some("-") => Some(PathBuf::from("-")),
        Some(word) => return Err(refuse(word)),
        None => args.token_file,
    };
    let token = match source {
        Some(path) => from_file(&path)?,
        None => prompt(context)?,
    };
    let token = token.trim().to_owned();
    if token.is_empty() {
        return Err(Error::usage("no token was given").hint("imgctl fleet invite, on the host that holds the key of the fleet, prints one"));
    }
    super::enter(context, Fleet::Join { token, address: args.address })
}

/// A token on the command line is known to every user of this host now.
fn refuse(word: &str) -> Error {
    if word.starts_with("imgj") {
        return Error::usage("a token is a secret, and arguments are seen by every user of this host")
            .hint("imgctl fleet join asks for it; take a new one (imgctl fleet invite), and let this one run out");
    }
    Error::usage(format!("fleet join does not take \"{word}\"")).hint("imgctl fleet join, or imgctl fleet join --token-file FILE")
}

fn from_file(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(TEXT_BYTES as u64).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(TEXT_BYTES as u64).read_to_string(&mut text))
    };
    read.map_err(|error| Error::file("cannot read the token from", path, &error))?;
    Ok(text)
}

/// Asks at the terminal of the user, whatever stdin and stdout are. What is typed is not shown.
fn prompt(context: &Context) -> Result<String, Error> {
    let hint = "imgctl fleet join --token-file FILE, or - to read it from standard input";
    let none = |error: std::io::Error| Error::usage("there is no terminal to ask for the token").because(error).hint(hint);
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(none)?;
    let _echo = Echo::off(context, &terminal).map_err(none)?;
    let asked = terminal.write_all("token (not shown): ".as_bytes()).and_then(|()| wait_for_line(context, &terminal));
    let mut line = String::new();
    let read = asked.and_then(|()| BufReader::new((&terminal).take(TEXT_BYTES as u64)).read_line(&mut line));
    // The line break that was typed was not shown either.
    let _ = terminal.write_all(b"\n");
    read.map_err(|error| Error::new(Exit::Failed, "cannot read the token").because(error))?;
    Ok(line)
}

/// Returns when a line was typed, or when a signal came: reading itself would not hear of it.
fn wait_for_line(context: &Context, terminal: &File) -> std::io::Result<()> {
    let step = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    loop {
        if context.interrupt.came() {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        match poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Shows again what is typed, when it is dropped and when a signal comes.
struct Echo(Box<dyn Fn() + Send>);

impl Echo {
    fn off(context: &Context, terminal: &File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        let restorer = |terminal: File| {
            let before = before.clone();
            move || {
                let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
            }
        };
        context.interrupt.on_signal(restorer(terminal.try_clone()?));
        Ok(Self(Box::new(restorer(terminal.try_clone()?))))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_an_argument() {
        let error = refuse("imgj1-abc-def");
        assert!(error.exit == Exit::Usage && !error.to_string().contains("abc") && error.hint.unwrap().contains("new one"));
        assert!(refuse("stapp01").to_string().contains("stapp01"));
    }

    #[test]
    fn tokens_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "imgj1-x\n").unwrap();
        assert_eq!(from_file(&path).unwrap(), "imgj1-x\n");
        assert!(from_file(&dir.path().join("absent")).is_err());
    }
}
