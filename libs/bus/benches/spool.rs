//! What keeping a message costs, beside the bare calls to the disk: `cargo bench -p vlinders-bus --bench spool`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vlinders_bus::{FolderSpools, Spool, SpoolMessage, SpoolOptions, SpoolSync, StreamName, Subject};

const KEEPS: u32 = 2_000;
/// About what a usage event takes.
const PAYLOAD_BYTES: usize = 160;

fn message(number: u32) -> SpoolMessage {
    SpoolMessage {
        stream: StreamName::Usage,
        subject: Subject::new("vl.usage.tenant"),
        id: number.to_string(),
        payload: vec![7; PAYLOAD_BYTES].into(),
    }
}

/// The middle and the 99th of a hundred.
fn quantiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100].map(|index| times[index].as_secs_f64() * 1e6)
}

async fn keep(folder: &std::path::Path, sync: SpoolSync) -> Vec<Duration> {
    let options = SpoolOptions {
        sync,
        ..SpoolOptions::new(Arc::new(|| 0))
    };
    let place = Arc::new(FolderSpools::new(folder.to_owned()));
    let spool = Spool::open(place, options).await.unwrap();
    let mut times = Vec::new();
    for number in 0..KEEPS {
        let began = Instant::now();
        spool.keep(vec![message(number)]).await;
        times.push(began.elapsed());
    }
    times
}

fn bare(folder: &std::path::Path, syncs: bool) -> Vec<Duration> {
    let mut file = std::fs::File::create(folder.join("bare")).unwrap();
    let mut times = Vec::new();
    for _ in 0..KEEPS {
        let began = Instant::now();
        file.write_all(&[7; PAYLOAD_BYTES]).unwrap();
        if syncs {
            file.sync_data().unwrap();
        }
        times.push(began.elapsed());
    }
    times
}

#[tokio::main]
async fn main() {
    println!("microseconds, median and 99 %      spool          bare calls");
    for (name, sync, syncs) in [
        ("written", SpoolSync::Never, false),
        ("synced", SpoolSync::BeforeKept, true),
    ] {
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let [middle, late] = quantiles(keep(folder.path(), sync).await);
            let [bare_middle, bare_late] = quantiles(bare(folder.path(), syncs));
            println!("{name:10} {middle:20.1} {late:9.1} {bare_middle:10.1} {bare_late:9.1}");
        }
    }
}
