//! `/openapi.json`: the surface described for programs. The parameters are those of the tables that bodies are checked
//! with, and their ranges are [`crate::LIMITS`]: the description cannot promise what the parser refuses.

mod answers;
mod kept;
mod parameters;

use serde_json::{Map, Value, json};

use crate::names::{Endpoint, working};

/// A route that takes a body.
struct Post {
    path: &'static str,
    endpoint: Endpoint,
    about: &'static str,
    answer: fn() -> Value,
    can_stream: bool,
}

const POSTS: &[Post] = &[
    Post {
        path: "/v1/chat/completions",
        endpoint: Endpoint::Chat,
        about: "Goes on with a conversation.",
        answer: answers::chat,
        can_stream: true,
    },
    Post {
        path: "/v1/completions",
        endpoint: Endpoint::Completion,
        about: "Goes on with a text.",
        answer: answers::completion,
        can_stream: true,
    },
    Post {
        path: "/v1/messages",
        endpoint: Endpoint::Messages,
        about: "Goes on with a conversation, in content blocks.",
        answer: answers::messages,
        can_stream: true,
    },
    Post {
        path: "/v1/messages/count_tokens",
        endpoint: Endpoint::Messages,
        about: "Counts the tokens of a conversation.",
        answer: answers::counted,
        can_stream: false,
    },
    Post {
        path: "/v1/responses",
        endpoint: Endpoint::Responses,
        about: "Goes on with a conversation, in items.",
        answer: answers::responses,
        can_stream: true,
    },
    Post {
        path: "/v1/embeddings",
        endpoint: Endpoint::Embeddings,
        about: "Makes vectors of texts.",
        answer: answers::embeddings,
        can_stream: false,
    },
    Post {
        path: "/v1/decisions",
        endpoint: Endpoint::Decisions,
        about: "Tells how likely each of some labels is to follow a text or a conversation.",
        answer: answers::decision,
        can_stream: false,
    },
    Post {
        path: "/v1/batches",
        endpoint: Endpoint::Batches,
        about: "Has the lines of a file answered, at low priority.",
        answer: kept::batch,
        can_stream: false,
    },
    Post {
        path: "/tokenize",
        endpoint: Endpoint::Tokenize,
        about: "Shows a text or a conversation as tokens.",
        answer: answers::tokenized,
        can_stream: false,
    },
    Post {
        path: "/detokenize",
        endpoint: Endpoint::Detokenize,
        about: "Shows tokens as text.",
        answer: answers::detokenized,
        can_stream: false,
    },
];

/// The document of this build.
#[must_use]
pub fn openapi(version: &str) -> Value {
    let mut paths = Map::new();
    for post in POSTS {
        paths.insert(post.path.to_owned(), json!({"post": posted(post)}));
    }
    let gets: [(&str, &str, Value); 7] = [
        ("/v1/models", "Lists the models.", answers::model_list()),
        ("/v1/models/{id}", "Shows one model.", answers::model()),
        (
            "/v1/usage",
            "Tells what the key, or its tenant, has used.",
            answers::used(),
        ),
        ("/health", "Whether the process works.", answers::state()),
        ("/live", "Whether the process runs.", answers::state()),
        ("/ready", "Whether requests can be answered.", answers::state()),
        ("/version", "Which build runs.", answers::version()),
    ];
    for (path, about, answer) in gets {
        let mut told = json!({"summary": about, "responses": responses(path, &answer, false)});
        if path.contains("{id}") {
            told["parameters"] = json!([{"name": "id", "in": "path", "required": true,
                "schema": {"type": "string", "minLength": 1}}]);
        }
        if path == "/v1/usage" {
            told["parameters"] = parameters::usage();
        }
        paths.insert(path.to_owned(), json!({"get": told}));
    }
    kept::add(&mut paths);
    let schemes = json!({"bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Vlinders", "version": version, "description": "Serves large language models."},
        "paths": paths,
        "components": {
            "schemas": {"Error": answers::error(), "MessagesError": answers::messages_error()},
            "securitySchemes": schemes,
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    })
}

fn posted(post: &Post) -> Value {
    json!({
        "summary": post.about,
        "requestBody": {"required": true, "content": {"application/json": {"schema": body(post)}}},
        "responses": responses(post.path, &(post.answer)(), post.can_stream),
    })
}

fn body(post: &Post) -> Value {
    let is_count = post.path.ends_with("count_tokens");
    let required: Vec<&str> = parameters::required(post.endpoint)
        .iter()
        .copied()
        .filter(|name| !(is_count && *name == "max_tokens"))
        .collect();
    let mut properties = Map::new();
    for name in working(post.endpoint) {
        let schema = parameters::schema(post.endpoint, name).unwrap_or_else(|| json!({}));
        let schema = if required.contains(&name) {
            schema
        } else {
            parameters::or_null(schema)
        };
        properties.insert(name.to_owned(), schema);
    }
    json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
}

fn responses(path: &str, answer: &Value, can_stream: bool) -> Value {
    let shape = if path.starts_with("/v1/messages") {
        "MessagesError"
    } else {
        "Error"
    };
    let mut good = json!({"application/json": {"schema": answer}});
    if can_stream {
        // Of each event: this version of the format has no words for a stream of them.
        let text = json!({"type": "string"});
        good["text/event-stream"] = json!({"schema": {"type": "object", "description": "One event of the stream.",
            "required": ["data"], "properties": {"event": text, "data": text}}});
    }
    let error = json!({"description": "Refused or failed; `retry-after` says whether to try again.",
        "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{shape}")}}}});
    let mut told = json!({"200": {"description": "The answer.", "content": good}});
    for status in ["4XX", "5XX"] {
        told[status] = error.clone();
    }
    if path == "/ready" {
        told["503"] = json!({"description": "Not now.", "content": {"application/json": {"schema": answer}}});
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LIMITS;

    #[test]
    fn every_parameter_that_works_is_described_in_parameters_rs() {
        for post in POSTS {
            for name in working(post.endpoint) {
                let schema = parameters::schema(post.endpoint, name);
                assert!(schema.is_some(), "{} {name} has no schema", post.path);
            }
            for name in parameters::required(post.endpoint) {
                assert!(
                    working(post.endpoint).any(|known| known == *name),
                    "{} {name}",
                    post.path
                );
            }
        }
    }

    #[test]
    fn ranges_are_those_the_parser_holds() {
        let document = openapi("1");
        let chat = &document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
            ["schema"];
        let of = |name: &str| chat["properties"][name]["anyOf"][0].clone();
        assert_eq!(of("temperature")["maximum"], LIMITS.temperature.max);
        assert_eq!(of("n")["maximum"], LIMITS.choices.max);
        assert_eq!(of("max_tokens")["maximum"], LIMITS.max_tokens.max);
        assert_eq!(chat["properties"]["messages"]["maxItems"], LIMITS.messages);
        assert_eq!(chat["additionalProperties"], false);
    }
}
