//! The part of containerd's API that is used here, made from `api/` by `build.rs`. Packages, paths and field numbers are containerd's.

/// Generated code follows other rules than ours.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, clippy::restriction)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/containerd.rs"));
}

pub(super) use generated::containerd::services::content::v1 as content;
pub(super) use generated::containerd::services::diff::v1 as diff;
pub(super) use generated::containerd::services::images::v1 as images;
pub(super) use generated::containerd::services::introspection::v1 as introspection;
pub(super) use generated::containerd::services::leases::v1 as leases;
pub(super) use generated::containerd::services::namespaces::v1 as namespaces;
pub(super) use generated::containerd::services::snapshots::v1 as snapshots;
pub(super) use generated::containerd::services::version::v1 as version;
pub(super) use generated::containerd::types;
