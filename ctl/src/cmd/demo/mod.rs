//! `imgctl demo`: the two-minute introduction, in a few seconds. Every command that it shows is really carried out.

mod agents;
mod library;
mod next;
mod sample;

use std::path::{Path, PathBuf};

use clap::Parser;
use proto::Digest;
use proto::control::{Event, Fleet, Hosts, Request};
use proto::text::escape;
use serde_json::json;

use agents::Agents;

use super::transfer;
use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::format::{shell, size};

/// Show all of it in a few seconds: two throw-away agents on this machine, and a real send
///
/// Needs no rights and no running imgd, touches no engine, listens on the loopback interface only, and leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Send the first image of this archive (docker save) and a next version of it, instead of a sample
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
}

/// Starts two agents, makes a fleet of them, sends an image and then what is new of its next version.
pub(crate) fn run(context: &Context, args: &Args) -> super::Result {
    let agents = Agents::start(context)?;
    let story = Story { context, agents: &agents };
    story.say("Two agents run on this machine now, each with a store of its own. They play two hosts, demo1 and demo2.");
    story.make_fleet()?;
    match &args.archive {
        Some(archive) => story.tell_archive(archive)?,
        None => story.tell_sample()?,
    }
    agents.stop()?;
    context.output.line("\nBoth agents are stopped, and what they wrote is removed. For real hosts: imgctl --help, \"First steps\".");
    Ok(Exit::Done)
}

struct Story<'a> {
    context: &'a Context,
    agents: &'a Agents,
}

impl Story<'_> {
    fn make_fleet(&self) -> Result<(), Error> {
        self.say("\n1. Hosts of a fleet trust each other. The first one makes it, the others join with a token.");
        self.command(0, "imgctl fleet init")?;
        self.show(0, "imgctl fleet invite");
        let mut token = String::new();
        let invite = Fleet::Invite { uses: 1, valid_s: 600, for_name: None, replace: None };
        self.agents.context(0).each(&Request::Fleet(invite), |event| {
            if let Event::Invited { token: new, .. } = event {
                token = new;
            }
        })?;
        self.say("(prints a token, which is pasted on the other host)");
        self.show(1, "imgctl fleet join");
        let mut members = 0;
        self.agents.context(1).each(&Request::Fleet(Fleet::Join { token, address: None }), |event| {
            if let Event::Joined { members: now, .. } = event {
                members = now;
            }
        })?;
        self.say(&format!("✔ demo2 is a member, {members} in all"));
        Ok(())
    }

    fn tell_sample(&self) -> Result<(), Error> {
        let archives = sample::write(self.agents.directory(), self.agents.program())?;
        self.say("\n2. An image comes in from an archive. It has three layers: libraries, two programs, a file with its version.");
        self.load(&archives[0])?;
        self.say("\n3. It goes to the other host. Nothing of it is there, so all of it travels.");
        let first = self.send("imgd-demo:v1")?;
        self.command(1, "imgctl ls")?;
        self.compare("imgd-demo:v1")?;
        self.say("\n4. The next version has another file in its last layer.");
        self.load(&archives[1])?;
        let second = self.send("imgd-demo:v2")?;
        self.command(1, "imgctl ls")?;
        self.compare("imgd-demo:v2")?;
        self.conclude(first, second);
        Ok(())
    }

    fn tell_archive(&self, archive: &Path) -> Result<(), Error> {
        self.say("\n2. The image comes in from its archive.");
        let image = self.load(archive)?;
        self.say("\n3. It goes to the other host. Nothing of it is there, so all of it travels.");
        let first = self.send(&image)?;
        self.command(1, "imgctl ls")?;
        self.compare(&image)?;
        let next = format!("{image}-next");
        self.say(&format!("\n4. The next version has one small layer more. It is made here and called {next}."));
        let made = next::write(self.agents.directory(), &self.inspect(&image)?, &next);
        let made = made.map_err(|error| Error::new(Exit::Failed, "cannot make the next version").because(error))?;
        self.load(&made)?;
        let second = self.send(&next)?;
        self.command(1, "imgctl ls")?;
        self.compare(&next)?;
        self.conclude(first, second);
        Ok(())
    }

    fn inspect(&self, image: &str) -> Result<serde_json::Value, Error> {
        let mut inspected = serde_json::Value::Null;
        self.agents.context(0).each(&Request::Inspect(vec![image.to_owned()]), |event| {
            if let Event::Inspected(text) = event {
                inspected = serde_json::from_str(&text).unwrap_or_default();
            }
        })?;
        Ok(inspected)
    }

    fn conclude(&self, first: (u64, u64), second: (u64, u64)) {
        self.context.output.object(&json!({
            "event": "demo", "image_bytes": second.1, "bytes_sent_first": first.0, "bytes_sent_second": second.0, "same_image_ids": true,
        }));
        self.say(&format!(
            "\nThe first time {} travelled, the second time {} of {}: only what demo2 did not have.\n\
             docker save | ssh docker load would have moved all of it again. Both hosts show the same image IDs.",
            size(first.0),
            size(second.0),
            size(second.1)
        ));
    }

    /// Loads an archive on the first host, and says what its first image is called.
    fn load(&self, archive: &Path) -> Result<String, Error> {
        let mut image = None;
        self.show(0, &format!("imgctl load -i {}", shell(&escape(&archive.display().to_string()))));
        super::load::run(self.agents.context(0), &super::load::Args { input: Some(archive.to_owned()) })?;
        self.agents.context(0).each(&Request::List(Hosts::default()), |event| {
            if let Event::Image { row, .. } = event {
                let name = row.reference.as_ref().map_or_else(|| row.image_id.hex(), proto::Reference::familiar);
                image.get_or_insert(name);
            }
        })?;
        image.ok_or_else(|| Error::new(Exit::ImageNotFound, format!("there is no image in {}", archive.display())))
    }

    /// Sends from the first host to the second; comes to the bytes that were sent, and those of the whole image.
    fn send(&self, image: &str) -> Result<(u64, u64), Error> {
        let line = format!("imgctl send {image} demo2");
        self.show(0, &line);
        let Command::Send(args) = parse(&line)? else { return Err(Error::new(Exit::Failed, "not a send")) };
        let (request, report) = super::send::prepare(args);
        let report = transfer::carry_out(self.agents.context(0), &request, report)?;
        match report.error() {
            Some(error) => Err(error),
            None => report.bytes().ok_or_else(|| Error::new(Exit::Failed, "the agent does not say what was sent")),
        }
    }

    /// The promise of it all: both hosts show the same ID.
    fn compare(&self, image: &str) -> Result<(), Error> {
        let ids = [self.image_id(0, image)?, self.image_id(1, image)?];
        match ids {
            [Some(here), Some(there)] if here == there => Ok(()),
            _ => Err(Error::new(Exit::Failed, format!("{image} is not the same on both hosts"))),
        }
    }

    fn image_id(&self, agent: usize, image: &str) -> Result<Option<Digest>, Error> {
        let mut found = None;
        self.agents.context(agent).each(&Request::List(Hosts::default()), |event| {
            if let Event::Image { row, .. } = event
                && row.reference.as_ref().is_some_and(|reference| reference.familiar() == image)
            {
                found = Some(row.image_id);
            }
        })?;
        Ok(found)
    }

    /// Shows a command line, and carries it out.
    fn command(&self, agent: usize, line: &str) -> Result<(), Error> {
        self.show(agent, line);
        let exit = super::run(self.agents.context(agent), parse(line)?)?;
        if exit == Exit::Done { Ok(()) } else { Err(Error::new(exit, format!("failed: {line}"))) }
    }

    fn show(&self, agent: usize, line: &str) {
        self.say(&format!("\ndemo{}$ {line}", agent + 1));
    }

    fn say(&self, line: &str) {
        self.context.output.line(line);
    }
}

/// As the shell and the command line would.
fn parse(line: &str) -> Result<Command, Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command).map_err(|error| Error::usage(error.to_string()))
}
