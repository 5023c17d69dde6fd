//! Where spans go, and how many are held on the way.

use std::time::Duration;

use hyper::Uri;

/// Settings of a process's traces.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// The collector, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it: `http://host:4318`. `/v1/traces` is added.
    pub endpoint: String,
    /// The share of traces to record among those that begin here, 0 to 1. Whoever calls with a `traceparent` has decided.
    pub sample_ratio: f64,
    /// Spans held for the collector at most; more are dropped.
    pub queue_spans: usize,
    /// Spans in one message at most.
    pub batch_spans: usize,
    /// How long a span waits for others to go with it.
    pub batch_interval: Duration,
    /// How long the collector may take for one message.
    pub export_timeout: Duration,
    /// How long the last spans may take when the process leaves.
    pub flush_limit: Duration,
}

impl TracesConfig {
    /// Everything goes to this collector.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            sample_ratio: 1.0,
            queue_spans: 4096,
            batch_spans: 512,
            batch_interval: Duration::from_secs(1),
            export_timeout: Duration::from_secs(5),
            flush_limit: Duration::from_secs(2),
        }
    }

    /// Looks at the settings without using them.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn check(&self) -> Result<(), TracesError> {
        self.checked().map(drop)
    }

    /// Where spans are posted.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub(super) fn checked(&self) -> Result<Uri, TracesError> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(TracesError::SampleRatio(self.sample_ratio));
        }
        let refused = |why| TracesError::Endpoint {
            endpoint: self.endpoint.clone(),
            why,
        };
        let full = format!("{}/v1/traces", self.endpoint.trim_end_matches('/'));
        let uri: Uri = full.parse().map_err(|_| refused("is no address"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(refused("needs TLS, which is left to a collector nearby")),
            Some(_) | None => return Err(refused("does not begin with http://")),
        }
        match (uri.host(), uri.query()) {
            (None | Some(""), _) => Err(refused("names no host")),
            (Some(_), Some(_)) => Err(refused("has a query")),
            (Some(_), None) => Ok(uri),
        }
    }
}

/// Traces that cannot be sent as asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TracesError {
    /// The address is not one of a collector.
    #[error(
        "the trace endpoint `{endpoint}` {why}; use the address of a collector, like http://localhost:4318"
    )]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The share is no share.
    #[error("the trace sample ratio {0} is not between 0 and 1")]
    SampleRatio(f64),
    /// The environment asks for something this build does not do.
    #[error("traces cannot be sent: {0}")]
    Exporter(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(endpoint: &str) -> Result<String, String> {
        let checked = TracesConfig::new(endpoint).checked();
        checked
            .map(|uri| uri.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_path_for_traces_comes_behind_whatever_path_there_is() {
        let is = |endpoint: &str, full: &str| assert_eq!(checked(endpoint).as_deref(), Ok(full));
        is("http://collector:4318", "http://collector:4318/v1/traces");
        is("http://collector:4318/", "http://collector:4318/v1/traces");
        is("http://[::1]/otlp/", "http://[::1]/otlp/v1/traces");
    }

    #[test]
    fn what_is_no_collector_is_refused_with_what_to_do() {
        let refused = |endpoint: &str, part: &str| {
            let message = checked(endpoint).expect_err(endpoint);
            assert!(
                message.contains(part) && message.contains("http://localhost:4318"),
                "{message}"
            );
        };
        refused("https://collector:4318", "TLS");
        refused("collector:4318", "no address");
        refused("collector", "no address");
        refused("ftp://collector", "does not begin with http://");
        refused("http://", "no address");
        refused("http://collector?a=b", "query");
        refused("", "does not begin with http://");
    }

    #[test]
    fn a_share_is_between_nothing_and_everything() {
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let config = TracesConfig {
                sample_ratio: wrong,
                ..TracesConfig::new("http://collector:4318")
            };
            assert!(
                matches!(config.checked(), Err(TracesError::SampleRatio(_))),
                "{wrong}"
            );
        }
    }
}
