//! What every process tells of itself, under the names that dashboards for any process know.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Ticks of the times in `/proc/self/stat`: 100 a second wherever Linux shows them to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads the process's own files when it is asked.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    start_seconds: f64,
}

impl ProcessMetrics {
    /// Of this process, which has just started.
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start_seconds: since.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            gauge.encode(metric)
        };
        gauge(
            "process_start_time",
            "When the process started, seconds since 1970",
            Some(&Unit::Seconds),
            self.start_seconds,
        )?;
        if let Some(bytes) = resident_bytes() {
            let help = "Memory that is in use";
            gauge("process_resident_memory", help, Some(&Unit::Bytes), bytes)?;
        }
        if let Some(count) = open_files() {
            gauge("process_open_fds", "Open file descriptors", None, count)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "Time of the processor used";
            let kind = counter.metric_type();
            let metric = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), kind)?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn open_files() -> Option<f64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the look itself.
    Some(count.saturating_sub(1) as f64)
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name may hold spaces and ends with the last parenthesis; the times are the 14th and 15th field.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use crate::Metrics;

    fn value(text: &str, name: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}"))
            .trim()
            .parse()
            .unwrap()
    }

    #[test]
    fn a_process_tells_what_it_uses() {
        let metrics = Metrics::of_process("1.2.3");
        let held = vec![1u8; 64 << 20];
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let before = metrics.encode();
        drop((held, file));
        let after = metrics.encode();
        let resident = |text: &str| value(text, "process_resident_memory_bytes ");
        assert!(resident(&before) - resident(&after) > 50e6, "{before}{after}");
        let files = |text: &str| value(text, "process_open_fds ");
        assert!(files(&before) > files(&after));
        assert!(value(&after, "process_cpu_seconds_total ") >= 0.0);
        assert!(value(&after, "process_start_time_seconds ") > 1.7e9);
        assert!(after.contains("vlinders_build_info{version=\"1.2.3\"} 1"));
    }
}
