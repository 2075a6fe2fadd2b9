//! Attacks staging: several sessions put ranges of honest and lying sources in any order, join and leave, the agent restarts, and the disk loses or
//! damages data and map.
//!
//! Compares staging with a model after each step. Promises: exactly the ranges of the model are verified, with their bytes and hashes; the verified
//! prefix never shrinks; `finish` succeeds exactly when every range is honest, then yields the bytes that the digest names, and succeeds once.
#![no_main]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use agent::staging::{self, StagedBlob, Staging};
use fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use proto::hash::{RangeHash, RangeHasher};
use proto::limits::RANGE_BYTES;
use proto::{Descriptor, HostId};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const RANGE: usize = RANGE_BYTES as usize;

/// Most sessions at once.
const SESSIONS: usize = 3;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime"));

/// Bytes of one source, and the hashes of these bytes.
struct Source {
    bytes: Vec<u8>,
    hashes: Vec<RangeHash>,
}

/// A blob with an honest source and a lying one.
struct Sample {
    blob: Descriptor,
    sources: [Source; 2],
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| [0, 1, RANGE, RANGE + 1, 3 * RANGE, 4 * RANGE + 100].map(Sample::new).into());

impl Source {
    fn new(bytes: Vec<u8>) -> Self {
        let mut hasher = RangeHasher::default();
        hasher.update(&bytes);
        Self { hashes: hasher.finish().1, bytes }
    }

    fn range(&self, index: usize) -> &[u8] {
        &self.bytes[index * RANGE..((index + 1) * RANGE).min(self.bytes.len())]
    }

    fn before(&self, index: usize) -> RangeHash {
        index.checked_sub(1).map_or(RangeHash::START, |before| self.hashes[before])
    }
}

impl Sample {
    fn new(size: usize) -> Self {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 253) as u8).collect();
        let mut lie = bytes.clone();
        if let Some(byte) = lie.get_mut(size / 2) {
            *byte ^= 1;
        }
        Self { blob: Descriptor::of("application/octet-stream", &bytes), sources: [Source::new(bytes), Source::new(lie)] }
    }

    fn count(&self) -> usize {
        self.sources[0].hashes.len()
    }

    /// The source whose range has these bytes and hashes. Other combinations must not verify: they would need a collision of SHA-256.
    fn source(&self, index: usize, bytes: &[u8], before: RangeHash, after: RangeHash) -> Option<usize> {
        let is_last = index + 1 == self.count();
        let fits = |source: &Source| source.range(index) == bytes && source.before(index) == before && source.hashes[index] == after;
        (0..2).find(|&source| fits(&self.sources[source]) && !(is_last && after != self.blob.digest.into()))
    }
}

struct Bench {
    sample: &'static Sample,
    directory: TempDir,
    staging: Option<Arc<Staging>>,
    sessions: Vec<StagedBlob>,
    /// Source of each verified range.
    model: Vec<Option<usize>>,
    prefix_bytes: u64,
}

impl Bench {
    fn new(sample: &'static Sample) -> Self {
        let (directory, model) = (fuzz::directory(), vec![None; sample.count()]);
        let mut bench = Self { sample, directory, staging: None, sessions: vec![], model, prefix_bytes: 0 };
        bench.restart();
        bench
    }

    fn file(&self, kind: &str) -> PathBuf {
        let Descriptor { digest, size_bytes, .. } = &self.sample.blob;
        self.directory.path().join(format!("{}-{size_bytes}.{kind}", digest.hex()))
    }

    fn session(&self, choices: &mut Choices<'_>) -> &StagedBlob {
        &self.sessions[choices.below(self.sessions.len())]
    }

    /// One more session, which joins the others or continues from the disk.
    fn claim(&mut self) {
        let staging = self.staging.clone().expect("a staging area");
        let staged = RUNTIME.block_on(async { staging.claim(&self.sample.blob, staging::Source::Any, HostId::of_public_key(b"a")).await });
        if self.sessions.is_empty() {
            self.prefix_bytes = 0;
        }
        self.sessions.push(staged.expect("a claim"));
    }

    /// Ends every session, and begins another one.
    fn claim_anew(&mut self) {
        self.sessions.clear();
        self.claim();
    }

    fn join_or_leave(&mut self, choices: &mut Choices<'_>) {
        if self.sessions.len() < SESSIONS && choices.one_in(2) {
            return self.claim();
        }
        self.sessions.swap_remove(choices.below(self.sessions.len()));
        if self.sessions.is_empty() {
            self.claim();
        }
    }

    fn restart(&mut self) {
        self.sessions.clear();
        self.staging = Some(Staging::open(self.directory.path()).expect("a staging area"));
        self.claim();
    }

    fn put(&mut self, choices: &mut Choices<'_>) {
        let first = choices.below(self.model.len());
        let count = 1 + choices.below((self.model.len() - first).min(3));
        let [bytes_of, hashes_of, before_of] = std::array::from_fn(|_| choices.below(2));
        let (bytes_of, hashes_of) = (&self.sample.sources[bytes_of], &self.sample.sources[hashes_of]);
        let before = self.sample.sources[before_of].before(first);
        let mut bytes: Vec<u8> = (first..first + count).flat_map(|index| bytes_of.range(index)).copied().collect();
        if choices.one_in(8) && !bytes.is_empty() {
            let at = choices.below(bytes.len());
            bytes[at] ^= 1 << choices.below(8);
        }
        let after = &hashes_of.hashes[first..first + count - usize::from(choices.one_in(16))];
        let put = self.session(choices).put(first as u64 * RANGE_BYTES, &bytes, before, after).expect("a disk");
        let (mut previous, mut accepted, mut taken) = (before, vec![], 0);
        for (offset, after) in after.iter().enumerate() {
            let range = &bytes[(offset * RANGE).min(bytes.len())..((offset + 1) * RANGE).min(bytes.len())];
            let Some(source) = self.sample.source(first + offset, range, previous, *after) else { break };
            (previous, taken) = (*after, taken + range.len());
            accepted.push(source);
        }
        assert_eq!(put.is_ok(), taken == bytes.len());
        for (offset, source) in accepted.into_iter().enumerate() {
            self.model[first + offset] = Some(source);
        }
    }

    /// Damages data or map as a power cut or a failing disk does, and restarts.
    fn damage(&mut self, choices: &mut Choices<'_>) {
        self.sessions.clear();
        self.staging = None;
        let index = choices.below(self.model.len());
        let data = OpenOptions::new().read(true).write(true).open(self.file("data")).expect("data");
        let map = OpenOptions::new().read(true).write(true).open(self.file("map")).expect("a map");
        match choices.below(4) {
            0 => {
                let at = (index * RANGE) as u64 + choices.below(RANGE) as u64;
                let mut byte = [0];
                if data.read_exact_at(&mut byte, at).is_ok() {
                    data.write_all_at(&[byte[0] ^ 0x10], at).expect("a disk");
                    self.model[index] = None;
                }
            }
            1 => {
                let length = (index * RANGE + choices.below(RANGE)) as u64;
                if length < data.metadata().expect("a file").len() {
                    data.set_len(length).expect("a disk");
                }
                let end = |index: usize| ((index + 1) as u64 * RANGE_BYTES).min(self.sample.blob.size_bytes);
                (0..self.model.len()).filter(|&index| end(index) > length).for_each(|index| self.model[index] = None);
            }
            2 => {
                let at = (index * 64 + choices.below(64)) as u64;
                let mut byte = [0];
                let _ = map.read_exact_at(&mut byte, at);
                map.write_all_at(&[byte[0] ^ 0x10], at).expect("a disk");
                self.model[index] = None;
            }
            _ => {
                let length = (index * 64 + choices.below(64)) as u64;
                if length < map.metadata().expect("a file").len() {
                    map.set_len(length).expect("a disk");
                    self.model[index..].fill(None);
                }
            }
        }
        self.restart();
    }

    fn finish(&mut self, choices: &mut Choices<'_>, is_stored: bool) {
        let finished = self.session(choices).finish();
        // Both sources have the same range where the liar changed nothing.
        let is_honest = |(index, source): (usize, &Option<usize>)| {
            source.is_some_and(|source| self.sample.sources[source].hashes[index] == self.sample.sources[0].hashes[index])
        };
        assert_eq!(finished.is_ok(), self.model.iter().enumerate().all(is_honest));
        assert!(self.sessions.iter().all(|session| session.finish().is_err()), "two files of one blob");
        let Ok(file) = finished else {
            self.model.fill(None);
            return self.claim_anew();
        };
        // A late range of another session changes nothing.
        let lie = &self.sample.sources[1];
        let _ = self.session(choices).put(0, lie.range(0), RangeHash::START, &lie.hashes[..1]).expect("a disk");
        assert_eq!(std::fs::read(file.path()).expect("a file"), self.sample.sources[0].bytes);
        assert_eq!(file.hashes(), self.sample.sources[0].hashes);
        if is_stored {
            file.stored();
            assert_eq!(std::fs::read_dir(self.directory.path()).expect("a directory").count(), 0);
            self.model.fill(None);
        } else {
            drop(file);
        }
        self.claim_anew();
    }

    fn check(&mut self) {
        let size_bytes = self.sample.blob.size_bytes;
        let (staged, reader) = (&self.sessions[0], self.sessions[0].reader());
        let end = |index: usize| ((index + 1) as u64 * RANGE_BYTES).min(size_bytes);
        let missing = staged.missing();
        let missing_bytes: u64 = missing.iter().map(|range| range.end - range.start).sum();
        assert!(self.sessions.iter().all(|session| session.verified_bytes() == size_bytes - missing_bytes));
        for (index, source) in self.model.iter().enumerate() {
            let start = index as u64 * RANGE_BYTES;
            let is_missing = missing.iter().any(|range| range.start <= start && end(index) <= range.end);
            assert_eq!(is_missing, source.is_none(), "range {index}");
            let Some(source) = source.map(|source| &self.sample.sources[source]) else { continue };
            assert_eq!(reader.read(start..end(index)).expect("a file"), source.range(index), "range {index}");
            let hashes = (source.before(index), vec![source.hashes[index]]);
            assert_eq!(reader.hashes(start..end(index)), Some(hashes), "range {index}");
        }
        let whole = self.model.iter().take_while(|source| source.is_some()).count();
        let prefix_bytes = if whole == 0 { 0 } else { end(whole - 1) };
        assert!(prefix_bytes >= self.prefix_bytes, "the prefix goes back");
        assert_eq!(now(reader.prefix(0)).flatten(), (prefix_bytes > 0 || size_bytes == 0).then_some(prefix_bytes));
        self.prefix_bytes = prefix_bytes;
    }
}

/// The output of a future that is ready; `None` when the future has to wait.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let mut bench = Bench::new(&SAMPLES[choices.below(SAMPLES.len())]);
    while !choices.is_empty() {
        match choices.below(16) {
            ..=9 => bench.put(&mut choices),
            10 => bench.join_or_leave(&mut choices),
            11 => bench.restart(),
            12 => bench.damage(&mut choices),
            13 => bench.finish(&mut choices, true),
            14 => bench.finish(&mut choices, false),
            _ => {
                bench.session(&mut choices).discard();
                bench.model.fill(None);
                bench.claim_anew();
            }
        }
        bench.check();
    }
});
