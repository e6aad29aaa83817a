//! The one page at the public address: whether messages travel, who can sign in, how to point a client here.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{Html, IntoResponse},
};

use super::Edge;

/// Somebody who can sign in, for the page of the demo.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// Their name.
    pub name: String,
    /// What they are to the practice.
    pub role: &'static str,
    /// Their Matrix account.
    pub user_id: String,
}

/// `GET /`
pub(crate) async fn page(State(edge): State<Arc<Edge>>) -> impl IntoResponse {
    let receiving = edge.engine.travels();
    let (class, status) = if receiving {
        ("good", "Connected: messages travel.")
    } else {
        (
            "bad",
            "Not connected: the homeserver does not answer. Nothing is lost; messages travel as soon as it does.",
        )
    };
    let rows: String = edge
        .sign_ins
        .iter()
        .map(|who| {
            format!(
                "<tr><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
                escaped(&who.name),
                who.role,
                escaped(&who.user_id)
            )
        })
        .collect();
    let people = if rows.is_empty() {
        "<p>Everybody to whom the practice has given an account.</p>".to_owned()
    } else {
        format!(
            "<p>This is a demonstration: these people are not real, and their passwords are printed where it was \
             started.</p><div class=\"wide\"><table><thead><tr><th>Name</th><th>Role</th><th>User</th></tr></thead>\
             <tbody>{rows}</tbody></table></div>"
        )
    };
    let html = TEMPLATE
        .replace("{practice}", &escaped(&edge.practice.name))
        .replace("{class}", class)
        .replace("{status}", status)
        .replace("{people}", &people)
        .replace("{homeserver}", &escaped(&edge.homeserver_url));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")], Html(html))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const TEMPLATE: &str = include_str!("page.html");
