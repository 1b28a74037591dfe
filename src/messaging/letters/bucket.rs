//! The Object Store bucket of the messages for which a letter has no room.
//!
//! An object is laid out as NATS describes it (ADR-20), and `nats object` reads it: chunks on
//! `$O.<bucket>.C.<version>`, then its description on `$O.<bucket>.M.<name>`. The client's own `put` names
//! the chunks itself and does not say how when it fails; each failure would leave them until a [`sweep`].
//!
//! [`sweep`]: super::sweep

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::object_store::{ObjectInfo, ObjectOptions};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::{Bytes, BytesMut};
use ring::digest::{Context as Digest, SHA256};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::delete_message;
use super::write::Content;
use crate::error::{Class, Code, Dependency, Error};
use crate::messaging::streams::{DLQ_SUBJECT_PREFIX, api_error};

/// Bytes of a chunk at most: what NATS recommends.
const CHUNK_MAX_BYTES: usize = 128 << 10;
/// Bytes of an object at most: no NATS server takes a message of more than 64 MiB.
const OBJECT_MAX_BYTES: usize = 65 << 20;
/// How long the next piece of an object may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// In the description of an object: how many bytes at its start are the message's headers.
const HEADERS_BYTES: &str = "headers-bytes";

pub(crate) fn stream_name(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// The subjects of that stream: chunks and descriptions.
pub(crate) fn subjects(bucket: &str) -> [String; 2] {
    [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")]
}

/// Returns whether a bucket may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// The bucket, and with it the dead-letter stream, whose name it has.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(super) jetstream: Context,
    pub(super) name: String,
    /// What the subjects of letters begin with.
    pub(super) prefix: String,
}

#[derive(Debug)]
pub(super) struct Found {
    /// The sequence of its description: another version has another one.
    pub(super) sequence: u64,
    pub(super) version: String,
}

impl Bucket {
    /// The bucket of this dead-letter stream, whose subjects are `dlq.>`.
    pub fn new(jetstream: Context, dlq_stream: &str) -> Self {
        Self::with_prefix(jetstream, dlq_stream, DLQ_SUBJECT_PREFIX.to_owned())
    }

    /// The same, whose subjects begin with this.
    pub(crate) fn with_prefix(jetstream: Context, dlq_stream: &str, prefix: String) -> Self {
        Self {
            jetstream,
            name: dlq_stream.to_owned(),
            prefix,
        }
    }

    /// Stores an object, durably. It replaces one of the same name, which can be read at every
    /// moment.
    ///
    /// # Errors
    /// When the bucket rejects it.
    pub(super) async fn put(&self, name: &str, content: &Content) -> Result<(), Error> {
        let previous = self.find(name).await?;
        let version = format!("{name}:{:08x}", rand::random::<u32>());
        let info = match self.put_chunks(name, &version, content).await {
            Ok(info) => info,
            Err(error) => {
                // They would take the room of the next attempt. What stays all the same, a sweep finds.
                let _ = self.purge(&version).await;
                return Err(error);
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let info = serde_json::to_vec(&info).expect("it has neither odd keys nor odd numbers");
        self.publish(self.description_subject(name), headers, info.into())
            .await?;
        if let Some(previous) = previous {
            let _ = self.purge(&previous.version).await;
        }
        Ok(())
    }

    async fn put_chunks(
        &self,
        name: &str,
        version: &str,
        content: &Content,
    ) -> Result<ObjectInfo, Error> {
        let subject = self.chunk_subject(version);
        let chunk_max_bytes = CHUNK_MAX_BYTES.min(self.jetstream.client().max_payload());
        let mut digest = Digest::new(&SHA256);
        let (mut chunks, mut size) = (0, 0);
        for part in [&content.headers, &content.body] {
            let mut rest = part.clone();
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(chunk_max_bytes));
                digest.update(&chunk);
                (chunks, size) = (chunks + 1, size + chunk.len());
                self.publish(subject.clone(), HeaderMap::new(), chunk)
                    .await?;
            }
        }
        let headers_bytes = content.headers.len().to_string();
        Ok(ObjectInfo {
            name: name.to_owned(),
            description: None,
            metadata: HashMap::from([(HEADERS_BYTES.to_owned(), headers_bytes)]),
            headers: None,
            options: Some(ObjectOptions {
                link: None,
                max_chunk_size: Some(chunk_max_bytes),
            }),
            bucket: self.name.clone(),
            nuid: version.to_owned(),
            size,
            chunks,
            modified: Some(OffsetDateTime::now_utc()),
            digest: Some(format!("SHA-256={}", URL_SAFE.encode(digest.finish()))),
            deleted: false,
        })
    }

    pub(super) async fn publish(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<PublishAck, Error> {
        let failed = |code, detail: &dyn Display| {
            let detail = format!("publishing a dead letter: {detail}");
            Error::new(Dependency::Nats, Class::Transient, code, detail)
        };
        self.jetstream
            .publish_with_headers(subject, headers, body)
            .await
            .map_err(|error| failed(Code::Connection, &error))?
            .await
            .map_err(|error| failed(Code::Response, &error))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When it is not there, or does not arrive whole.
    pub(super) async fn read(&self, name: &str) -> Result<Content, Error> {
        let failed = |why: &dyn Display| {
            api_error(&format!("object {name} of the bucket {}: {why}", self.name))
        };
        let store = self.jetstream.get_object_store(&self.name).await;
        let store = store.map_err(|error| failed(&error))?;
        let mut object = store.get(name).await.map_err(|error| failed(&error))?;
        let size = object.info.size;
        let headers_bytes = object.info.metadata.get(HEADERS_BYTES);
        let headers_bytes = headers_bytes.and_then(|text| text.parse().ok());
        let headers_bytes = headers_bytes
            .filter(|bytes| *bytes <= size && size <= OBJECT_MAX_BYTES)
            .ok_or_else(|| failed(&"not written by ganesh"))?;
        let mut body = BytesMut::with_capacity(size);
        while body.len() < size {
            match timeout(READ_TIMEOUT, object.read_buf(&mut body)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(failed(&"it is cut off")),
                Ok(Err(error)) => return Err(failed(&error)),
                Err(_) => return Err(failed(&"no answer in time")),
            }
        }
        let headers = body.split_to(headers_bytes).freeze();
        Ok(Content {
            headers,
            body: body.freeze(),
        })
    }

    /// Removes an object; one that is gone is removed.
    ///
    /// # Errors
    /// When JetStream does not answer, or refuses.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Error> {
        match self.find(name).await? {
            Some(found) => self.remove_found(&found).await,
            None => Ok(()),
        }
    }

    /// Removes this version, and not a newer one.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub(super) async fn remove_found(&self, found: &Found) -> Result<(), Error> {
        delete_message(&self.jetstream, &stream_name(&self.name), found.sequence).await?;
        self.purge(&found.version).await
    }

    /// Removes the chunks of a version.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub(super) async fn purge(&self, version: &str) -> Result<(), Error> {
        let purging = self.stream().await?.purge();
        let purged = purging.filter(self.chunk_subject(version)).await;
        let failed = |error| self.failed(&format!("purging object {version}: {error}"));
        purged.map(|_| ()).map_err(failed)
    }

    /// The newest version of an object, if there is one of ganesh. Asked of the stream's leader: a
    /// replica may be behind.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Found>, Error> {
        let (stream, subject) = (self.stream().await?, self.description_subject(name));
        let message = match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Ok(None);
            }
            Err(error) => return Err(self.failed(&error)),
        };
        let info = serde_json::from_slice(&message.payload).ok();
        let ours = info.filter(|info: &ObjectInfo| {
            let of = info.nuid.rsplit_once(':').map(|(of, _)| of);
            of == Some(name) && !info.deleted
        });
        Ok(ours.map(|info| Found {
            sequence: message.sequence,
            version: info.nuid,
        }))
    }

    pub(super) async fn stream(&self) -> Result<Stream<()>, Error> {
        let stream = self.jetstream.get_stream_no_info(stream_name(&self.name));
        stream.await.map_err(|error| self.failed(&error))
    }

    pub(super) fn failed(&self, why: &dyn Display) -> Error {
        api_error(&format!("bucket {}: {why}", self.name))
    }

    fn chunk_subject(&self, version: &str) -> String {
        format!("$O.{}.C.{version}", self.name)
    }

    fn description_subject(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.name, URL_SAFE.encode(name))
    }
}
