//! The policy file that a new fleet begins with.

use std::path::Path;

use crate::store::StoreError;
use crate::sys::durable;

/// Content of the file.
pub(super) const TEXT: &str = r#"# Who may push images to this host, and pull images from it. imgd reads this file when it starts.
# imgctl fleet init wrote it; change it as you like. README, section "Trust", has all the keys.
#
# Without a [[pull]] rule every member may pull every image.

# Every member may push every image. "same-sender": a member may move a tag only when the image that the tag shows came from the same
# member. A tag that was loaded, tagged or built on this host stays where it is, whatever members push.
# true: every member may move every tag. false: no member may move a tag.
[[push]]
move_tags = "same-sender"
"#;

/// Writes the file, unless there is one. The directory has to be there.
pub(super) fn write(path: &Path) -> Result<bool, StoreError> {
    // Readable like every other configuration file.
    durable::write_new(path, TEXT.as_bytes(), 0o644)
}
