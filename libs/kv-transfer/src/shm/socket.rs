//! A Unix socket that carries frames, and once the source's descriptor beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use vlinders_kernel_api::KvMemory;

use crate::control::Socket;

/// What goes out with the next bytes.
#[derive(Clone, Default)]
pub(super) struct Giver(Arc<Mutex<Option<Arc<dyn KvMemory>>>>);

impl Giver {
    /// Gives the peer the descriptor of `memory`, with the next bytes it is sent.
    pub(super) fn give(&self, memory: Arc<dyn KvMemory>) {
        *self.waiting() = Some(memory);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Arc<dyn KvMemory>>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

/// The control connection of `shm`.
pub(super) struct FdSocket {
    stream: UnixStream,
    outgoing: Giver,
    /// The last one that came.
    incoming: Mutex<Option<OwnedFd>>,
}

impl FdSocket {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            outgoing: Giver::default(),
            incoming: Mutex::default(),
        }
    }

    /// A handle for who gives something while the socket is at work.
    pub(super) fn giver(&self) -> Giver {
        self.outgoing.clone()
    }

    /// What the peer has given.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        self.incoming
            .lock()
            .expect("nothing panics while it is held")
            .take()
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(into)];
        let received = rustix::net::recvmsg(
            &self.stream,
            &mut parts,
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                for file in files {
                    *self.incoming.lock().expect("nothing panics while it is held") = Some(file);
                }
            }
        }
        Ok(received.bytes)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut outgoing = self.outgoing.waiting();
        let file = outgoing.as_ref().and_then(|memory| memory.shared_fd());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = file.as_slice();
        if !files.is_empty() {
            let fits = ancillary.push(SendAncillaryMessage::ScmRights(files));
            debug_assert!(fits, "there is space for one descriptor");
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
        // It went with the first of these bytes.
        *outgoing = None;
        Ok(sent)
    }
}

impl Socket for FdSocket {
    fn ready(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send {
        self.stream.ready(interest)
    }

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.try_io(Interest::READABLE, || self.receive(into))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_io(Interest::WRITABLE, || self.send(bytes))
    }

    fn end_writing(&self) {
        // A socket that is gone has ended too.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }
}
