//! Buckets in Redis: the script and its connection.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, Script};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{RedisAddress, RedisFault};

/// What to take from a bucket, in microseconds of its filling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    /// Below zero it gives back.
    pub(super) cost_us: i64,
    /// What a full bucket holds.
    pub(super) whole_us: i64,
    /// Take nothing when the bucket does not hold it. A settlement is charged in any case.
    pub(super) must_fit: bool,
}

/// A bucket after a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charged {
    pub(super) is_charged: bool,
    /// Microseconds until it is full.
    pub(super) missing_us: i64,
}

/// One connection at a time, shared by all requests and made when it is first needed.
pub(super) struct Buckets {
    client: Client,
    place: String,
    limit: Duration,
    script: Script,
    /// With the count of connections before it.
    connection: Mutex<(u64, Option<MultiplexedConnection>)>,
    /// Whoever has the permit connects; the others wait and use what it made.
    connecting: Semaphore,
}

impl Buckets {
    /// `limit` is how long one charge may take.
    pub(super) fn new(address: &RedisAddress, limit: Duration) -> Result<Self, RedisFault> {
        let place = address.place();
        let client = Client::open(address.info().clone()).map_err(|error| server_fault(&place, &error))?;
        Ok(Self {
            client,
            place,
            limit,
            script: Script::new(include_str!("bucket.lua")),
            connection: Mutex::default(),
            connecting: Semaphore::new(1),
        })
    }

    pub(super) async fn charge(&self, bucket: &str, charge: Charge) -> Result<Charged, RedisFault> {
        match timeout(self.limit, self.try_charge(bucket, charge)).await {
            Ok(charged) => charged.map_err(|error| server_fault(&self.place, &error)),
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

    async fn try_charge(&self, bucket: &str, charge: Charge) -> RedisResult<Charged> {
        if let (age, Some(connection)) = self.current() {
            match self.run(connection, bucket, charge).await {
                Ok(charged) => return Ok(charged),
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
        let (age, connection) = self.connect().await?;
        let charged = self.run(connection, bucket, charge).await;
        if charged.is_err() {
            self.forget(age);
        }
        charged
    }

    async fn run(
        &self,
        mut connection: MultiplexedConnection,
        bucket: &str,
        charge: Charge,
    ) -> RedisResult<Charged> {
        let mut script = self.script.key(bucket);
        script
            .arg(charge.cost_us)
            .arg(charge.whole_us)
            .arg(u8::from(charge.must_fit));
        let (is_charged, missing_us): (bool, i64) = script.invoke_async(&mut connection).await?;
        Ok(Charged {
            is_charged,
            missing_us,
        })
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
