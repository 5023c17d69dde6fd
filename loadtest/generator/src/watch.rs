//! CPU and memory of processes of this machine: of the system under test, and of this one.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

use rustix::time::{ClockId, clock_gettime};

/// A process to look at, as the flag names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedProcess {
    /// What it is called in the report.
    pub label: String,
    /// Its id.
    pub pid: u32,
}

/// What a process has used up to now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProcessSample {
    /// All its threads, also those that have ended; to 10 ms.
    pub(crate) cpu_s: f64,
    pub(crate) rss_bytes: u64,
}

/// A process over the time of a measurement.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) process: WatchedProcess,
    /// None when it could not be read.
    pub(crate) before: Option<ProcessSample>,
    pub(crate) after: Option<ProcessSample>,
    /// Of all samples taken.
    pub(crate) peak_rss_bytes: u64,
}

impl Watch {
    /// Begins.
    pub(crate) fn begin(process: &WatchedProcess) -> Self {
        let before = sample(process.pid).ok();
        Self {
            process: process.clone(),
            before,
            after: before,
            peak_rss_bytes: before.map_or(0, |sample| sample.rss_bytes),
        }
    }

    /// Looks again. A process that has ended keeps its last sample.
    pub(crate) fn look(&mut self) {
        if let Ok(sample) = sample(self.process.pid) {
            self.peak_rss_bytes = self.peak_rss_bytes.max(sample.rss_bytes);
            self.after = Some(sample);
        }
    }
}

impl FromStr for WatchedProcess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (label, pid) = text.rsplit_once('=').unwrap_or((text, text));
        let pid: u32 = pid
            .parse()
            .map_err(|_| format!("{text:?} is neither PID nor LABEL=PID"))?;
        sample(pid).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                format!("there is no process {pid} here")
            } else {
                format!("process {pid} cannot be watched: {error}")
            }
        })?;
        Ok(Self {
            label: label.to_owned(),
            pid,
        })
    }
}

impl fmt::Display for WatchedProcess {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.label, self.pid)
    }
}

/// CPU seconds of this thread, which is the only one that offers load.
pub(crate) fn own_cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn sample(pid: u32) -> io::Result<ProcessSample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat).ok_or_else(|| io::Error::other("its state is unreadable"))
}

/// The form is in proc_pid_stat(5). The name, in parentheses, may hold anything.
fn parse_stat(stat: &str) -> Option<ProcessSample> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    // The third field comes first here.
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    Some(ProcessSample {
        cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        rss_bytes: field(24)? * rustix::param::page_size() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = format!(
            "7 (a) (b c) S 1 2 3 4 5 6 7 8 9 10 {} {} 0 0 20 0 9 0 100 123456 50 0 0",
            2 * ticks,
            ticks
        );
        let sample = parse_stat(&stat).unwrap();
        assert!((sample.cpu_s - 3.0).abs() < 1e-9);
        assert_eq!(sample.rss_bytes, 50 * rustix::param::page_size() as u64);
        assert_eq!(parse_stat("7 (x) S"), None);
    }

    #[test]
    fn this_process_can_be_watched() {
        let own = std::process::id();
        let process: WatchedProcess = format!("test={own}").parse().unwrap();
        assert_eq!((process.label.as_str(), process.pid), ("test", own));
        let mut watch = Watch::begin(&process);
        watch.look();
        assert!(watch.peak_rss_bytes > 100_000);
        assert!(watch.after.unwrap().cpu_s >= watch.before.unwrap().cpu_s);
        assert!(own_cpu_s() > 0.0);
    }

    #[test]
    fn what_is_no_process_is_refused() {
        for wrong in ["x", "label=", "label=x", "4294967295"] {
            assert!(wrong.parse::<WatchedProcess>().is_err(), "{wrong}");
        }
    }
}
