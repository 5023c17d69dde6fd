//! Whether the lines of a batch can be run.

use std::collections::HashSet;

use serde_json::Value;
use vlinders_ledger::{KeptStore, LedgerError};
use vlinders_openai_api::{BatchFault, parse_batch_line};

use super::lines::Lines;

/// Faults that are told; more would be the same over and over.
const MOST_FAULTS: usize = 100;

/// Looks at every line: how many there are, or what is wrong, as JSON.
pub(super) async fn validate(
    store: &dyn KeptStore,
    file: &str,
    endpoint: &str,
    most_lines: u32,
) -> Result<Result<u64, String>, LedgerError> {
    let mut lines = Lines::new(store, file);
    let mut faults: Vec<Value> = Vec::new();
    let mut names: HashSet<String> = HashSet::new();
    let mut count = 0_u64;
    while let Some(line) = lines.next().await? {
        count += 1;
        let number = u64::from(line.number) + 1;
        if count > u64::from(most_lines) {
            let text = format!("a batch has at most {most_lines} lines");
            faults.push(BatchFault::new("too_many_lines", None, text).shown(Some(number)));
            break;
        }
        match parse_batch_line(&line.content, endpoint) {
            Ok(line) if !names.insert(line.custom_id.clone()) => {
                let text = "custom_id is that of a line before";
                let fault = BatchFault::new("duplicate_custom_id", Some("custom_id"), text);
                faults.push(fault.shown(Some(number)));
            }
            Ok(_) => {}
            Err(fault) => faults.push(fault.shown(Some(number))),
        }
        if faults.len() >= MOST_FAULTS {
            break;
        }
    }
    if count == 0 {
        faults.push(BatchFault::new("empty_file", None, "the file has no lines").shown(None));
    }
    Ok(match faults.is_empty() {
        true => Ok(count),
        false => Err(Value::Array(faults).to_string()),
    })
}
