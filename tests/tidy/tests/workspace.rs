//! The rules, applied to this workspace.

use vlinders_tidy::{architecture, arrows, sources, workspace};

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn arrows_point_down() {
    assert_none(&arrows::faults(&workspace::members(&workspace::root()).unwrap()));
}

#[test]
fn source_files_follow_the_style() {
    let files = workspace::rust_files(&workspace::root()).unwrap();
    assert!(
        files
            .iter()
            .any(|(path, _)| path == "tests/tidy/tests/workspace.rs"),
        "the walk finds this file"
    );
    let faults: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| sources::faults(path, text))
        .collect();
    assert_none(&faults);
}

#[test]
fn the_architecture_page_speaks_of_every_crate() {
    let root = workspace::root();
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).ok();
    assert_none(&architecture::faults(
        page.as_deref(),
        &workspace::members(&root).unwrap(),
    ));
}
