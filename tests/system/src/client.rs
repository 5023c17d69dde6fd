//! HTTP as clients speak it.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Response;
use serde_json::Value;

use crate::Reply;

/// Nothing here takes longer, however busy the machine.
const ANSWER: Duration = Duration::from_secs(240);

/// Talks to one server. Connections are not kept, so that a dropped answer is a client that left.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its id, as the header says.
    pub request_id: Option<String>,
    /// All headers.
    pub headers: reqwest::header::HeaderMap,
    /// JSON, or null.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// The text of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A streamed answer under way. Dropped, it is a client that left.
pub struct EventStream {
    response: Response,
    buffer: Vec<u8>,
    /// What it has told so far.
    pub reply: Reply,
}

impl Client {
    /// Of what is served at `http://ADDR:PORT`.
    ///
    /// # Errors
    /// When the system has nothing to make one of.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(ANSWER)
            .build()?;
        Ok(Self {
            http,
            url: url.to_owned(),
        })
    }

    /// Where the server is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The text at this path.
    ///
    /// # Errors
    /// When the status is not 200.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// Sends any request.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send().await?).await
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let headers = [("content-type", "application/json")];
        self.send("POST", path, &headers, serde_json::to_vec(body)?).await
    }

    /// Posts JSON for a whole answer and reads it.
    ///
    /// # Errors
    /// When the status is not 200.
    pub async fn whole(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        let answer = self.post(path, body).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Reply::whole(&answer.body)
    }

    /// Posts JSON for a streamed answer. The inner error is a refusal.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn open(&self, path: &str, body: &Value) -> anyhow::Result<Result<EventStream, Answer>> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let request = self.http.post(format!("{}{path}", self.url)).json(&body);
        let response = request.send().await?;
        if !response.status().is_success() {
            return Ok(Err(answer(response).await?));
        }
        Ok(Ok(EventStream {
            response,
            buffer: Vec::new(),
            reply: Reply::default(),
        }))
    }

    /// The same, when a refusal is an error too.
    ///
    /// # Errors
    /// When the status is not 200.
    pub async fn stream(&self, path: &str, body: &Value) -> anyhow::Result<EventStream> {
        let opened = self.open(path, body).await?;
        opened.map_err(|refused| anyhow::anyhow!("{} {}", refused.status, refused.body))
    }

    /// Posts JSON for a streamed answer and reads it to its end.
    ///
    /// # Errors
    /// When it is refused or breaks off.
    pub async fn streamed(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.stream(path, body).await?.rest().await
    }
}

async fn answer(response: Response) -> anyhow::Result<Answer> {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let request_id = headers.get("x-request-id");
    let request_id = request_id.and_then(|id| id.to_str().ok()).map(str::to_owned);
    let text = response.text().await?;
    Ok(Answer {
        status,
        request_id,
        headers,
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    })
}

impl EventStream {
    /// Takes in the next event. False at the end.
    ///
    /// # Errors
    /// When the stream breaks off or holds something else than events.
    pub async fn advance(&mut self) -> anyhow::Result<bool> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = String::from_utf8(event).context("an event is not UTF-8")?;
                // Comments keep the connection alive and tell nothing.
                if event.starts_with(':') {
                    continue;
                }
                let told = event.trim_end().strip_prefix("data: ");
                let told = told.with_context(|| format!("no event: {event:?}"))?;
                self.reply.take_in(told)?;
                return Ok(true);
            }
            let Some(piece) = self.response.chunk().await? else {
                ensure!(self.buffer.is_empty(), "the stream ends in half an event");
                return Ok(false);
            };
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// Waits for text, or the end.
    ///
    /// # Errors
    /// See [`EventStream::advance`].
    pub async fn first_text(&mut self) -> anyhow::Result<()> {
        while self.reply.text.is_empty() && self.advance().await? {}
        Ok(())
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// See [`EventStream::advance`].
    pub async fn rest(mut self) -> anyhow::Result<Reply> {
        while self.advance().await? {}
        Ok(self.reply)
    }
}
