//! What the client tells about its connection: up or down, how often made, and what ends it for good.

use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{ClientError, Event, ServerError};
use tokio::sync::watch;

use super::options::NatsFatal;

/// How a login that was turned down while reconnecting reads in the client's event.
const LOGIN_REFUSED: &str = "authorization violation";
/// How the servers begin their word about a missing permission.
const PERMISSION: &str = "permissions violation";

/// The state of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Connections made so far. A change means: what was on its way may be lost.
    pub(super) connections: u64,
    /// Whether there is one now.
    pub(super) is_up: bool,
}

/// The connection's health, followed by everybody who waits for an answer.
pub(super) struct Health {
    line: watch::Sender<Line>,
    fatal: watch::Sender<Option<NatsFatal>>,
    overruns: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            line: watch::Sender::new(Line::default()),
            fatal: watch::Sender::new(None),
            overruns: AtomicU64::new(0),
        }
    }
}

impl Health {
    /// Takes in one event.
    pub(super) fn hear(&self, event: &Event) {
        match event {
            Event::Connected => self.line.send_modify(|line| {
                line.connections += 1;
                line.is_up = true;
            }),
            Event::Disconnected | Event::Closed => self.line.send_modify(|line| line.is_up = false),
            Event::ServerError(ServerError::Other(text)) => {
                if text.to_ascii_lowercase().contains(PERMISSION) {
                    self.end(NatsFatal::Permission(text.clone()));
                }
            }
            Event::ServerError(ServerError::AuthorizationViolation) => self.end(NatsFatal::Login),
            Event::ClientError(ClientError::Other(text)) => {
                if text.to_ascii_lowercase().contains(LOGIN_REFUSED) {
                    self.end(NatsFatal::Login);
                }
            }
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
                self.overruns.fetch_add(1, Ordering::Relaxed);
            }
            Event::LameDuckMode
            | Event::Draining
            | Event::ClientError(ClientError::MaxReconnects | ClientError::ServerNotInPool) => {}
        }
    }

    /// Nothing gets better from here. The first reason stays.
    pub(super) fn end(&self, reason: NatsFatal) {
        self.fatal.send_if_modified(|fatal| {
            let is_first = fatal.is_none();
            if is_first {
                tracing::error!(%reason, "the bus cannot go on");
                *fatal = Some(reason);
            }
            is_first
        });
    }

    /// The state of the line, now and later.
    pub(super) fn line(&self) -> watch::Receiver<Line> {
        self.line.subscribe()
    }

    /// Waits until the connection is ended for good.
    pub(super) async fn fatal(&self) -> NatsFatal {
        let mut fatal = self.fatal.subscribe();
        let ended = fatal.wait_for(Option::is_some).await;
        let reason = ended.expect("the sender is part of self").clone();
        reason.expect("waited for it")
    }

    /// Messages lost inside the client, before they reached any subscriber's queue.
    pub(super) fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_permission_ends_it_and_the_first_reason_stays() {
        let health = Health::default();
        let text = "Permissions Violation for Publish to \"vl.req.x\"";
        health.hear(&Event::ServerError(ServerError::Other(text.to_owned())));
        health.hear(&Event::ServerError(ServerError::AuthorizationViolation));
        assert_eq!(health.fatal().await, NatsFatal::Permission(text.to_owned()));
    }

    #[test]
    fn connections_are_counted() {
        let health = Health::default();
        let line = health.line();
        for event in [Event::Connected, Event::Disconnected, Event::Connected] {
            health.hear(&event);
        }
        let expected = Line {
            connections: 2,
            is_up: true,
        };
        assert_eq!(*line.borrow(), expected);
    }
}
