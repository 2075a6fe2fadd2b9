//! Sockets behind which there is no engine.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use agent::store::engine::{Deadlines, Engine, EngineStore, Settings};
use agent::store::{Store, StoreError};
use tempfile::TempDir;

fn store(directory: &TempDir) -> EngineStore {
    let deadlines = Deadlines { call_ms: 300, ping_ms: 100, silence_ms: 300 };
    let settings = Settings { engine: Engine::Docker, socket: socket(directory), state_dir: directory.path(), deadlines };
    EngineStore::open(settings).unwrap()
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("docker.sock")
}

/// A socket that answers everything with this.
fn answering(directory: &TempDir, answer: &'static str) {
    let listener = UnixListener::bind(socket(directory)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

#[tokio::test]
async fn nobody_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    assert!(matches!(store.list().await, Err(StoreError::Unreachable { .. })));
    assert!(store.examine().await[0].remedy.is_some());
}

#[tokio::test]
async fn somebody_who_says_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(socket(&directory)).unwrap();
    let store = store(&directory);
    assert!(matches!(store.list().await, Err(StoreError::Silent { .. })));
    assert!(matches!(store.room().await, Err(StoreError::Silent { .. })));
}

#[tokio::test]
async fn somebody_who_talks_nonsense() {
    for answer in [
        "220 mail.example.org ESMTP\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\": 17}",
        "HTTP/1.1 500 No\r\nContent-Length: 16\r\n\r\n{\"message\":\"no\"}",
    ] {
        let directory = tempfile::tempdir().unwrap();
        answering(&directory, answer);
        let result = store(&directory).list().await;
        assert!(matches!(result, Err(StoreError::Engine { .. })), "{answer}: {result:?}");
    }
}
