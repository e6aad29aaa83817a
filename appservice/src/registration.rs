//! The application service registration, made from the configuration.

use crate::config::Config;

const TEMPLATE: &str = include_str!("../../registration.yaml");

/// The registration for the homeserver, as YAML. It holds both tokens.
#[must_use]
pub fn registration(config: &Config) -> String {
    TEMPLATE
        .replace("{url}", &format!("http://{}", config.listen.internal))
        .replace("{as_token}", config.homeserver.as_token.reveal())
        .replace("{hs_token}", config.homeserver.hs_token.reveal())
        // In a regular expression a dot must be escaped, and in YAML's double quotes the escape as well.
        .replace("{server_name}", &config.homeserver.server_name.as_str().replace('.', "\\\\."))
}
