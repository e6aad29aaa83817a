//! Files as a person's client sends and opens them: encrypted on this side, decrypted on the other.

use matrix_sdk::media::{MediaFormat, MediaRequestParameters};
use ruma::{OwnedEventId, RoomId, events::room::MediaSource};
use serde_json::{Value, json};

use super::{Client, ClientError};

impl Client {
    /// Sends a file, encrypted, as stock clients do: with a caption, or with its name alone.
    ///
    /// # Errors
    /// When the room is not joined, or the homeserver refuses.
    pub async fn send_file(
        &self,
        room: &RoomId,
        msgtype: &str,
        name: &str,
        bytes: &[u8],
        caption: Option<&str>,
    ) -> Result<OwnedEventId, ClientError> {
        let file = self.upload(bytes).await?;
        let content = json!({
            "msgtype": msgtype,
            "body": caption.unwrap_or(name),
            "filename": name,
            "file": file,
            "info": { "size": bytes.len(), "mimetype": "application/octet-stream" },
        });
        self.send_raw(room, "m.room.message", content).await
    }

    /// Puts a file on the homeserver, encrypted; the `file` of a message.
    ///
    /// # Errors
    /// When the homeserver refuses.
    pub async fn upload(&self, mut bytes: &[u8]) -> Result<Value, ClientError> {
        let file = self.matrix().upload_encrypted_file(&mut bytes).await?;
        Ok(serde_json::to_value(file).unwrap_or_default())
    }

    /// Fetches and opens the file of a message.
    ///
    /// # Errors
    /// When there is none, or it cannot be fetched or opened.
    pub async fn open_file(&self, content: &Value) -> Result<Vec<u8>, ClientError> {
        let source = serde_json::from_value(content["file"].clone()).map_err(|_| ClientError::NoFile)?;
        let source = MediaSource::Encrypted(Box::new(source));
        let request = MediaRequestParameters { source, format: MediaFormat::File };
        Ok(self.matrix().media().get_media_content(&request, false).await?)
    }
}
