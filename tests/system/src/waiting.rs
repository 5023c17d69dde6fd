//! Waiting for something to become true, never for time to pass.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks again and again until there is an answer. `Err` of the last look tells what is still missing.
///
/// # Errors
/// After [`PATIENCE`].
pub async fn until<T, F>(mut look: F) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> anyhow::Result<T>,
{
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(missing) if begun.elapsed() > PATIENCE => {
                bail!("waited {} s in vain: {missing:#}", PATIENCE.as_secs())
            }
            Err(_missing) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
