//! The connection to Redis, and what is said over it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, RedisResult, ScriptInvocation};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{RedisAddress, RedisFault};

/// One connection at a time, shared by all requests and made when it is first needed.
pub(super) struct Connection {
    client: Client,
    place: String,
    limit: Duration,
    /// With the count of connections before it.
    connection: Mutex<(u64, Option<MultiplexedConnection>)>,
    /// Whoever has the permit connects; the others wait and use what it made.
    connecting: Semaphore,
}

impl Connection {
    /// `limit` is how long one call may take.
    pub(super) fn new(address: &RedisAddress, limit: Duration) -> Result<Self, RedisFault> {
        let place = address.place();
        let client = Client::open(address.info().clone()).map_err(|error| server_fault(&place, &error))?;
        Ok(Self {
            client,
            place,
            limit,
            connection: Mutex::default(),
            connecting: Semaphore::new(1),
        })
    }

    /// Runs a script. One round trip, but for the first time that a server sees it.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisFault> {
        match timeout(self.limit, self.try_run(script)).await {
            Ok(answer) => answer.map_err(|error| server_fault(&self.place, &error)),
            Err(_) => {
                // Perhaps it leads nowhere any more.
                self.forget(self.current().0);
                Err(RedisFault::Server {
                    address: self.place.clone(),
                    reason: format!("no answer within {} ms", self.limit.as_millis()),
                })
            }
        }
    }

    async fn try_run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        if let (age, Some(mut connection)) = self.current() {
            match script.invoke_async(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    // A server that became a replica, or a stranger, is better left too.
                    self.forget(age);
                    // A connection that was closed while it lay idle says nothing about the server.
                    if !error.is_connection_dropped() {
                        return Err(error);
                    }
                }
            }
        }
        let (age, mut connection) = self.connect().await?;
        let answer = script.invoke_async(&mut connection).await;
        if answer.is_err() {
            self.forget(age);
        }
        answer
    }

    async fn connect(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let _permit = self.connecting.acquire().await.expect("nobody closes it");
        if let (age, Some(connection)) = self.current() {
            return Ok((age, connection));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limit))
            .set_response_timeout(Some(self.limit));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut current = self.lock();
        *current = (current.0 + 1, Some(connection.clone()));
        Ok((current.0, connection))
    }

    fn current(&self) -> (u64, Option<MultiplexedConnection>) {
        self.lock().clone()
    }

    /// Unless somebody has made another one meanwhile.
    fn forget(&self, age: u64) {
        let mut current = self.lock();
        if current.0 == age {
            current.1 = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Option<MultiplexedConnection>)> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server_fault(place: &str, error: &RedisError) -> RedisFault {
    RedisFault::Server {
        address: place.to_owned(),
        reason: error.to_string().replace(['\n', '\r'], " "),
    }
}
