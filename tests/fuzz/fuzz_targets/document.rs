//! Manifests, indexes and configs from any bytes, alone and walked from a root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::Descriptor;
use proto::descriptor::media_type;
use proto::document::{self, Document};
use proto::image::{Selection, Walk};

fuzz_target!(|bytes: &[u8]| {
    let _ = document::parse_layout_index(bytes);
    for media_type in [media_type::MANIFEST, media_type::INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_INDEX] {
        let root = Descriptor::of(media_type, bytes);
        if let Ok(Document::Manifest(mut manifest)) = document::parse(&root, bytes) {
            manifest.config = Descriptor::of(media_type::CONFIG, bytes);
            let _ = document::parse_config(&manifest, bytes);
        }
        for selection in [Selection::All, Selection::Present, Selection::One(proto::Platform::host())] {
            let mut walk = Walk::new(None, root.clone(), selection);
            while let Some(next) = walk.next() {
                let supplied = if next.digest == root.digest { Some(bytes) } else { None };
                if walk.supply(supplied).is_err() {
                    return;
                }
            }
            let _ = walk.finish();
        }
    }
});
