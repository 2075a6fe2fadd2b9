//! An engine that says that it has loaded an image, and has not.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use tests::engine::host::{Engine, Host};
use tests::process::{self, Process};
use tests::sample::Recipe;

use super::give;
use super::sending::Sending;

/// Another image than the one that was sent.
const OTHER: &str = r#"{"Id":"sha256:0000000000000000000000000000000000000000000000000000000000000000","RepoTags":["app:1","app:2"],"RootFS":{"Layers":[]}}"#;

/// What it answers when it is asked for an image.
#[derive(Clone, Copy)]
enum Lie {
    Nothing,
    AnotherImage,
}

/// Reads one request, all of it, and answers.
fn answer(mut stream: UnixStream, lie: Lie) -> std::io::Result<()> {
    let mut request = vec![];
    let mut buffer = vec![0; 64 << 10];
    let is_whole = |request: &[u8]| match request.starts_with(b"POST /images/load") {
        true => request.ends_with(b"\r\n0\r\n\r\n"),
        false => request.ends_with(b"\r\n\r\n"),
    };
    while !is_whole(&request) {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..length]);
    }
    let line = String::from_utf8_lossy(&request[..request.len().min(200)]).lines().next().unwrap_or_default().to_owned();
    let (status, body) = match line.split(' ').collect::<Vec<_>>()[..2] {
        ["GET", "/info"] => (200, r#"{"ServerVersion":"20.10.24","Driver":"overlay2","DockerRootDir":"/nowhere"}"#),
        ["GET", "/_ping"] => (200, "OK"),
        ["GET", path] if path.starts_with("/images/json") => (200, "[]"),
        ["POST", path] if path.starts_with("/images/load") => (200, r#"{"stream":"Loaded image: app:1\n"}"#),
        ["GET", _] if matches!(lie, Lie::AnotherImage) => (200, OTHER),
        _ => (404, r#"{"message":"No such image"}"#),
    };
    write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn its_word_is_not_taken() {
    let source = Host::start("source", Engine::Layout);
    source.agent.must(&["fleet", "init"]);
    // Small ones go in at once, large ones layer by layer.
    give(&source, &Recipe::new(360, &[100_000]).build("app:1"));
    give(&source, &Recipe::new(361, &[10_000_000, 9_000_000]).build("app:2"));
    for (name, lie, reason) in [("silent", Lie::Nothing, "not there after it was loaded"), ("other", Lie::AnotherImage, "instead of")] {
        let mut target = Process::new(name);
        let socket = target.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, lie));
            }
        });
        target.argument(&format!("--store=docker:unix://{}", socket.display()));
        target.start();
        process::join(&source.agent, &target);
        for image in ["app:1", "app:2"] {
            Sending::begin(&source, image, name, "500MB/s").end().failed(1, reason);
        }
        assert_eq!(target.must(&["--json", "ls"]), "");
    }
}
