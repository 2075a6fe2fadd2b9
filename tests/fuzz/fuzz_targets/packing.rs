//! Attacks the decompression of layers and archives with bytes that are intact, damaged, cut off or followed by others.
//!
//! Promises: bytes that are fed in pieces give the same content as bytes that are read at once, or both fail; intact bytes give the original content.
#![no_main]

use std::io::{self, Read, Write};

use agent::packing::{Packing, Unpacker, unpacked};
use flate2::Compression;
use flate2::write::GzEncoder;
use fuzz::Choices;
use libfuzzer_sys::fuzz_target;

/// Most bytes that are compared: a few packed bytes may unpack to gigabytes.
const MOST_BYTES: usize = 4 << 20;

/// Keeps up to [`MOST_BYTES`]; writing more fails.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut content = vec![];
    unpacked(packed, Packing::of(packed))?.take(MOST_BYTES as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn fed(packed: &[u8], choices: &mut Choices<'_>) -> io::Result<Vec<u8>> {
    let mut unpacker = Unpacker::new(Bounded::default());
    let (mut rest, most) = (packed, 1 + choices.below(2000));
    while !rest.is_empty() {
        let (now, later) = rest.split_at((1 + choices.below(most)).min(rest.len()));
        unpacker = unpacker.write(now)?;
        rest = later;
    }
    Ok(unpacker.finish()?.0)
}

/// Packs the content as one gzip member, as one zstd frame, or not at all.
fn pack(content: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(5) {
        0 => content.to_vec(),
        1 | 2 => {
            let mut gzip = GzEncoder::new(vec![], Compression::new(choices.below(4) as u32));
            gzip.write_all(content).expect("memory");
            gzip.finish().expect("memory")
        }
        other => {
            let mut zstd = zstd::stream::write::Encoder::new(vec![], 1).expect("memory");
            zstd.include_checksum(other == 3).expect("an encoder");
            zstd.write_all(content).expect("memory");
            zstd.finish().expect("memory")
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let is_raw = choices.one_in(4);
    // No packing starts with a byte of 0x80 or more.
    let (size, seed, step) = (choices.below(60_000), choices.byte() | 0x80, choices.byte());
    let content: Vec<u8> = (0..size).map(|i| seed.wrapping_add(((i >> 3) as u8).wrapping_mul(step))).collect();
    let mut packed = pack(&content, &mut choices);
    let damage = choices.below(8);
    match damage {
        1 => packed.extend_from_within(..),
        2 => packed.truncate(choices.below(1 << 16)),
        3 if !packed.is_empty() => {
            let at = choices.below(1 << 16) % packed.len();
            packed[at] ^= 1 << choices.below(8);
        }
        4 => packed.extend(std::iter::repeat_n(0, choices.below(700))),
        5 => packed.extend(pack(b"behind", &mut choices)),
        6 => packed.truncate(packed.len().saturating_sub(1 + choices.below(12))),
        _ => {}
    }
    if is_raw {
        packed = [&packed[..packed.len().min(4)], choices.rest()].concat();
    }
    let at_once = read(&packed);
    if at_once.as_ref().is_ok_and(|content| content.len() > MOST_BYTES) {
        return;
    }
    let in_pieces = fed(&packed, &mut Choices::new(input));
    if damage <= 1 && !is_raw {
        assert!(at_once.as_ref().is_ok_and(|unpacked| *unpacked == content.repeat(1 + damage)));
    }
    match (&at_once, &in_pieces) {
        (Ok(at_once), Ok(in_pieces)) => assert!(at_once == in_pieces, "{} bytes and {}", at_once.len(), in_pieces.len()),
        (Err(_), Err(_)) => {}
        _ => panic!("read: {:?}, fed: {:?}", at_once.map(|content| content.len()), in_pieces.map(|content| content.len())),
    }
});
