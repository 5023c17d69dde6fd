//! The architecture page speaks of every crate, above all of what it must not know.

use crate::workspace::Member;

/// The words every crate's line must have.
const STATEMENT: &str = "must not know";

/// Everything that is missing from the page, which is none when there is no page. Crates under `tests/` are left out:
/// they are allowed to know everything.
#[must_use]
pub fn faults(page: Option<&str>, members: &[Member]) -> Vec<String> {
    let Some(page) = page else {
        return vec![
            "ARCHITECTURE.md does not exist: it has one paragraph per crate and what each must not know"
                .to_owned(),
        ];
    };
    let mut faults = Vec::new();
    for member in members
        .iter()
        .filter(|member| !member.folder.starts_with("tests/"))
    {
        let name = format!("`{}`", member.folder);
        let lines: Vec<&str> = page.lines().filter(|line| line.contains(&name)).collect();
        if lines.is_empty() {
            faults.push(format!("ARCHITECTURE.md does not mention {name}"));
        } else if !lines.iter().any(|line| line.contains(STATEMENT)) {
            faults.push(format!(
                "ARCHITECTURE.md does not say in one line with {name} what it {STATEMENT}"
            ));
        }
    }
    for folder in named_folders(page) {
        if !members.iter().any(|member| member.folder == folder) {
            faults.push(format!(
                "ARCHITECTURE.md says what `{folder}` {STATEMENT}, and there is no such crate"
            ));
        }
    }
    faults
}

/// The folders whose lines begin a statement: "- `libs/bus` must not know ...".
fn named_folders(page: &str) -> impl Iterator<Item = &str> {
    page.lines()
        .filter(|line| line.contains(STATEMENT))
        .filter_map(|line| {
            let (folder, rest) = line.strip_prefix("- `")?.split_once('`')?;
            rest.trim_start().starts_with(STATEMENT).then_some(folder)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<Member> {
        let folders = ["libs/bus", "services/usage", "tests/tidy"];
        folders
            .map(|folder| Member {
                folder: folder.to_owned(),
                ..Member::default()
            })
            .into()
    }

    #[test]
    fn a_page_with_a_statement_for_every_crate_is_complete() {
        let page = "| `libs/bus` | subjects |\n- `libs/bus` must not know words.\n- `services/usage` must not know HTTP.";
        assert_eq!(faults(Some(page), &members()), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let page = "| `libs/bus` | subjects |\n- `libs/gone` must not know anything.";
        assert_eq!(
            faults(Some(page), &members()),
            [
                "ARCHITECTURE.md does not say in one line with `libs/bus` what it must not know",
                "ARCHITECTURE.md does not mention `services/usage`",
                "ARCHITECTURE.md says what `libs/gone` must not know, and there is no such crate",
            ]
        );
    }

    #[test]
    fn no_page_is_a_fault() {
        assert_eq!(faults(None, &members()).len(), 1);
    }
}
