//! `/tokenize` and `/detokenize`: what the model reads, without asking it. The work is done in turn with that of requests
//! being prepared, so that neither starves the other.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use vlinders_openai_api::{
    ApiError, DetokenizeAnswer, TokenizeAnswer, TokenizedText, parse_detokenize, parse_tokenize,
};

use crate::app::App;
use crate::generate::{chat_prompt, check_tokens, find_model, text_error};
use crate::http::{error_response, json_response, read_json};

/// `/tokenize`.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(&app, request, tokens_of).await
}

/// `/detokenize`.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(&app, request, text_of).await
}

async fn answer<T: Serialize + Send + 'static>(
    app: &Arc<App>,
    request: Request,
    work: fn(&App, &[u8]) -> Result<T, ApiError>,
) -> Response {
    let answered = async {
        app.authenticator.authenticate(request.headers()).await?;
        let body = read_json(app, request).await?;
        let preparing = Arc::clone(app);
        let answer = move || work(&preparing, &body.bytes);
        let answer = app.preparer.run(answer).await?;
        Ok(json_response(StatusCode::OK, &answer))
    };
    answered
        .await
        .unwrap_or_else(|error: ApiError| error_response(&error))
}

fn tokens_of(app: &App, body: &[u8]) -> Result<TokenizeAnswer, ApiError> {
    let request = parse_tokenize(body, app.config.unknown_fields)?;
    let (model, tokens) = match &request.text {
        TokenizedText::Prompt { model, text } => {
            let model = find_model(app, model)?;
            let tokens = model.text.encode(text, request.add_special_tokens);
            (model, tokens.map_err(|error| text_error("prompt", &error))?)
        }
        TokenizedText::Chat(chat) => {
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

fn text_of(app: &App, body: &[u8]) -> Result<DetokenizeAnswer, ApiError> {
    let request = parse_detokenize(body, app.config.unknown_fields)?;
    let model = find_model(app, &request.model)?;
    check_tokens("tokens", request.tokens.iter().copied(), &model)?;
    Ok(DetokenizeAnswer {
        prompt: model.text.decode(&request.tokens),
    })
}
