//! Settling what requests have used, behind their backs: no answer waits for it.

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::mpsc;
use vlinders_ledger::{Rates, Tokens};
use vlinders_service_kit::{Counter, Metrics, Stage, Tasks};
use vlinders_types::{TenantId, TokenCounts};

use super::{Cost, Limiter, Used};
use crate::Caller;

/// Requests that have ended and wait to be settled.
const WAITING: usize = 8192;
/// Settled at one time.
const TOGETHER: usize = 64;

struct Order {
    caller: Caller,
    cost: Cost,
    used: Used,
}

/// Takes what has ended. Never waits.
#[derive(Clone)]
pub(crate) struct Settling {
    orders: mpsc::Sender<Order>,
    lost: Counter,
}

impl Settling {
    /// Settles until the tasks stop, and then what is left.
    pub(crate) fn start(limiter: Arc<dyn Limiter>, tasks: &Tasks, metrics: &Metrics) -> Self {
        let (orders, mut waiting) = mpsc::channel::<Order>(WAITING);
        let help = "Requests whose use was not settled: what was kept for them stays charged";
        let lost = metrics.counter("limiter_lost_settlements", help, &[]);
        let (stopping, lost_by_task) = (tasks.stopping(Stage::Flush), lost.clone());
        tasks.spawn(Stage::Flush, "limiter-settling", async move {
            let mut batch = Vec::with_capacity(TOGETHER);
            loop {
                let count = tokio::select! {
                    biased;
                    count = waiting.recv_many(&mut batch, TOGETHER) => count,
                    () = stopping.cancelled() => 0,
                };
                if count == 0 {
                    return;
                }
                let settled = batch.drain(..).map(|order| {
                    let limiter = &limiter;
                    async move { limiter.settle(&order.caller, &order.cost, order.used).await }
                });
                let settled = join_all(settled).await;
                lost_by_task.inc_by(settled.into_iter().filter(|is_settled| !is_settled).count() as u64);
            }
        });
        Self { orders, lost }
    }
}

/// What is kept for a request that was let in. Settled when it is dropped, with what was told last.
pub(crate) struct Reservation {
    settling: Settling,
    caller: Caller,
    cost: Cost,
    /// What its tokens cost, where somebody counts money.
    rates: Option<Rates>,
    used: Used,
}

impl Reservation {
    pub(crate) fn new(settling: Settling, caller: Caller, cost: Cost, rates: Option<Rates>) -> Self {
        Self {
            settling,
            caller,
            cost,
            rates,
            used: Used::default(),
        }
    }

    /// Who pays.
    pub(crate) fn tenant(&self) -> &TenantId {
        &self.caller.tenant
    }

    /// The request has used so many tokens.
    pub(crate) fn used(&mut self, counts: TokenCounts) {
        let tokens = Tokens::from(counts);
        self.used = Used {
            tokens: tokens.prompt + tokens.completion,
            nanos: self.rates.map_or(0, |rates| rates.price(tokens).nanos()),
        };
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let order = Order {
            caller: self.caller.clone(),
            cost: self.cost,
            used: self.used,
        };
        if self.settling.orders.try_send(order).is_err() {
            self.settling.lost.inc();
        }
    }
}
