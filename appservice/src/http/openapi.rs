//! The description of the practice API (OpenAPI 3.1), from the code that answers: each route is given with its description, and
//! each body is written and described by the same type.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    http::header::CONTENT_TYPE,
    routing::{self, MethodRouter},
};
use parlour_domain::{Mode, Role};
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        Content, ObjectBuilder, Ref, RefOr, Response, Schema,
        schema::{SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Edge, conversations, error, events, messages, participants, practice, status, teams};

/// Where it is found.
pub(crate) const PATH: &str = "/_parlour/v1/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Parlour: the practice API",
        description = "Secure messaging between a medical practice and its patients. Times are milliseconds since 1970; ids are \
                       opaque. A conversation in which the caller does not take part answers as one that does not exist.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "conversations", description = "What is said between staff and patients, and who takes part in it."),
        (name = "messages", description = "What became of a message."),
        (name = "teams", description = "Staff who take part in conversations together."),
        (name = "practice", description = "What needs no token, and is the same for everybody."),
    ),
    security(("access_token" = [])),
    components(schemas(error::Answer, events::Progress, events::ModeNow, events::PeopleNow, events::SendingNow)),
)]
struct Description;

/// What holds for every route: who asks is told by a token, and what is refused is answered in one way.
fn completed(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The access token of the person's own Matrix client."));
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("access_token", SecurityScheme::Http(token.build()));
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            let mut refused = Response::new("Refused, as Matrix writes it; docs/API.md has the codes.");
            let content = Content::new(Some(Ref::from_schema_name(error::Answer::name())));
            refused.content.insert("application/json".to_owned(), RefOr::T(content));
            operation.responses.responses.insert("default".to_owned(), RefOr::T(refused));
        }
    }
    api
}

fn described() -> OpenApiRouter<Arc<Edge>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(conversations::list, conversations::begin))
        .routes(routes!(conversations::one, conversations::change))
        .routes(routes!(participants::include, participants::exclude))
        .routes(routes!(messages::delete))
        .routes(routes!(messages::status))
        .routes(routes!(events::events))
        .routes(routes!(teams::list, teams::add))
        .routes(routes!(teams::change))
        .routes(routes!(practice::practice))
        .routes(routes!(status::status))
}

/// The practice API, and beside it its description.
pub(super) fn routes() -> Router<Arc<Edge>> {
    let (router, api) = described().split_for_parts();
    let text = completed(api).to_json().unwrap_or_default();
    router.route(PATH, told(text.into()))
}

fn told(text: Bytes) -> MethodRouter<Arc<Edge>> {
    routing::get(|| async move { ([(CONTENT_TYPE, "application/json")], text) })
}

/// One of these words.
pub(super) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> Schema {
    let word = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
    word.enum_values(Some(words)).build().into()
}

/// As [`Mode`] is written.
pub(super) fn mode() -> Schema {
    one_of([Mode::TwoWay, Mode::OneWay].map(Mode::as_str))
}

/// As [`Role`] is written.
pub(super) fn role() -> Schema {
    one_of([Role::Patient, Role::Staff, Role::Manager].map(Role::as_str))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn operations(api: &utoipa::openapi::OpenApi) -> BTreeSet<String> {
        let all = api.paths.paths.iter().flat_map(|(path, item)| {
            let methods = [
                ("GET", &item.get),
                ("PUT", &item.put),
                ("POST", &item.post),
                ("PATCH", &item.patch),
                ("DELETE", &item.delete),
            ];
            methods
                .into_iter()
                .filter(|(_, operation)| operation.is_some())
                .map(move |(method, _)| format!("{method} {path}"))
        });
        all.collect()
    }

    #[test]
    fn the_book_and_the_description_have_the_same_routes() {
        let (_, api) = described().split_for_parts();
        let book = include_str!("../../../docs/API.md");
        let mut told = BTreeSet::new();
        for quoted in book.split('`').skip(1).step_by(2) {
            let words: Vec<_> = quoted.split(' ').collect();
            if let [method, path] = words[..]
                && path.starts_with("/_parlour/")
                && path != PATH
            {
                told.insert(format!("{method} {path}"));
            }
        }
        assert_eq!(told, operations(&api));
    }

    #[test]
    fn whatever_is_referred_to_is_described_and_everything_can_be_refused() {
        let (_, api) = described().split_for_parts();
        let text = completed(api).to_json().expect("text");
        let api: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(
            api["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")),
            "{}",
            api["openapi"]
        );
        let mut references = 0;
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().expect("its end");
            assert!(api.pointer(pointer).is_some(), "{pointer}");
            references += 1;
        }
        assert!(references > 30, "{references}");
        let mut operations = 0;
        for (path, item) in api["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                assert_eq!(
                    operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"],
                    "#/components/schemas/Error",
                    "{method} {path}"
                );
                for words in ["summary", "operationId"] {
                    assert!(operation[words].is_string(), "{method} {path}: {words}");
                }
                operations += 1;
            }
        }
        assert_eq!(operations, 14);
    }
}
