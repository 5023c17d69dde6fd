//! The source's data connections: one thread each, which writes blocks straight from the pool.

use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use super::busy::Busy;
use super::wire::{BlockHead, Request};
use crate::Session;
use crate::link_key::LinkKey;

/// Data connections to one endpoint at most; each has a thread.
const MAX_CONNECTIONS: usize = 512;
/// Small blocks are gathered so that they share system calls; larger ones go straight out.
const BUFFER_BYTES: usize = 64 * 1024;

/// The connected destinations, and the data connections of all of them.
#[derive(Default)]
pub(super) struct Serving {
    links: Mutex<HashMap<LinkKey, Arc<Served>>>,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next_number: u64,
    open: HashMap<u64, Arc<TcpStream>>,
    closed: bool,
}

/// One connected destination, as its data connections see it.
pub(super) struct Served {
    /// None once its control connection has ended.
    session: Mutex<Option<Session>>,
    busy: Busy,
}

impl Served {
    /// The session, while the control connection lasts. Held for a few assignments at a time.
    pub(super) fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().expect("nothing panics while it is held")
    }
}

/// A destination's place among the links. Dropping it ends its session and its reads.
pub(super) struct Place {
    serving: Arc<Serving>,
    key: LinkKey,
    pub(super) served: Arc<Served>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serving.links().remove(&self.key);
        let session = self.served.session().take();
        if !session.as_ref().is_some_and(Session::is_released) {
            self.served.busy.close();
        }
    }
}

impl Serving {
    fn links(&self) -> MutexGuard<'_, HashMap<LinkKey, Arc<Served>>> {
        self.links.lock().expect("nothing panics while it is held")
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().expect("nothing panics while it is held")
    }

    /// Lets data connections read for `session` under `key`; `None` when the key is taken.
    pub(super) fn admit(self: &Arc<Self>, key: LinkKey, session: Session) -> Option<Place> {
        let mut links = self.links();
        if links.contains_key(&key) {
            return None;
        }
        let served = Arc::new(Served {
            session: Mutex::new(Some(session)),
            busy: Busy::default(),
        });
        links.insert(key, Arc::clone(&served));
        Some(Place {
            serving: Arc::clone(self),
            key,
            served,
        })
    }

    /// Starts a thread for a data connection, whose preface was read.
    pub(super) fn serve(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let stream = Arc::new(stream);
        let mut connections = self.connections();
        if connections.closed || connections.open.len() >= MAX_CONNECTIONS {
            tracing::warn!(
                limit = MAX_CONNECTIONS,
                "kv transfer has too many data connections"
            );
            return Ok(());
        }
        let number = connections.next_number;
        let (serving, served) = (Arc::clone(self), Arc::clone(&stream));
        thread::Builder::new()
            .name("kv-tcp-send".to_owned())
            .spawn(move || {
                if let Err(error) = serving.answer(&served) {
                    tracing::debug!(%error, "kv transfer data connection ended");
                }
                serving.connections().open.remove(&number);
            })?;
        connections.next_number += 1;
        connections.open.insert(number, stream);
        Ok(())
    }

    /// Ends all data connections; their threads end soon.
    pub(super) fn close(&self) {
        let mut connections = self.connections();
        connections.closed = true;
        for stream in connections.open.values() {
            // One that is gone already has ended too.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// A thread's life: one request after the other.
    fn answer(&self, stream: &Arc<TcpStream>) -> io::Result<()> {
        let mut requests = BufReader::new(&**stream);
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, &**stream);
        while let Some(request) = Request::read(&mut requests)? {
            let served = self.links().get(&request.key).cloned();
            let at_work = served.as_ref().and_then(|served| served.busy.enter(stream));
            for (index, block) in &request.reads {
                // One pass per block: it ends when the block is in the socket, whose copy nobody can change.
                let pass = match (&served, &at_work) {
                    (Some(served), Some(_)) => served
                        .session()
                        .as_ref()
                        .and_then(|session| session.admit(*index, *block).ok()),
                    (None | Some(_), _) => None,
                };
                let head = BlockHead {
                    index: *index,
                    granted: pass.is_some(),
                };
                let Some(pass) = pass else {
                    writer.write_all(&head.encode())?;
                    break;
                };
                let mut written = Ok(());
                pass.with_block(&mut |bytes| written = write_both(&mut writer, &head.encode(), bytes));
                written?;
            }
            writer.flush()?;
        }
        Ok(())
    }
}

fn write_both(writer: &mut impl Write, head: &[u8], bytes: &[u8]) -> io::Result<()> {
    let mut parts = [IoSlice::new(head), IoSlice::new(bytes)];
    let mut rest = parts.as_mut_slice();
    while !rest.is_empty() {
        match writer.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
