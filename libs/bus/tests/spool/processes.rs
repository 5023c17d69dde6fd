//! Spools of real processes, which are killed, on real disks, which are full.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use vlinders_bus::{FolderSpools, Spool, SpoolPlace};

use crate::life::{Life, bus, message, options, taken, within};

const FOLDER: &str = "VLINDERS_TEST_SPOOL";

/// Not a test of its own: what the other process runs.
#[test]
fn the_keeping_process() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        let place = Arc::new(FolderSpools::new(folder.into()));
        let spool = match Spool::open(place, options()).await {
            Ok(spool) => spool,
            Err(error) => {
                return println!("refused: {error}: {}", std::error::Error::source(&error).unwrap());
            }
        };
        // Nobody sends: whatever it keeps is between the write and the bus.
        for id in 0.. {
            spool.keep(vec![message(id)]).await;
            println!("kept {id}");
        }
    });
}

struct Keeper {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Keeper {
    fn start(mut command: Command, folder: &Path) -> Self {
        let mut child = command
            .args(["processes::the_keeping_process", "--exact", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    /// The next line that begins so; none when it is gone.
    fn next(&mut self, begin: &str) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).expect("text") > 0 {
            if let Some(rest) = line.strip_prefix(begin) {
                return Some(rest.trim().to_owned());
            }
            line.clear();
        }
        None
    }

    /// Ends it without a word, and says what it has still told.
    fn kill(mut self) -> Option<u64> {
        self.child.kill().expect("it is ours");
        let mut last = None;
        while let Some(id) = self.next("kept ") {
            // The last line may be torn.
            last = id.parse().ok().max(last);
        }
        last
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        self.child.wait().expect("it is ours");
    }
}

fn this() -> Command {
    Command::new(std::env::current_exe().expect("this program"))
}

fn files(folder: &Path, ending: &str) -> usize {
    let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_str().unwrap().ends_with(ending))
        .count()
}

async fn until_adopted(folder: &Path, own_files: usize) {
    within(async {
        while files(folder, ".spool") > own_files {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn whatever_a_killed_process_has_kept_is_sent_by_another() {
    for round in 0..5_u64 {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::start(this(), folder.path());
        let mut kept = None;
        for _ in 0..=round * 37 {
            kept = keeper.next("kept ");
        }
        let seen: u64 = kept.expect("it lives").parse().unwrap();

        let (place, bus) = (
            Arc::new(FolderSpools::new(folder.path().to_owned())),
            bus(1 << 20).await,
        );
        assert!(place.adopt().unwrap().is_none(), "its holder lives");
        let last = keeper.kill().max(Some(seen)).unwrap();
        let life = Life::begin(place, options(), bus.clone()).await;
        until_adopted(folder.path(), 1).await;
        let spool = life.spool.clone();
        within(async {
            while spool.load().messages > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(spool);
        life.stop().await;
        let found = taken(&bus).await;
        // It may have been killed between the write and its word.
        let expected: BTreeSet<u64> = (0..found.len() as u64).collect();
        assert_eq!(found, expected);
        assert!(
            found.contains(&last),
            "{last} was kept; found up to {:?}",
            found.last()
        );
        assert!(found.len() as u64 <= last + 2, "{last} was its last word");
    }
}

#[tokio::test]
async fn of_two_who_find_it_one_sends_what_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut keepers: Vec<_> = (0..4).map(|_| Keeper::start(this(), folder.path())).collect();
    for keeper in &mut keepers {
        keeper.next("kept ").expect("it lives");
    }
    drop(keepers);
    let place = || -> Arc<dyn SpoolPlace> { Arc::new(FolderSpools::new(folder.path().to_owned())) };
    let start = std::sync::Barrier::new(8);
    let adopted: usize = std::thread::scope(|scope| {
        let adopters: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let place = place();
                    start.wait();
                    let mut held = Vec::new();
                    while let Some(file) = place.adopt().unwrap() {
                        held.push(file);
                    }
                    held
                })
            })
            .collect();
        // All of them hold what they have until all have looked.
        let held: Vec<_> = adopters
            .into_iter()
            .map(|adopter| adopter.join().unwrap())
            .collect();
        held.iter().map(Vec::len).sum()
    });
    assert_eq!(adopted, 4);
}

#[test]
fn a_folder_that_cannot_be_written_is_one_clear_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let refused = Keeper::start(this(), &file.join("spool"))
        .next("refused: ")
        .unwrap();
    assert!(refused.contains(file.to_str().unwrap()), "{refused}");
    assert!(refused.contains("cannot be written"), "{refused}");
}

#[test]
fn a_full_disk_is_one_clear_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    // No file of this process may grow: the error is another one than that of a full disk, the way is the same.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]);
    shell.arg(std::env::current_exe().expect("this program"));
    let refused = Keeper::start(shell, folder.path()).next("refused: ").unwrap();
    assert!(refused.contains(folder.path().to_str().unwrap()), "{refused}");
    assert!(refused.contains("too large"), "{refused}");
    assert_eq!(files(folder.path(), ""), 0, "nothing is left behind");
}
