//! One life of a process with a spool: what it keeps, and the task that sends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vlinders_bus::faults::{FaultPlan, Faults, FaultyBus};
use vlinders_bus::{
    Bus, ConsumerSpec, InProcessBus, InProcessLimits, Spool, SpoolLoad, SpoolMessage, SpoolOptions,
    SpoolPlace, StreamName, StreamRules, Subject,
};

/// Nothing a test waits for takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn message(id: u64) -> SpoolMessage {
    SpoolMessage {
        stream: StreamName::Usage,
        subject: Subject::new("vl.usage.tenant"),
        id: id.to_string(),
        payload: id.to_string().into(),
    }
}

pub(crate) fn messages(ids: std::ops::Range<u64>) -> Vec<SpoolMessage> {
    ids.map(message).collect()
}

pub(crate) fn options() -> SpoolOptions {
    SpoolOptions {
        adopt_every: Duration::from_millis(20),
        ..SpoolOptions::new(Arc::new(|| 0))
    }
}

/// A bus with a stream for so many messages.
pub(crate) async fn bus(max_messages: u64) -> Arc<dyn Bus> {
    let bus = InProcessBus::new(InProcessLimits::default());
    let rules = StreamRules {
        max_messages,
        max_age: Duration::from_secs(3600),
        dedup_window: Duration::from_secs(120),
    };
    bus.ensure_stream(StreamName::Usage, rules).await.unwrap();
    Arc::new(bus)
}

/// A way to the bus on which nothing gets through until it is healed.
pub(crate) fn cut(bus: &Arc<dyn Bus>) -> Arc<FaultyBus> {
    let plan: FaultPlan = vec![(Subject::new(">"), Faults::CUT)];
    Arc::new(FaultyBus::new(Arc::clone(bus), 1, plan))
}

/// Takes everything out of the stream and acknowledges it. No message is there twice.
pub(crate) async fn taken(bus: &Arc<dyn Bus>) -> BTreeSet<u64> {
    let spec = ConsumerSpec {
        stream: StreamName::Usage,
        filter: Subject::new("vl.usage.>"),
        name: "test".to_owned(),
        ack_wait: Duration::from_secs(60),
        max_deliver: 3,
    };
    let (consumer, mut ids) = (bus.consumer(spec).await.unwrap(), BTreeSet::new());
    loop {
        let deliveries = consumer.fetch(1000, Duration::ZERO).await.unwrap();
        if deliveries.is_empty() {
            return ids;
        }
        for delivery in deliveries {
            let id = std::str::from_utf8(&delivery.payload).unwrap().parse().unwrap();
            assert!(ids.insert(id), "{id} is there twice");
            delivery.control.ack().await.unwrap();
        }
    }
}

/// Once it takes, within reason.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it does not happen")
}

/// A process that keeps and sends.
pub(crate) struct Life {
    pub(crate) spool: Spool,
    load: watch::Receiver<SpoolLoad>,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Life {
    pub(crate) async fn begin(place: Arc<dyn SpoolPlace>, options: SpoolOptions, bus: Arc<dyn Bus>) -> Self {
        let spool = Spool::open(place, options).await.unwrap();
        let (told, load) = watch::channel(SpoolLoad::default());
        let stopping = CancellationToken::new();
        let sending = spool.clone().run(bus, stopping.clone(), move |load| {
            told.send_replace(load);
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "the test plays the process that owns the task"
        )]
        let task = tokio::spawn(sending);
        Self {
            spool,
            load,
            stopping,
            task,
        }
    }

    /// Waits until so much waits.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&SpoolLoad) -> bool) -> SpoolLoad {
        within(async {
            loop {
                self.load.mark_unchanged();
                let load = self.spool.load();
                if wanted(&load) {
                    return load;
                }
                self.load.changed().await.expect("it runs");
            }
        })
        .await
    }

    pub(crate) async fn until_empty(&mut self) {
        self.until(|load| *load == SpoolLoad::default()).await;
    }

    /// Ends as if killed.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it ran until now");
    }

    /// Ends in good order.
    pub(crate) async fn stop(self) {
        let Self {
            spool,
            stopping,
            task,
            ..
        } = self;
        stopping.cancel();
        drop(spool);
        within(task).await.unwrap();
    }
}
