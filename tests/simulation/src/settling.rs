//! How a run ends: everybody idle with nothing left, then everybody stopped in good order.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vlinders_bus::StreamName;

use crate::world::{Life, World, text_of};

impl World {
    /// Waits until nothing is left of any request, then stops everybody in good order.
    pub(crate) async fn settle(mut self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        // Beacons tell about the past.
        sleep(Duration::from_secs(1)).await;
        loop {
            let left = self.left().await?;
            if left.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "left {limit:?} after the last request: {}",
                    left.join(", ")
                ));
            }
            sleep(Duration::from_millis(250)).await;
        }
        for life in self.workers.iter_mut().filter_map(Option::take) {
            stop(life).await?;
        }
        for (number, disk) in self.disks.iter().enumerate() {
            if (disk.left(), disk.aside()) != ((0, 0), 0) {
                let (left, aside) = (disk.left(), disk.aside());
                return Err(format!("disk {number} holds {left:?} and {aside} damaged files"));
            }
        }
        self.usage
            .take()
            .map(stop)
            .ok_or("usage is there once all is healed")?
            .await
    }

    /// What is not idle.
    async fn left(&self) -> Result<Vec<String>, String> {
        let mut left = Vec::new();
        for stream in [StreamName::Requests, StreamName::Usage] {
            let pending = self.bus.pending(stream).await.map_err(text_of)?;
            if pending > 0 {
                left.push(format!("{pending} pending in {}", stream.name()));
            }
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let (files, bytes) = disk.left();
            if files > 0 {
                left.push(format!("{bytes} bytes in {files} files of disk {number}"));
            }
        }
        for (worker, life) in self.workers.iter().enumerate() {
            let id = self.worker_id(worker);
            let life = life.as_ref().ok_or_else(|| format!("{id} is down"))?;
            if life.tasks.failed().is_cancelled() {
                return Err(format!("a task of {id} panicked"));
            }
            let open = life.endpoint.as_ref().map(|endpoint| endpoint.open_hand_offs());
            if open.is_some_and(|open| open != Default::default()) {
                left.push(format!("{id} has {open:?}"));
            }
            let running = life.tasks.running();
            for task in ["pull", "hand-over"].iter().filter(|task| running.contains(task)) {
                left.push(format!("{id} runs a {task}"));
            }
            let beacons = self.beacons.lock().unwrap_or_else(PoisonError::into_inner);
            match beacons.get(&id) {
                Some(beacon) if beacon.running == 0 && beacon.free_blocks == beacon.total_blocks => {}
                beacon => left.push(format!("{id} says {beacon:?}")),
            }
        }
        Ok(left)
    }
}

/// Ends a life suddenly; its panics before that are not forgotten.
pub(crate) async fn end(life: Life) -> Result<(), String> {
    life.tasks.kill();
    let Life {
        tasks, endpoint, bus, ..
    } = life;
    drop((endpoint, bus));
    while !tasks.running().is_empty() {
        tokio::task::yield_now().await;
    }
    if tasks.failed().is_cancelled() {
        return Err("a task had panicked before it was killed".to_owned());
    }
    Ok(())
}

async fn stop(life: Life) -> Result<(), String> {
    life.tasks.stop(Duration::from_secs(60)).await.map_err(text_of)?;
    if life.tasks.failed().is_cancelled() {
        return Err("a task panicked".to_owned());
    }
    Ok(())
}
