//! One HTTP/1.1 connection, kept alive between requests.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::coop::has_budget_remaining;

use super::network::Stream;

type Connection = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// A connection and what drives it. The two are polled in one task: a chunk needs no hop from one task to another.
pub(crate) struct Link {
    requests: http1::SendRequest<Full<Bytes>>,
    /// None when it is closed.
    connection: Option<Pin<Box<Connection>>>,
    /// It has carried a request, so the server may have closed it meanwhile.
    pub(crate) is_used: bool,
}

impl Link {
    /// Speaks HTTP over a new connection.
    ///
    /// # Errors
    /// When the connection fails at once.
    pub(crate) async fn over(stream: Box<dyn Stream>) -> hyper::Result<Self> {
        let (requests, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
        Ok(Self {
            requests,
            connection: Some(Box::pin(connection)),
            is_used: false,
        })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// When the connection ends before.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let Self {
            requests, connection, ..
        } = self;
        drive(connection, requests.ready()).await?;
        let answer = requests.send_request(request);
        drive(connection, answer).await
    }

    /// The next bytes of an answer's body; none at its end.
    ///
    /// # Errors
    /// When the connection ends before the body.
    pub(crate) async fn next_piece(&mut self, body: &mut Incoming) -> hyper::Result<Option<Bytes>> {
        loop {
            let Some(frame) = drive(&mut self.connection, body.frame()).await else {
                return Ok(None);
            };
            if let Ok(piece) = frame?.into_data() {
                return Ok(Some(piece));
            }
        }
    }

    /// Whether it can carry another request, as far as is known here. What the server has done meanwhile is looked at.
    pub(crate) fn is_open(&mut self) -> bool {
        if let Some(connection) = &mut self.connection {
            let mut context = Context::from_waker(Waker::noop());
            if connection.as_mut().poll(&mut context).is_ready() {
                self.connection = None;
            }
        }
        self.connection.is_some() && self.requests.is_ready()
    }
}

/// Waits for `wanted` while the connection does its part.
async fn drive<T>(connection: &mut Option<Pin<Box<Connection>>>, wanted: impl Future<Output = T>) -> T {
    let mut wanted = pin!(wanted);
    poll_fn(|context| {
        if let Some(open) = connection
            && open.as_mut().poll(context).is_ready()
        {
            // Whatever was wrong, the request or the body tells it.
            *connection = None;
        }
        // What is wanted comes from the connection, which was just polled: whatever it has brought is here now, and it
        // wakes this task when there is more. A second wake-up would only cost a second poll for each chunk. A task that
        // has used up its turn is woken by whatever it polls next, so then the waker must be its own.
        let mut quiet = Context::from_waker(Waker::noop());
        let is_woken_by_connection = connection.is_some() && has_budget_remaining();
        wanted.as_mut().poll(if is_woken_by_connection {
            &mut quiet
        } else {
            context
        })
    })
    .await
}
