//! One key, one machine: a host that was cloned after it joined would answer in the name of the other one.

use std::path::Path;

use super::TrustError;
use super::files::{Files, Name};

/// What is kept is not the id itself, which is to stay on the machine (machine-id(5)).
const CONTEXT: &[u8] = b"imgd machine\0";

/// Takes note of the machine at the first start, and refuses to start with its key on another one. A machine without an id has none to compare.
pub(super) fn check(files: &Files, machine_id: &Path) -> Result<(), TrustError> {
    let id = match std::fs::read_to_string(machine_id) {
        Ok(id) if id.trim().len() == 32 => id,
        // Not there, not set yet, or not for us to read.
        _ => return Ok(()),
    };
    let now = proto::Digest::of(&[CONTEXT, id.trim().as_bytes()].concat()).hex();
    match files.read(Name::Machine)? {
        None => files.write(Name::Machine, now.as_bytes()),
        Some(known) if known.as_slice() == now.as_bytes() => Ok(()),
        Some(_) => Err(TrustError::OtherMachine { machine: files.path_of(Name::Machine) }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_on_its_machine() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path()).unwrap();
        let machine = |name: &str, id: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, id).unwrap();
            path
        };
        let one = machine("one", "0123456789abcdef0123456789abcdef\n");
        let other = machine("other", "fedcba9876543210fedcba9876543210\n");
        check(&files, &one).unwrap();
        check(&files, &one).unwrap();
        let error = check(&files, &other).unwrap_err();
        assert!(matches!(error, TrustError::OtherMachine { .. }), "{error}");
        assert!(error.to_string().contains("join the fleet again"), "{error}");
        for nothing in [machine("empty", ""), machine("unset", "uninitialized\n"), directory.path().join("absent")] {
            check(&files, &nothing).unwrap();
        }
        std::fs::remove_file(directory.path().join("trust/machine")).unwrap();
        check(&files, &other).unwrap();
    }
}
