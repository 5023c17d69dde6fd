//! The loop itself, on its own thread: commands, a step, notes; asleep when there is nothing to do.

use std::sync::PoisonError;

use tokio::sync::mpsc;
use vlinders_engine::Engine;

use crate::beacons::SharedLoad;
use crate::core::{Command, Core};
use crate::outbox::Note;

/// Commands that wait for the loop.
pub(crate) const COMMANDS: usize = 1024;

/// Everything the thread owns.
pub(crate) struct Turn {
    pub(crate) core: Core,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) notes: mpsc::Sender<Vec<Note>>,
    pub(crate) load: SharedLoad,
}

impl Turn {
    /// Turns until everybody who could give a command is gone, or the core has drained.
    pub(crate) fn run(mut self) {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.core.handle(command);
            }
            let worked = self.core.step(&mut *self.engine);
            if !self.report() || self.core.is_drained() {
                return;
            }
            if worked {
                continue;
            }
            self.core.assert_settled_when_idle();
            let Some(command) = self.commands.blocking_recv() else {
                return;
            };
            self.core.handle(command);
        }
    }

    /// False when nobody carries notes out any more.
    fn report(&mut self) -> bool {
        let load = self.core.load();
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = load;
        let notes = self.core.take_notes();
        notes.is_empty() || self.notes.blocking_send(notes).is_ok()
    }
}
