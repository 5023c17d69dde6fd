//! Reads the workspace: its crates with their dependencies, and its source files. Nothing is resolved or downloaded.

use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// One crate as its manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Name of the package.
    pub name: String,
    /// Folder, from the workspace's root, with `/`.
    pub folder: String,
    /// Dependencies and build dependencies, our own and others.
    pub dependencies: Vec<String>,
    /// Dependencies of its tests only.
    pub test_dependencies: Vec<String>,
    /// It follows the workspace's lints.
    pub follows_lints: bool,
}

/// Where the workspace lies.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this crate lies in tests/tidy")
        .to_owned()
}

/// All crates of the workspace.
///
/// # Errors
/// The manifests cannot be read.
pub fn members(root: &Path) -> Result<Vec<Member>, cargo_metadata::Error> {
    let mut command = MetadataCommand::new();
    command
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()]);
    let metadata = command.exec()?;
    let mut members = Vec::new();
    for package in &metadata.packages {
        let manifest = package.manifest_path.as_std_path();
        let folder = manifest.parent().unwrap_or(manifest);
        let text = std::fs::read_to_string(manifest)?;
        let (tests, others) = package
            .dependencies
            .iter()
            .partition::<Vec<_>, _>(|it| it.kind == DependencyKind::Development);
        let names = |dependencies: Vec<&cargo_metadata::Dependency>| {
            dependencies
                .into_iter()
                .map(|dependency| dependency.name.clone())
                .collect()
        };
        members.push(Member {
            name: package.name.to_string(),
            folder: slashed(folder, root),
            dependencies: names(others),
            test_dependencies: names(tests),
            follows_lints: text.contains("[lints]\nworkspace = true"),
        });
    }
    Ok(members)
}

/// Every Rust file below the root, by its path from there with `/`, with its text. Hidden folders, build output and
/// the packages of other languages are left out.
///
/// # Errors
/// A folder or file cannot be read.
pub fn rust_files(root: &Path) -> std::io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if kind.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
                folders.push(entry.path());
            } else if kind.is_file() && name.ends_with(".rs") {
                files.push((
                    slashed(&entry.path(), root),
                    std::fs::read_to_string(entry.path())?,
                ));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn slashed(path: &Path, root: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.to_string_lossy().replace('\\', "/")
}
