//! The loop itself: commands, a step, notes; asleep when there is nothing to do.
//!
//! It waits only for commands and for room for notes, so a thread of its own can drive it, and a simulation can drive
//! it as a task in virtual time. Both run the same code.

use std::sync::PoisonError;
#[cfg(feature = "simulation")]
use std::sync::{Arc, Mutex};
#[cfg(feature = "simulation")]
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use vlinders_engine::Engine;
use vlinders_service_kit::Pulse;

use crate::beacons::SharedLoad;
use crate::core::{Command, Core};
use crate::outbox::Note;

/// Commands that wait for the loop.
pub(crate) const COMMANDS: usize = 1024;

/// Where a simulated engine leaves the time its last step took.
#[cfg(feature = "simulation")]
pub type StepTime = Arc<Mutex<Duration>>;

/// Who drives the loop.
pub(crate) enum Drive {
    /// A thread of its own: steps take the time they take.
    Thread,
    /// A task beside all others: after each step it sleeps in virtual time.
    #[cfg(feature = "simulation")]
    Task(StepTime),
}

impl Drive {
    /// Whether what the loop waits for may be computed on other threads.
    pub(crate) fn has_threads(&self) -> bool {
        match self {
            Self::Thread => true,
            #[cfg(feature = "simulation")]
            Self::Task(_) => false,
        }
    }
}

/// Everything the loop owns.
pub(crate) struct Turn {
    pub(crate) core: Core,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) notes: mpsc::Sender<Vec<Note>>,
    pub(crate) load: SharedLoad,
    /// Rests wherever the loop waits for others.
    pub(crate) pulse: Pulse,
    #[cfg(feature = "simulation")]
    pub(crate) step_time: Option<StepTime>,
}

impl Turn {
    /// Turns until everybody who could give a command is gone, or the core has drained.
    pub(crate) async fn run(mut self) {
        loop {
            self.pulse.begin();
            while let Ok(command) = self.commands.try_recv() {
                self.core.handle(command);
            }
            if self.core.must_announce() && !self.report().await {
                return;
            }
            self.pulse.begin();
            let began = Instant::now();
            let worked = self.core.step(&mut *self.engine);
            self.pulse.rest();
            #[cfg(feature = "simulation")]
            self.pass_step_time(worked).await;
            if worked {
                self.core.step_took(began.elapsed());
            }
            if !self.report().await || self.core.is_drained() {
                return;
            }
            if worked {
                continue;
            }
            self.core.assert_settled_when_idle();
            let Some(command) = self.commands.recv().await else {
                return;
            };
            self.pulse.begin();
            self.core.handle(command);
        }
    }

    /// False when nobody carries notes out any more.
    async fn report(&mut self) -> bool {
        let load = self.core.load();
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
        let notes = self.core.take_notes();
        self.pulse.rest();
        notes.is_empty() || self.notes.send(notes).await.is_ok()
    }

    /// Others get their turn while the engine seems to be busy. What the step said is told afterwards.
    #[cfg(feature = "simulation")]
    async fn pass_step_time(&mut self, worked: bool) {
        if let (true, Some(step_time)) = (worked, &self.step_time) {
            let time = std::mem::take(&mut *step_time.lock().unwrap_or_else(PoisonError::into_inner));
            tokio::task::yield_now().await;
            tokio::time::sleep(time).await;
        }
    }
}
