//! The sockets at work for one hand-off, so that its end stops them even when the peer does not move.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

/// Data connections at work for one hand-off.
#[derive(Default)]
pub(super) struct Busy {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    streams: Vec<Arc<TcpStream>>,
}

impl Busy {
    /// Puts a connection to work, unless the hand-off is over.
    pub(super) fn enter(&self, stream: &Arc<TcpStream>) -> Option<AtWork<'_>> {
        let mut state = self.state.lock().expect("nothing panics while it is held");
        if state.closed {
            return None;
        }
        state.streams.push(Arc::clone(stream));
        Some(AtWork {
            busy: self,
            stream: Arc::clone(stream),
        })
    }

    /// Ends the work: whoever reads or writes there returns at once, and nobody comes in any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().expect("nothing panics while it is held");
        state.closed = true;
        for stream in state.streams.drain(..) {
            // One that is gone already has ended too.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A connection works for a hand-off.
pub(super) struct AtWork<'a> {
    busy: &'a Busy,
    stream: Arc<TcpStream>,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut state = self.busy.state.lock().expect("nothing panics while it is held");
        state.streams.retain(|stream| !Arc::ptr_eq(stream, &self.stream));
    }
}
