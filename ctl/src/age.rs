//! Files that a passphrase opens, in the format of age (<https://age-encryption.org/v1>): one `scrypt` recipient, in ASCII armor. `age -d` reads what
//! is written here, and what `age -p -a` writes is read here.

use data_encoding::{BASE64, BASE64_NOPAD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

/// The first line, which names the version of the format.
const VERSION: &str = "age-encryption.org/v1";

const ARMOR_BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const ARMOR_END: &str = "-----END AGE ENCRYPTED FILE-----";
const ARMOR_COLUMNS: usize = 64;

/// Logarithm of the work of a guess: 2^17 with r = 8 and p = 1 takes 128 MiB, as OWASP recommends for scrypt (Password Storage Cheat Sheet).
const WORK: u8 = if cfg!(test) { 10 } else { 17 };

/// The most that is read: 1 GiB of memory.
const WORK_MAX: u8 = 20;

const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;

type Key = Zeroizing<[u8; 32]>;

/// Why a file was not encrypted or decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgeError {
    /// It is no such file.
    NotEncrypted,
    /// It is one, but for other keys, of another version, or with too much work.
    Unsupported,
    /// The passphrase does not open it.
    Passphrase,
    /// It is not what was written.
    Damaged,
    /// The system gives no random bytes.
    Random,
}

impl std::fmt::Display for AgeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotEncrypted => "it is not encrypted",
            Self::Unsupported => "it is not encrypted with a passphrase, or in a way that this version does not know",
            Self::Passphrase => "the passphrase is wrong",
            Self::Damaged => "the file is damaged",
            Self::Random => "the system gives no random bytes",
        })
    }
}

/// True for what [`encrypt`] or `age` has written, however damaged the rest of it is.
pub(crate) fn is_encrypted(bytes: &[u8]) -> bool {
    bytes.starts_with(ARMOR_BEGIN.as_bytes()) || bytes.starts_with(VERSION.as_bytes())
}

/// Encrypts with a passphrase.
pub(crate) fn encrypt(plain: &[u8], passphrase: &str) -> Result<Vec<u8>, AgeError> {
    let (file_key, salt, nonce) = (Zeroizing::new(random::<16>()?), random::<16>()?, random::<16>()?);
    let mut wrapped = file_key.to_vec();
    seal(&wrapping_key(passphrase, &salt, WORK)?, [0; 12], &mut wrapped)?;
    let salt = BASE64_NOPAD.encode(&salt);
    let mut file = format!("{VERSION}\n-> scrypt {salt} {WORK}\n{}\n---", BASE64_NOPAD.encode(&wrapped)).into_bytes();
    let mac = hmac::sign(&mac_key(&*file_key)?, &file);
    file.extend(format!(" {}\n", BASE64_NOPAD.encode(mac.as_ref())).as_bytes());
    file.extend(nonce);
    let key = derive(&*file_key, &nonce, b"payload")?;
    // The last chunk is marked as such, and is empty only when everything is.
    let chunks = plain.chunks(CHUNK).len().max(1);
    for index in 0..chunks {
        let mut chunk = plain[index * CHUNK..plain.len().min((index + 1) * CHUNK)].to_vec();
        seal(&key, chunk_nonce(index, index + 1 == chunks), &mut chunk)?;
        file.extend(chunk);
    }
    Ok(armored(&file))
}

/// Decrypts, and checks every byte.
pub(crate) fn decrypt(bytes: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, AgeError> {
    let file = if bytes.starts_with(ARMOR_BEGIN.as_bytes()) { plain_of_armor(bytes)? } else { bytes.to_vec() };
    let mut rest = file.as_slice();
    match line(&mut rest) {
        Some(VERSION) => {}
        Some(other) if other.starts_with("age-encryption.org/") => return Err(AgeError::Unsupported),
        _ if is_encrypted(bytes) => return Err(AgeError::Damaged),
        _ => return Err(AgeError::NotEncrypted),
    }
    let stanza: Vec<&str> = line(&mut rest).ok_or(AgeError::Damaged)?.split(' ').collect();
    let ["->", "scrypt", salt, work] = stanza[..] else { return Err(AgeError::Unsupported) };
    let (salt, wrapped) = (unpadded(salt)?, unpadded(line(&mut rest).ok_or(AgeError::Damaged)?)?);
    let work = work.parse::<u8>().map_err(|_| AgeError::Damaged)?;
    if work == 0 || work > WORK_MAX {
        return Err(AgeError::Unsupported);
    }
    let header = &file[..file.len() - rest.len() + 3.min(rest.len())];
    let mac = line(&mut rest).and_then(|line| line.strip_prefix("--- ")).ok_or(AgeError::Damaged)?;
    if salt.len() != 16 || wrapped.len() != 16 + TAG {
        return Err(AgeError::Damaged);
    }
    let file_key = open(&wrapping_key(passphrase, &salt, work)?, [0; 12], &wrapped).ok_or(AgeError::Passphrase)?;
    hmac::verify(&mac_key(&file_key)?, header, &unpadded(mac)?).map_err(|_| AgeError::Damaged)?;
    let (nonce, payload) = rest.split_at_checked(16).ok_or(AgeError::Damaged)?;
    let key = derive(&file_key, nonce, b"payload")?;
    let mut plain = Zeroizing::new(Vec::with_capacity(payload.len()));
    let chunks = payload.chunks(CHUNK + TAG).len();
    for (index, chunk) in payload.chunks(CHUNK + TAG).enumerate() {
        let opened = open(&key, chunk_nonce(index, index + 1 == chunks), chunk).ok_or(AgeError::Damaged)?;
        if opened.is_empty() && index > 0 {
            return Err(AgeError::Damaged);
        }
        plain.extend_from_slice(&opened);
    }
    if chunks == 0 { Err(AgeError::Damaged) } else { Ok(plain) }
}

fn random<const N: usize>() -> Result<[u8; N], AgeError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AgeError::Random)?;
    Ok(bytes)
}

fn wrapping_key(passphrase: &str, salt: &[u8], work: u8) -> Result<Key, AgeError> {
    let params = scrypt::Params::new(work, 8, 1).map_err(|_| AgeError::Unsupported)?;
    let salt = [VERSION.as_bytes(), b"/scrypt", salt].concat();
    let mut key = Key::default();
    scrypt::scrypt(passphrase.as_bytes(), &salt, &params, &mut *key).map_err(|_| AgeError::Unsupported)?;
    Ok(key)
}

fn mac_key(file_key: &[u8]) -> Result<hmac::Key, AgeError> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &*derive(file_key, &[], b"header")?))
}

/// HKDF-SHA-256.
fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Key, AgeError> {
    let mut key = Key::default();
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let filled = pseudorandom.expand(&[info], hkdf::HKDF_SHA256).and_then(|output| output.fill(&mut *key));
    filled.map(|()| key).map_err(|_| AgeError::Unsupported)
}

/// 11 bytes of counter, and whether it is the last chunk.
fn chunk_nonce(index: usize, is_last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&(index as u64).to_be_bytes());
    nonce[11] = u8::from(is_last);
    nonce
}

fn cipher(key: &Key) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, &**key).ok().map(LessSafeKey::new)
}

fn seal(key: &Key, nonce: [u8; 12], bytes: &mut Vec<u8>) -> Result<(), AgeError> {
    let cipher = cipher(key).ok_or(AgeError::Unsupported)?;
    // Every key is new, and numbers what it seals.
    let nonce = Nonce::assume_unique_for_key(nonce);
    cipher.seal_in_place_append_tag(nonce, Aad::empty(), bytes).map_err(|_| AgeError::Unsupported)
}

fn open(key: &Key, nonce: [u8; 12], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let length = cipher(key)?.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

/// The next line, without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let end = rest.iter().position(|&byte| byte == b'\n')?;
    let (line, behind) = rest.split_at(end);
    *rest = &behind[1..];
    std::str::from_utf8(line).ok()
}

fn unpadded(text: &str) -> Result<Vec<u8>, AgeError> {
    BASE64_NOPAD.decode(text.as_bytes()).map_err(|_| AgeError::Damaged)
}

fn armored(file: &[u8]) -> Vec<u8> {
    let text = BASE64.encode(file);
    let mut armor = format!("{ARMOR_BEGIN}\n").into_bytes();
    for line in text.as_bytes().chunks(ARMOR_COLUMNS) {
        armor.extend(line);
        armor.push(b'\n');
    }
    armor.extend(format!("{ARMOR_END}\n").as_bytes());
    armor
}

fn plain_of_armor(armor: &[u8]) -> Result<Vec<u8>, AgeError> {
    let text = std::str::from_utf8(armor).map_err(|_| AgeError::Damaged)?.trim_end();
    let body = text.strip_prefix(ARMOR_BEGIN).and_then(|text| text.strip_suffix(ARMOR_END)).ok_or(AgeError::Damaged)?;
    let body: String = body.lines().collect();
    BASE64.decode(body.as_bytes()).map_err(|_| AgeError::Damaged)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encrypted_is_decrypted_with_the_same_passphrase_only() {
        for length in [0, 1, CHUNK, CHUNK + 1] {
            let plain: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let encrypted = encrypt(&plain, "correct horse").unwrap();
            assert!(is_encrypted(&encrypted) && encrypted.is_ascii());
            assert_eq!(*decrypt(&encrypted, "correct horse").unwrap(), plain);
            assert_eq!(decrypt(&encrypted, "correct horse ").unwrap_err(), AgeError::Passphrase);
        }
        assert_ne!(encrypt(b"", "a").unwrap(), encrypt(b"", "a").unwrap(), "no key is used twice");
    }

    /// Written by the crate age 0.12.1.
    const OF_AGE: &str = "\
-----BEGIN AGE ENCRYPTED FILE-----\n\
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBKQVpRREozN0lkdlE5QlpM\n\
ZzQwQkVnIDEwCnVSaFBZMzBpRHdidEI1NGlVTzkrVlB6ckJDeHFJdkpISmpmbGdP\n\
ckszcjAKLS0tIEdQZW1SMWt2TU5qaEdoZUZuVVMvdEl5OW9PNTVpa2VFbmxkYm8x\n\
d2FFWncKtldVUavTLGkSFXOqxsgxpYOQTXGlEiDgbkrJN3GzhCBrkLIb2auynzjZ\n\
+xlI2Pg5u47Z5QA=\n\
-----END AGE ENCRYPTED FILE-----\n";

    #[test]
    fn what_age_has_written_is_read() {
        assert_eq!(*decrypt(OF_AGE.as_bytes(), "correct horse").unwrap(), *b"imgd_fleet_backup = 1");
    }

    #[test]
    fn every_damage_is_noticed() {
        let plain = b"the key of the fleet";
        let file = plain_of_armor(&encrypt(plain, "a").unwrap()).unwrap();
        let body = file.len() - (16 + plain.len() + TAG);
        for at in [30, 70, body - 60, body - 2, body, body + 16, file.len() - 1] {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(decrypt(&damaged, "a").is_err(), "byte {at}");
        }
        for length in [21, 22, 60, body, body + 16, file.len() - 1] {
            assert_eq!(decrypt(&file[..length], "a").unwrap_err(), AgeError::Damaged, "cut to {length} bytes");
        }
        let longer = [&file[..], &[0; 40]].concat();
        assert_eq!(decrypt(&longer, "a").unwrap_err(), AgeError::Damaged);
        let armor = armored(&file);
        assert_eq!(decrypt(&armor[..armor.len() - 20], "a").unwrap_err(), AgeError::Damaged);
    }

    #[test]
    fn other_files_are_named_as_such() {
        assert_eq!(decrypt(b"imgd_fleet_backup = 1\n", "a").unwrap_err(), AgeError::NotEncrypted);
        for header in
            ["age-encryption.org/v2\n", "age-encryption.org/v1\n-> X25519 abc\n", "age-encryption.org/v1\n-> scrypt AAAA 30\nAAAA\n--- A\n"]
        {
            assert_eq!(decrypt(header.as_bytes(), "a").unwrap_err(), AgeError::Unsupported, "{header}");
        }
    }
}
