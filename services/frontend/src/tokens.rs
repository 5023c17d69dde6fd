//! `/tokenize` and `/detokenize`: what the model reads, without asking it. The work is done in turn with that of requests
//! being prepared, so that neither starves the other, and counts against the requests of a minute.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use vlinders_openai_api::{
    ApiError, DetokenizeAnswer, TokenizeAnswer, TokenizedText, parse_detokenize, parse_tokenize,
};

use crate::Caller;
use crate::app::App;
use crate::generate::{Admitting, chat_prompt, check_tokens, find_model, text_error};
use crate::http::{RequestContext, json_response, read_json};

/// `/tokenize`.
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    answer(&app, (&context, caller), request, tokens_of).await
}

/// `/detokenize`.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(context): Extension<RequestContext>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    answer(&app, (&context, caller), request, text_of).await
}

async fn answer<T: Serialize + Send + 'static>(
    app: &Arc<App>,
    (context, caller): (&RequestContext, Caller),
    request: Request,
    work: fn(&App, &Caller, &[u8]) -> Result<T, ApiError>,
) -> Response {
    let admitting = Admitting {
        app,
        context,
        caller: &caller,
    };
    let answered = async {
        let body = read_json(app, request).await?;
        let (preparing, caller) = (Arc::clone(app), caller.clone());
        let answer = move || work(&preparing, &caller, &body.bytes);
        let answer = app.preparer.run(answer).await?;
        Ok(json_response(StatusCode::OK, &answer))
    };
    admitting.answer_for_nothing(answered).await
}

fn tokens_of(app: &App, caller: &Caller, body: &[u8]) -> Result<TokenizeAnswer, ApiError> {
    let request = parse_tokenize(body, caller.unknown_fields(app.config.unknown_fields))?;
    let (model, tokens) = match &request.text {
        TokenizedText::Prompt { model, text } => {
            caller.require_model(model)?;
            let model = find_model(app, model)?;
            let tokens = model.text.encode(text, request.add_special_tokens);
            (model, tokens.map_err(|error| text_error("prompt", &error))?)
        }
        TokenizedText::Chat(chat) => {
            caller.require_model(&chat.model)?;
            let model = find_model(app, &chat.model)?;
            let tokens = chat_prompt(app, &model, chat, request.add_special_tokens)?;
            (model, tokens)
        }
    };
    let shown = |token: &u32| String::from_utf8_lossy(&model.text.token_bytes(*token)).into_owned();
    Ok(TokenizeAnswer {
        count: tokens.len(),
        max_model_len: model.max_context_tokens,
        token_strs: request
            .return_token_strs
            .then(|| tokens.iter().map(shown).collect()),
        tokens,
    })
}

fn text_of(app: &App, caller: &Caller, body: &[u8]) -> Result<DetokenizeAnswer, ApiError> {
    let request = parse_detokenize(body, caller.unknown_fields(app.config.unknown_fields))?;
    caller.require_model(&request.model)?;
    let model = find_model(app, &request.model)?;
    check_tokens("tokens", request.tokens.iter().copied(), &model)?;
    Ok(DetokenizeAnswer {
        prompt: model.text.decode(&request.tokens),
    })
}
