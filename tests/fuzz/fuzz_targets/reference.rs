//! Names of images, platforms and hosts from any text: refused, or themselves again when written and read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::{Digest, HostId, Platform, Reference};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference));
        assert_eq!(reference.familiar().parse::<Reference>().as_ref(), Ok(&reference));
        assert_eq!(reference.without_digest().to_string().parse::<Reference>().as_ref(), Ok(&reference.without_digest()));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().as_ref(), Ok(&platform));
    }
    let _ = text.parse::<HostId>();
    let _ = proto::host::check_name(text);
    assert!(!proto::text::escape(text).chars().any(char::is_control));
});
