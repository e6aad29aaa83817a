//! A dehydrated device (MSC3814), made for somebody as their own client would make it.

use std::path::Path;

use matrix_sdk_crypto::{
    OlmMachine,
    store::types::{CrossSigningKeyExport, DehydratedDeviceKey},
};
use parlour::demo::client::Client;
use ruma::{OwnedDeviceId, TransactionId, api::client::keys::get_keys, events::secret::request::SecretName};

/// Makes a dehydrated device for whoever has signed in, whose secret storage opens with the key in this file: signed
/// by their identity, and uploaded.
///
/// # Panics
/// When that fails.
pub async fn dehydrate(client: &Client, recovery_key: &Path) -> OwnedDeviceId {
    let sdk = client.matrix();
    let key = std::fs::read_to_string(recovery_key).expect("a recovery key");
    let secrets = sdk.encryption().secret_storage().open_secret_store(&key).await.expect("secret storage");
    let secret = async |name: SecretName| secrets.get_secret(name).await.expect("secret storage");
    let export = CrossSigningKeyExport {
        master_key: secret(SecretName::CrossSigningMasterKey).await,
        self_signing_key: secret(SecretName::CrossSigningSelfSigningKey).await,
        user_signing_key: secret(SecretName::CrossSigningUserSigningKey).await,
    };
    // The SDK's own machine is out of reach: this one has the same identity, and never speaks.
    let machine = OlmMachine::new(client.user_id(), "HELPER".into()).await;
    let mut query = get_keys::v3::Request::new();
    query.device_keys.insert(client.user_id().to_owned(), Vec::new());
    let keys = sdk.send(query).await.expect("an answer");
    machine.mark_request_as_sent(&TransactionId::new(), &keys).await.expect("taken in");
    machine.import_cross_signing_keys(export).await.expect("the identity");
    let device = machine.dehydrated_devices().create().await.expect("a dehydrated device");
    let request = device.keys_for_upload("dehydrated".to_owned(), &DehydratedDeviceKey::new()).await;
    sdk.send(request.expect("its keys")).await.expect("uploaded").device_id
}
