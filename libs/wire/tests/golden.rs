//! The bytes of one example of every message. They may grow by new fields, and never change otherwise: processes of
//! two versions talk to each other during a rollout. `VLINDERS_RENEW=1` rewrites the file.

mod support;

use std::fmt::Write;
use std::path::Path;

#[test]
fn the_bytes_of_every_message_stay_as_they_are() {
    let mut fresh = String::new();
    for (name, bytes) in support::examples() {
        write!(fresh, "{name} ").unwrap();
        for byte in bytes {
            write!(fresh, "{byte:02x}").unwrap();
        }
        fresh.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
    if std::env::var_os("VLINDERS_RENEW").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (golden, fresh) in golden.lines().zip(fresh.lines()) {
        assert_eq!(golden, fresh);
    }
    assert_eq!(golden, fresh);
}
