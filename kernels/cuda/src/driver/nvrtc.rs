//! Compiling the kernels on the machine that runs them: for chips that the build did not know.

use std::ffi::{CString, c_char};

use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;

use crate::images::{HEADERS, SOURCES};

/// Compiles every kernel for a chip. Why not, otherwise.
pub(super) fn compile_all(capability: (u32, u32)) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    // SAFETY: looking for a library loads it, which runs its initialisers: the operator who installed it answers for them.
    if !unsafe { sys::is_culib_present() } {
        return Err("no libnvrtc is installed that could compile them".to_owned());
    }
    if SOURCES.is_empty() {
        return Err("this build holds no sources to compile".to_owned());
    }
    let compiled =
        |(name, source): &(&'static str, &str)| compile(name, source, capability).map(|image| (*name, image));
    SOURCES.iter().map(compiled).collect()
}

/// One file, with the headers beside it.
fn compile(name: &str, source: &str, (major, minor): (u32, u32)) -> Result<Vec<u8>, String> {
    let program = Program::new(name, source)?;
    let options = [
        format!("--gpu-architecture=sm_{major}{minor}"),
        "--std=c++17".to_owned(),
        // As the build compiles them: sums have the same bits on every chip.
        "--fmad=false".to_owned(),
    ];
    // SAFETY: the program lives until the end of this function.
    if unsafe { result::compile_program(program.0, &options) }.is_err() {
        return Err(format!("libnvrtc refuses {name}: {}", program.log()));
    }
    program
        .image()
        .map_err(|error| format!("libnvrtc made nothing of {name} ({error})"))
}

/// A program that is destroyed when it is dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(name: &str, source: &str) -> Result<Self, String> {
        let text = |text: &str| CString::new(text).map_err(|_| format!("{name} holds a zero"));
        let (source, own_name) = (text(source)?, text(name)?);
        let mut headers = Vec::new();
        let mut names = Vec::new();
        for (name, header) in HEADERS {
            headers.push(text(header)?);
            names.push(text(name)?);
        }
        let header_places: Vec<*const c_char> = headers.iter().map(|header| header.as_ptr()).collect();
        let name_places: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let count = i32::try_from(headers.len()).expect("a handful of headers");
        let mut program = std::ptr::null_mut();
        // SAFETY: all texts end with a zero and live until the call has copied them; both lists have `count` entries.
        let made = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                own_name.as_ptr(),
                count,
                header_places.as_ptr(),
                name_places.as_ptr(),
            )
        };
        made.result()
            .map_err(|error| format!("libnvrtc does not take {name} ({error})"))?;
        Ok(Self(program))
    }

    fn log(&self) -> String {
        // SAFETY: the program lives.
        let Ok(log) = (unsafe { result::get_program_log(self.0) }) else {
            return "no reason given".to_owned();
        };
        let bytes: Vec<u8> = log.iter().map(|char| char.to_ne_bytes()[0]).collect();
        let text = String::from_utf8_lossy(&bytes);
        text.trim_end_matches('\0').trim().replace('\n', "; ")
    }

    fn image(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the program lives and is compiled.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut bytes) }.result()?;
        let mut image = vec![0_u8; bytes];
        // SAFETY: the image has the size that was asked for.
        unsafe { sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()) }.result()?;
        Ok(image)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was made once. A refusal at the end has nobody to be told to.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
