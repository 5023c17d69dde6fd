//! Deliveries of a faulty bus: what a consumer says about them may be lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::draw::Act;
use super::{Fate, refused};
use crate::{BusError, Consumer, Delivery, DeliveryControl, Subject};

pub(super) struct FaultyConsumer {
    pub(super) inner: Box<dyn Consumer>,
    pub(super) filter: Subject,
    pub(super) fate: Arc<Fate>,
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        let (faults, mut draw) = self.fate.draw(Act::Fetch, &self.filter);
        if draw.happens(faults.refuse) {
            return Err(refused());
        }
        let mut deliveries = self.inner.fetch(max, wait).await?;
        // Lost on the way: the stream counts it as delivered and gives it to somebody else after `ack_wait`.
        deliveries.retain(|delivery| {
            let (faults, mut draw) = self.fate.draw(Act::Deliver, &delivery.subject);
            !draw.happens(faults.drop)
        });
        let wrap = |delivery: Delivery| {
            let (subject, fate) = (delivery.subject.clone(), self.fate.clone());
            let control = Box::new(FaultyControl {
                inner: delivery.control,
                subject,
                fate,
            });
            Delivery { control, ..delivery }
        };
        Ok(deliveries.into_iter().map(wrap).collect())
    }
}

struct FaultyControl {
    inner: Box<dyn DeliveryControl>,
    subject: Subject,
    fate: Arc<Fate>,
}

impl FaultyControl {
    /// None when the settlement goes through, else what the consumer is told about its loss.
    fn loss(&self) -> Option<Result<(), BusError>> {
        let (faults, mut draw) = self.fate.draw(Act::Settle, &self.subject);
        let lost = draw.happens(faults.lose_settlement);
        lost.then(|| if draw.happens(0.5) { Err(refused()) } else { Ok(()) })
    }
}

#[async_trait]
impl DeliveryControl for FaultyControl {
    async fn ack(&self) -> Result<(), BusError> {
        match self.loss() {
            Some(told) => told,
            None => self.inner.ack().await,
        }
    }

    async fn progress(&self) -> Result<(), BusError> {
        match self.loss() {
            Some(told) => told,
            None => self.inner.progress().await,
        }
    }

    async fn give_back(&self, delay: Duration) -> Result<(), BusError> {
        match self.loss() {
            Some(told) => told,
            None => self.inner.give_back(delay).await,
        }
    }

    async fn terminate(&self) -> Result<(), BusError> {
        match self.loss() {
            Some(told) => told,
            None => self.inner.terminate().await,
        }
    }
}
