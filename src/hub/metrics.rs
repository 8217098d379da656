//! The metrics for Prometheus: counts of requests, and the text of `GET /metrics`.
//!
//! No decision depends on them. Names follow <https://prometheus.io/docs/practices/naming/>.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::{Mutex, PoisonError};

use super::routes::Route;

/// Answers by route and status.
#[derive(Default)]
pub struct RequestCounts {
    // bounded by the numbers of routes and statuses
    counts: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl RequestCounts {
    pub fn count(&self, route: Route, status: u16) {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((route.name(), status))
            .or_default() += 1;
    }

    pub fn write(&self, text: &mut MetricsText) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = counts
            .iter()
            .map(|((route, status), n)| (format!("route=\"{route}\",status=\"{status}\""), *n));
        text.rows(
            "requests_total",
            "counter",
            "answers by route and status",
            rows,
        );
    }
}

/// The text format, version 0.0.4.
#[derive(Default)]
pub struct MetricsText(String);

impl MetricsText {
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4";

    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.rows(name, "counter", help, [(String::new(), value)]);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.rows(name, "gauge", help, [(String::new(), value)]);
    }

    /// Writes the values of one name by labels, which must need no escaping. Without rows it writes nothing.
    pub fn rows(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        rows: impl IntoIterator<Item = (String, impl Display)>,
    ) {
        self.family(&format!("mesync_{name}"), kind, help, rows);
    }

    /// A standard value of every process, under the name that dashboards use.
    pub fn process(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        let row = [(String::new(), value)];
        self.family(&format!("process_{name}"), kind, help, row);
    }

    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        rows: impl IntoIterator<Item = (String, impl Display)>,
    ) {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_some() {
            let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        for (labels, value) in rows {
            let _ = if labels.is_empty() {
                writeln!(self.0, "{name} {value}")
            } else {
                writeln!(self.0, "{name}{{{labels}}} {value}")
            };
        }
    }

    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_prometheus_wants_it() {
        let (requests, mut text) = (RequestCounts::default(), MetricsText::default());
        requests.count(Route::Health, 200);
        requests.count(Route::Health, 200);
        requests.count(Route::Login, 401);
        requests.write(&mut text);
        text.gauge("keys", "keys in force", 3);
        text.rows("none", "gauge", "nothing", Vec::<(String, u64)>::new());
        let wants = "# HELP mesync_requests_total answers by route and status\n# TYPE mesync_requests_total counter\n\
            mesync_requests_total{route=\"health\",status=\"200\"} 2\nmesync_requests_total{route=\"login\",status=\"401\"} 1\n\
            # HELP mesync_keys keys in force\n# TYPE mesync_keys gauge\nmesync_keys 3\n";
        assert_eq!(text.finish(), wants);
    }
}
