//! The kernels as a library of this processor: built once per state of their sources, whichever test comes first.

use std::ffi::c_void;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use vlinders_kernel_cuda::device::Argument;

/// Whole numbers and floats that a kernel takes at most, as in `kernels.cpp`.
const MOST_WORDS: usize = 20;
const MOST_FLOATS: usize = 4;

/// How the kernels are compiled: as for a GPU, no product is fused with a sum, and words are taken for whatever they are read as.
/// Nothing is shared between libraries.
const FLAGS: [&str; 11] = [
    "-std=c++17",
    "-O2",
    "-w",
    "-shared",
    "-fPIC",
    "-DVL_SIM",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-gnu-unique",
    "-Wl,-Bsymbolic",
    "-xc++",
];

/// `run_simulated` of `kernels.cpp`.
type Run = unsafe extern "C" fn(*mut c_void, *const u32, *const u32, u32, u64, *const u64, *const f32);

/// The loaded libraries. They run one kernel at a time.
pub(crate) struct Library {
    parts: Vec<(libloading::Library, Run)>,
    /// The order in which threads take their turns: another one for each kernel.
    seed: Mutex<u64>,
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of a folder, in the order of their names.
fn files(part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder().join(part)).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

/// Builds one library for each file of kernels, unless they are there already. Each with everything it includes: what two files
/// call the same stays two things.
fn built() -> Vec<PathBuf> {
    let mut hasher = DefaultHasher::new();
    let start = folder().join("tests/simulated/kernels.cpp");
    for source in [files("cu"), files("sim"), vec![start.clone()]].concat() {
        (source.file_name(), fs::read(&source).unwrap()).hash(&mut hasher);
    }
    FLAGS.hash(&mut hasher);
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{:016x}", hasher.finish()));
    fs::create_dir_all(&out).unwrap();
    // Tests are processes of their own: one builds, the others wait for it.
    let lock = File::create(out.join("lock")).unwrap();
    lock.lock().unwrap();
    let is_kernel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cu");
    let sources = files("cu").into_iter().filter(is_kernel);
    let pairs: Vec<(PathBuf, PathBuf)> = sources
        .map(|source| {
            let library = out.join(source.file_stem().unwrap()).with_extension("so");
            (source, library)
        })
        .collect();
    std::thread::scope(|scope| {
        // Two at a time: a compiler takes half a gigabyte.
        for half in pairs.chunks(pairs.len().div_ceil(2).max(1)) {
            let start = &start;
            scope.spawn(move || {
                half.iter()
                    .for_each(|(source, library)| build(start, source, library))
            });
        }
    });
    pairs.into_iter().map(|(_, library)| library).collect()
}

fn build(start: &Path, source: &Path, library: &Path) {
    if library.exists() {
        return;
    }
    let unfinished = library.with_extension("unfinished");
    let mut command = Command::new("g++");
    command.args(FLAGS);
    command
        .arg("-I")
        .arg(folder().join("cu"))
        .arg("-o")
        .arg(&unfinished);
    let output = command.arg(start).arg(source).output();
    let output = output.expect("g++ is there (Debian's package g++)");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "g++ refuses {}:\n{text}",
        source.display()
    );
    fs::rename(&unfinished, library).unwrap();
}

impl Library {
    pub(crate) fn get() -> &'static Self {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        LIBRARY.get_or_init(|| {
            let parts = built().into_iter().map(|path| {
                // SAFETY: it was built from this crate's sources and does nothing when it is loaded.
                let library = unsafe { libloading::Library::new(path) }.unwrap();
                // SAFETY: `kernels.cpp` declares it like this, and the library stays loaded.
                let run = *unsafe { library.get::<Run>(b"run_simulated\0") }.unwrap();
                (library, run)
            });
            let parts = parts.collect();
            let seed = Mutex::new(1);
            Self { parts, seed }
        })
    }

    /// Runs a kernel to its end.
    ///
    /// # Safety
    /// The arguments are the kernel's, and what they point to is as large as it expects.
    pub(crate) unsafe fn run(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        arguments: &[Argument],
    ) {
        let name = format!("{kernel}\0");
        let found = self.parts.iter().find_map(|(library, run)| {
            // SAFETY: only its address is used, as that of a function.
            let function = unsafe { library.get::<*mut c_void>(name.as_bytes()) };
            function.ok().map(|function| (*function, *run))
        });
        let (function, run) = found.unwrap_or_else(|| panic!("no kernel is called {kernel}"));
        let (mut words, mut floats) = ([0_u64; MOST_WORDS], [0_f32; MOST_FLOATS]);
        let (mut next_word, mut next_float) = (0, 0);
        for argument in arguments {
            match argument {
                Argument::F32(value) => {
                    floats[next_float] = *value;
                    next_float += 1;
                }
                Argument::Address(_) | Argument::U32(_) | Argument::U64(_) => {
                    words[next_word] = argument.word();
                    next_word += 1;
                }
            }
        }
        let mut seed = self
            .seed
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *seed += 1;
        // SAFETY: the caller answers for the arguments; the simulator runs one kernel at a time, which the lock sees to.
        unsafe {
            run(
                function,
                grid.as_ptr(),
                block.as_ptr(),
                shared_bytes,
                *seed,
                words.as_ptr(),
                floats.as_ptr(),
            );
        }
    }
}
