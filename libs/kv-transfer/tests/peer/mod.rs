//! A source in a process of its own: this test program started again, told by its environment what to be.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use vlinders_kernel_api::KvMemory;
use vlinders_kernel_shared_memory::SharedPool;
use vlinders_kv_transfer::{
    Endpoint, EndpointConfig, KvTransport, PullOrder, ShmOptions, ShmTransport, TcpOptions, TcpTransport,
};
#[cfg(feature = "nixl")]
use vlinders_kv_transfer::{NixlLanes, NixlOptions, NixlTransport};
use vlinders_types::{BlockId, Hello, RequestId, Ticket, WorkerId};

/// Blocks as large as those of an 8 B model.
pub(crate) const BLOCK_BYTES: usize = 2 << 20;
pub(crate) const BLOCKS: u32 = 48;
pub(crate) const LEASE: Duration = Duration::from_millis(1_500);
/// Its first read connects, which takes long on a busy machine.
#[cfg(feature = "nixl")]
pub(crate) const NIXL_LEASE: Duration = Duration::from_secs(5);
pub(crate) const REQUEST: RequestId = RequestId(5);
const TASK: &str = "VLINDERS_TEST_PEER";

/// What carries the blocks.
#[derive(Clone)]
pub(crate) enum Way {
    Tcp(SocketAddr),
    Shm(PathBuf),
    #[cfg(feature = "nixl")]
    Nixl,
}

impl Way {
    pub(crate) fn transport(&self) -> Arc<dyn KvTransport> {
        match self {
            Self::Tcp(address) => TcpTransport::new(TcpOptions::new(*address)),
            Self::Shm(folder) => ShmTransport::new(ShmOptions::new(folder.clone())).expect("a host"),
            #[cfg(feature = "nixl")]
            Self::Nixl => {
                let mut options = NixlOptions::new(([127, 0, 0, 1], 0).into());
                (options.lanes, options.device) = (NixlLanes::Tcp, Some("lo".to_owned()));
                NixlTransport::new(options).expect("tests/nixl-env has set up the library")
            }
        }
    }

    /// How long its endpoints wait for one another.
    fn lease(&self) -> Duration {
        match self {
            Self::Tcp(_) | Self::Shm(_) => LEASE,
            #[cfg(feature = "nixl")]
            Self::Nixl => NIXL_LEASE,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Shm(_) => "shm",
            #[cfg(feature = "nixl")]
            Self::Nixl => "nixl",
        }
    }
}

/// An endpoint with a pool of its own.
pub(crate) fn endpoint(way: &Way, incarnation: u64) -> (Arc<Endpoint>, Arc<SharedPool>) {
    endpoint_over(way, way.transport(), incarnation)
}

/// As [`endpoint`], over a transport like that of `way`.
pub(crate) fn endpoint_over(
    way: &Way,
    transport: Arc<dyn KvTransport>,
    incarnation: u64,
) -> (Arc<Endpoint>, Arc<SharedPool>) {
    let memory = Arc::new(SharedPool::new(BLOCKS, BLOCK_BYTES).expect("memory"));
    let worker = WorkerId::new("peer");
    let mut config = EndpointConfig::new(worker, incarnation, [7; 32], 1, Arc::new(|| 0));
    config.lease = way.lease();
    config.chunk_blocks = 8;
    let endpoint = Endpoint::new(config, memory.clone(), vec![transport]).expect("it can listen");
    (endpoint, memory)
}

/// The byte that fills a block of the source.
pub(crate) fn filling(block: u32) -> u8 {
    block.to_le_bytes()[0].wrapping_mul(37) ^ 0x5a
}

/// A source process. Killed when dropped.
pub(crate) struct Peer {
    child: Child,
    _output: BufReader<ChildStdout>,
    pub(crate) hello: Hello,
    pub(crate) ticket: Ticket,
}

impl Peer {
    /// Starts one that has announced `ready` of its blocks.
    pub(crate) fn start(way: &Way, incarnation: u64, ready: u32) -> Self {
        let place = match way {
            Way::Tcp(address) => address.to_string(),
            Way::Shm(folder) => folder.display().to_string(),
            #[cfg(feature = "nixl")]
            Way::Nixl => "anywhere".to_owned(),
        };
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["the_peer_process", "--exact", "--nocapture"])
            .env(TASK, format!("{} {place} {incarnation} {ready}", way.name()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        while !line.starts_with("peer ") {
            line.clear();
            assert_ne!(
                output.read_line(&mut line).expect("it is alive"),
                0,
                "it says where it is"
            );
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, address, number, expires_ms, mac] = words[..] else {
            panic!("five words: {line}");
        };
        let mac = u128::from_str_radix(mac, 16).expect("hexadecimal");
        Self {
            child,
            _output: output,
            hello: Hello {
                protocol: vlinders_kv_transfer::PROTOCOL,
                worker: WorkerId::new("peer"),
                incarnation,
                layout_hash: 1,
                block_bytes: BLOCK_BYTES as u64,
                transports: vec![(way.name().to_owned(), address.to_owned())],
            },
            ticket: Ticket {
                number: number.parse().expect("a number"),
                expires_ms: expires_ms.parse().expect("a number"),
                mac: mac.to_be_bytes(),
            },
        }
    }

    pub(crate) fn order(&self) -> PullOrder {
        PullOrder {
            peer: self.hello.clone(),
            ticket: self.ticket,
            request: REQUEST,
            attempt: 0,
            first_needed_block: 0,
            destination: (0..BLOCKS).rev().map(BlockId).collect(),
        }
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its number in the system.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        send(self.id(), name);
    }
}

/// Sends a process a signal by name.
pub(crate) fn send(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status();
    assert!(sent.expect("kill is a program").success());
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the other process runs; nothing in the process that runs the tests.
pub(crate) fn run_if_asked() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let words: Vec<&str> = task.split(' ').collect();
    let [way, place, incarnation, ready] = words[..] else {
        panic!("four words: {task}");
    };
    let way = match way {
        "tcp" => Way::Tcp(place.parse().expect("an address")),
        #[cfg(feature = "nixl")]
        "nixl" => Way::Nixl,
        _ => Way::Shm(place.into()),
    };
    let ready: u32 = ready.parse().expect("a number");
    let (endpoint, memory) = endpoint(&way, incarnation.parse().expect("a number"));
    for block in 0..BLOCKS {
        memory.fill_block(BlockId(block), &mut |bytes| bytes.fill(filling(block)));
    }
    let source = endpoint.open(REQUEST, 0, BLOCKS).expect("nothing is open");
    let blocks: Vec<BlockId> = (0..ready).map(BlockId).collect();
    let last = (ready == BLOCKS).then(|| Bytes::from_static(b"the end"));
    source.ready(0, &blocks, last).expect("in order");
    let (address, ticket) = (&endpoint.hello().transports[0].1, source.ticket());
    let mac = u128::from_be_bytes(ticket.mac);
    println!(
        "\npeer {address} {} {} {mac:032x}",
        ticket.number, ticket.expires_ms
    );
    std::io::stdout().flush().expect("somebody reads");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime.block_on(source.outcome());
    println!("outcome {outcome:?}");
}
