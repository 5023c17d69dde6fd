//! A destination by hand: sends what no honest one would, or nothing.

use std::time::Duration;

use tokio::time::timeout;

use super::TransportFixture;
use super::world::{ATTEMPT, REQUEST, World};
use crate::{Attach, Frame, HelloFrame, Link, PROTOCOL, ReleaseOutcome, Source};

pub(super) struct RawDestination {
    pub(super) link: Box<dyn Link>,
}

impl RawDestination {
    pub(super) async fn connect(fixture: &dyn TransportFixture, world: &World) -> Self {
        let hello = world.source.hello();
        let address = &hello.transports[0].1;
        let link = fixture
            .transport()
            .connect(&hello, address)
            .await
            .expect("the source listens");
        Self { link }
    }

    /// A HELLO the source accepts.
    pub(super) fn hello(world: &World) -> HelloFrame {
        let theirs = world.source.hello();
        HelloFrame {
            protocol: PROTOCOL,
            incarnation: 44,
            peer_incarnation: theirs.incarnation,
            layout_hash: theirs.layout_hash,
            block_bytes: theirs.block_bytes,
        }
    }

    pub(super) fn attach(source: &Source, block_count: u32) -> Attach {
        Attach {
            ticket: source.ticket(),
            request: REQUEST,
            attempt: ATTEMPT,
            block_count,
            first_needed_block: 0,
        }
    }

    /// Connected and attached, like an honest destination.
    pub(super) async fn attached(
        fixture: &dyn TransportFixture,
        world: &World,
        source: &Source,
        block_count: u32,
    ) -> Self {
        let mut raw = Self::connect(fixture, world).await;
        raw.send(Frame::Hello(Self::hello(world)));
        assert!(matches!(raw.recv().await, Some(Frame::Hello(_))));
        raw.send(Frame::Attach(Self::attach(source, block_count)));
        raw
    }

    pub(super) fn send(&mut self, frame: Frame) {
        self.link.send(frame).expect("the link is open");
    }

    pub(super) fn release(&mut self, attempt: u32, outcome: ReleaseOutcome) {
        // The source may have closed the link after an earlier RELEASE.
        let _ = self.link.send(Frame::Release {
            request: REQUEST,
            attempt,
            outcome,
        });
    }

    /// The next frame that is no heartbeat; `None` when the link is closed.
    pub(super) async fn recv(&mut self) -> Option<Frame> {
        let limit = Duration::from_secs(600);
        loop {
            match timeout(limit, self.link.recv())
                .await
                .expect("the source says something")
            {
                Some(Frame::Heartbeat { .. }) => {}
                other => return other,
            }
        }
    }
}
