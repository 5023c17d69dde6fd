//! Gathers the kernels: compiled here when there is a compiler, else as they lie in `prebuilt/`, else none, which leaves
//! compiling to the machine that runs them. Never fails for want of CUDA.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// Chips with machine code of their own; others take the last one's portable form, which their driver compiles.
const TARGETS: [&str; 3] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_90,code=sm_90",
    "arch=compute_90,code=compute_90",
];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cu");
    println!("cargo:rerun-if-changed=prebuilt");
    println!("cargo:rerun-if-env-changed=NVCC");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let sources = files("cu", "cu")?;
    let (origin, images) = match compile_all(&sources, &out) {
        Some(images) => ("embedded", images),
        None => match files("prebuilt", "fatbin")? {
            images if images.is_empty() => ("no", images),
            images => ("prebuilt", images),
        },
    };
    let mut text = String::new();
    let mut put = |line: &str, list: &[PathBuf], [before, after]: [&str; 2]| {
        let _ = writeln!(text, "{line} = &[");
        for path in list {
            let name = path.file_name().unwrap_or_default();
            let full = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            let _ = writeln!(text, "    ({name:?}, {before}{full:?}{after}),");
        }
        let _ = writeln!(text, "];");
    };
    // The driver reads numbers out of images, so they begin where numbers may.
    let aligned = ["&Aligned(*include_bytes!(", ")).0"];
    put("pub(crate) static IMAGES: &[(&str, &[u8])]", &images, aligned);
    let included = ["include_str!(", ")"];
    put("pub(crate) static SOURCES: &[(&str, &str)]", &sources, included);
    let headers = [files("cu", "cuh")?, files("cu", "h")?].concat();
    put("pub(crate) static HEADERS: &[(&str, &str)]", &headers, included);
    let _ = writeln!(text, "pub(crate) const ORIGIN: &str = {origin:?};");
    fs::write(out.join("images.rs"), text)
}

/// Files of a folder of this crate by their extension, in the order of their names; none where there is no such folder.
fn files(folder: &str, extension: &str) -> io::Result<Vec<PathBuf>> {
    if !Path::new(folder).is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(extension)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// One image for each source, or nothing when there is no compiler or it refuses one of them.
fn compile_all(sources: &[PathBuf], out: &Path) -> Option<Vec<PathBuf>> {
    let compiler = env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let is_there = Command::new(&compiler).arg("--version").output().is_ok();
    if !is_there || sources.is_empty() {
        return None;
    }
    let mut images = Vec::new();
    for source in sources {
        let image = out.join(source.file_stem()?).with_extension("fatbin");
        let mut command = Command::new(&compiler);
        // Sums must have the same bits on every chip, so no multiplication is fused unless a kernel says so.
        command.args([
            "--fatbin",
            "--std=c++17",
            "--fmad=false",
            "-O3",
            "--compress-mode=size",
        ]);
        for target in TARGETS {
            command.args(["-gencode", target]);
        }
        let done = command.arg("-o").arg(&image).arg(source).output().ok()?;
        if !done.status.success() {
            let reason = String::from_utf8_lossy(&done.stderr);
            let reason = reason.lines().next().unwrap_or("no reason given");
            println!(
                "cargo:warning={}: {reason}; the prebuilt kernels are taken",
                source.display()
            );
            return None;
        }
        images.push(image);
    }
    Some(images)
}
