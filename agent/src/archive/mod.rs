//! temp
#![allow(missing_docs)]
use std::sync::Arc;
use bytes::Bytes;
use proto::{Digest, Reference};
use tokio::sync::mpsc;
use crate::{staging::Staging, store::{Store, Held, StoreError}};
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError { #[error(transparent)] Store(#[from] StoreError) , #[error("x")] X}
pub struct Loaded { pub reference: Option<Reference>, pub image_id: Digest }
pub async fn load<S: Store>(_s: &S, _st: &Arc<Staging>, _r: mpsc::Receiver<std::io::Result<Bytes>>) -> Result<Vec<Loaded>, ArchiveError> { Err(ArchiveError::X) }
pub async fn save<S: Store>(_s: &S, _h: Vec<Held>, _f: proto::control::ArchiveFormat, _c: proto::control::Compression, _t: mpsc::Sender<Bytes>) -> Result<(), ArchiveError> { Err(ArchiveError::X) }
