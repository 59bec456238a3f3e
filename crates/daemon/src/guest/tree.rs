//! Files into a guest and out of it, as tar streams.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use wire::agent::frame::{Channel, DATA_MAX};
use wire::agent::message::{FileStat, Reply, Request};

use super::link::Opening;
use super::stream::Stream;
use super::{Guest, GuestError};

impl Guest {
    /// Unpacks the tar stream `tar` below `path`; bytes of file content that were written.
    ///
    /// # Errors
    /// When the stream cannot be read to its end, or the guest cannot unpack it.
    pub async fn put_tree(&self, path: &str, mut tar: impl AsyncRead + Unpin) -> Result<u64, GuestError> {
        let stream = self.open(Opening::Call, &Request::PutTree { path: path.to_owned() }).await?;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(DATA_MAX);
            let count = tar.read_buf(&mut buffer).await.map_err(|error| GuestError::Read(Arc::new(error)))?;
            if count == 0 {
                stream.close_input();
                break;
            }
            if !stream.write(buffer.split().freeze()).await? {
                break;
            }
        }
        moved(stream.ended().await?)
    }

    /// Packs `path` as a tar stream; `follow`: what it leads to when it is a link.
    ///
    /// # Errors
    /// When the connection is gone; what the guest cannot read ends the stream with an error.
    pub async fn get_tree(&self, path: &str, follow: bool) -> Result<TreeStream, GuestError> {
        let request = Request::GetTree { path: path.to_owned(), follow };
        Ok(TreeStream::new(self.open(Opening::Tree, &request).await?))
    }

    /// Packs what the system layer has over its image as a layer of that image, whiteouts and all.
    ///
    /// # Errors
    /// When the connection is gone; what the guest cannot read ends the stream with an error.
    pub async fn layer(&self) -> Result<TreeStream, GuestError> {
        Ok(TreeStream::new(self.open(Opening::Tree, &Request::Layer).await?))
    }

    /// Asks what is at `path`.
    ///
    /// # Errors
    /// When the guest cannot tell.
    pub async fn stat(&self, path: &str, follow: bool) -> Result<FileStat, GuestError> {
        match self.call(&Request::Stat { path: path.to_owned(), follow }).await? {
            Reply::Stat(stat) => Ok(stat),
            other => Err(GuestError::unexpected(&other)),
        }
    }
}

/// A tar stream out of a guest. Dropping it before its end tells the guest to give it up.
#[derive(Debug)]
pub struct TreeStream {
    stream: Stream,
}

impl TreeStream {
    pub(super) fn new(stream: Stream) -> TreeStream {
        TreeStream { stream }
    }

    /// The next bytes, at most 64 KiB; `None` at the end, when [`TreeStream::done`] says whether it is complete.
    ///
    /// # Errors
    /// When the connection ended.
    pub async fn read(&self) -> Result<Option<Bytes>, GuestError> {
        self.stream.read(Channel::Output).await
    }

    /// Bytes of file content that were packed.
    ///
    /// # Errors
    /// When the guest could not pack all of it.
    pub async fn done(&self) -> Result<u64, GuestError> {
        moved(self.stream.ended().await?)
    }
}

/// Bytes, or what else was counted.
pub(super) fn moved(reply: Reply) -> Result<u64, GuestError> {
    match reply {
        Reply::Done { bytes } => Ok(bytes),
        other => Err(GuestError::unexpected(&other)),
    }
}
