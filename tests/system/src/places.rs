//! Where the program under test is, and what else the tests need.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = folder
        .ancestors()
        .nth(2)
        .expect("this crate lies two folders below the root");
    root.to_path_buf()
}

/// The program: beside us, or beside the folder of the test that runs.
///
/// # Errors
/// When it was not built.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = profile_folder()?.join("vlinders");
    ensure!(
        path.is_file(),
        "{} does not exist; build it first: cargo build -p vlinders",
        path.display()
    );
    Ok(path)
}

/// An example of this crate, which is built with its tests.
///
/// # Errors
/// When it was not built.
pub fn example(name: &str) -> anyhow::Result<PathBuf> {
    let path = profile_folder()?.join("examples").join(name);
    ensure!(path.is_file(), "{} does not exist", path.display());
    Ok(path)
}

fn profile_folder() -> anyhow::Result<PathBuf> {
    let ours = std::env::current_exe().context("the test does not know where it is")?;
    // A test lies in `<profile>/deps`, programs in `<profile>`.
    let mut folder = ours.parent().context("the test lies in no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("the test lies in no folder")?;
    }
    Ok(folder.to_path_buf())
}

/// The Node that runs the client SDK for Node, and the folder of that.
///
/// # Errors
/// When the environment was not made.
pub fn node() -> anyhow::Result<(PathBuf, PathBuf)> {
    let environment = repository().join(".test-env");
    let (program, modules) = (environment.join("bin/node"), environment.join("node"));
    ensure!(
        program.exists() && modules.join("node_modules/openai").exists(),
        "{} has no Node with the client SDK; tests/run makes it",
        environment.display()
    );
    Ok((program, modules))
}

/// The Python that has the client SDKs.
///
/// # Errors
/// When the environment was not made.
pub fn python() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("VLINDERS_TEST_PYTHON") {
        return Ok(path.into());
    }
    let path = repository().join(".test-env/bin/python");
    ensure!(
        path.exists(),
        "{} does not exist; tests/run makes it, or set VLINDERS_TEST_PYTHON to a Python with tests/requirements.txt",
        path.display()
    );
    Ok(path)
}
