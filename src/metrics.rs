//! Every figure the product shows, by name, and their text for Prometheus.
//!
//! Never a global recorder, never a label whose values grow with merchants, endpoints or input.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::model::{DisabledReason, ErrorCode, Status};

/// Seconds, from a fast sync to a slow disk.
const SYNC_BUCKETS: &[f64] =
    &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Seconds, from loopback to the deadline of an attempt.
const ATTEMPT_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Seconds, from at once to the end of the schedule.
const DELIVERY_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0,
    259_200.0,
];

const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

const BYTE_BUCKETS: &[f64] = &[1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// Why ingest refused an event without storing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The request was wrong.
    Invalid,
    /// Nobody owns it.
    UnknownMerchant,
    /// Its key was used before with other content.
    Conflict,
    /// Too much is waiting for the disk.
    Overloaded,
    /// The disk is nearly full.
    DiskFull,
    /// What tells whether its key is known is damaged.
    Unreadable,
    /// The process is stopping.
    Stopped,
}

impl RefusalReason {
    const ALL: [RefusalReason; 7] = [
        RefusalReason::Invalid,
        RefusalReason::UnknownMerchant,
        RefusalReason::Conflict,
        RefusalReason::Overloaded,
        RefusalReason::DiskFull,
        RefusalReason::Unreadable,
        RefusalReason::Stopped,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            RefusalReason::Invalid => "invalid",
            RefusalReason::UnknownMerchant => "unknown_merchant",
            RefusalReason::Conflict => "conflict",
            RefusalReason::Overloaded => "overloaded",
            RefusalReason::DiskFull => "disk_full",
            RefusalReason::Unreadable => "unreadable",
            RefusalReason::Stopped => "stopped",
        }
    }
}

/// Handles to every figure. Cheap to clone; writing one is an atomic operation.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    text: PrometheusHandle,
    /// Events stored and acknowledged.
    pub accepted: Counter,
    /// Events that were handed in again and recognised.
    pub duplicates: Counter,
    refused: Arc<[Counter]>,
    succeeded: Counter,
    failed: Arc<[Counter]>,
    settled: Arc<[Counter]>,
    disabled: Arc<[Counter]>,
    /// Deliveries that failed because they were due for too long.
    pub expired: Counter,
    /// Attempts that were not made for a fault of this host.
    pub excused: Counter,
    /// Active endpoints of which no attempt has succeeded since one failed.
    pub endpoints_failing: Gauge,
    /// Endpoints that are left alone, or probed, because they failed.
    pub endpoints_resting: Gauge,
    /// Endpoints that the product switched off.
    pub endpoints_disabled: Gauge,
    /// 1 while the operator holds everybody's retries back.
    pub retries_paused: Gauge,
    /// Attempts that were not made because the payload could not be read.
    pub unreadable: Counter,
    /// From the beginning of an attempt to its outcome.
    pub attempt_seconds: Histogram,
    /// From acceptance to the 2xx head.
    pub delivery_seconds: Histogram,
    /// From acceptance to the beginning of the first attempt.
    pub first_attempt_seconds: Histogram,
    /// Attempts under way.
    pub in_flight: Gauge,
    /// Deliveries in memory.
    pub windowed: Gauge,
    /// Deliveries owed.
    pub waiting: Gauge,
    /// Age of the delivery that is due longest, in seconds; 0 where none is due.
    pub oldest_due_seconds: Gauge,
    /// Bytes of journal.
    pub journal_bytes: Gauge,
    /// Bytes free on the data directory's disk.
    pub disk_free_bytes: Gauge,
    /// Writes waiting for the next group commit.
    pub commit_queued: Gauge,
    /// Index changes not yet written behind.
    pub index_unwritten: Gauge,
    /// Producers' keys and resources of events that are in memory only.
    pub names_unwritten: Gauge,
    /// Duration of group commits.
    pub commit_seconds: Histogram,
    /// Records in a group commit.
    pub commit_records: Histogram,
    /// Bytes in a group commit.
    pub commit_bytes: Histogram,
    /// Times the index was made anew.
    pub index_rebuilds: Counter,
    /// Sessions of the dashboard.
    pub sessions: Gauge,
    /// Pages that watch for new events.
    pub watchers: Gauge,
    /// Journal files dropped by retention.
    pub segments_dropped: Counter,
    /// Events with a damaged record.
    pub events_damaged: Counter,
    /// 1 while the process takes work.
    pub ready: Gauge,
}

impl Metrics {
    /// A fresh set of figures, all zero.
    pub fn new() -> Metrics {
        let recorder = Arc::new(builder().build_recorder());
        let of = Figures { recorder: &recorder };
        let metrics = Metrics {
            text: recorder.handle(),
            accepted: of.counter("posthaste_events_accepted_total", "Events stored durably and acknowledged"),
            duplicates: of.counter("posthaste_events_duplicate_total", "Events handed in again and recognised"),
            refused: of.counters(
                "posthaste_events_refused_total",
                "Events refused at ingest, nothing stored",
                "reason",
                RefusalReason::ALL.map(RefusalReason::as_str),
            ),
            succeeded: of.attempts("success"),
            failed: ErrorCode::ALL.map(|error| of.attempts(error.as_str())).into(),
            settled: of.counters(
                "posthaste_deliveries_settled_total",
                "Steps of deliveries by the status they led to",
                "status",
                Status::ALL.map(Status::as_str),
            ),
            disabled: of.counters(
                "posthaste_endpoints_disabled_total",
                "Endpoints switched off by the product",
                "reason",
                DisabledReason::ALL.map(DisabledReason::as_str),
            ),
            expired: of.counter("posthaste_deliveries_expired_total", "Deliveries failed because they waited too long"),
            excused: of.counter("posthaste_attempts_excused_total", "Attempts not made for a fault of this host"),
            endpoints_failing: of
                .gauge("posthaste_endpoints_failing", "Active endpoints of which the last attempt failed"),
            endpoints_resting: of.gauge("posthaste_endpoints_resting", "Endpoints left alone because they failed"),
            endpoints_disabled: of.gauge("posthaste_endpoints_disabled", "Endpoints switched off by the product"),
            retries_paused: of.gauge("posthaste_retries_paused", "1 while retries are paused for everybody"),
            unreadable: of.counter(
                "posthaste_payloads_unreadable_total",
                "Attempts put off because the payload could not be read from the journal",
            ),
            attempt_seconds: of.seconds("posthaste_attempt_duration_seconds", "From an attempt's start to its outcome"),
            delivery_seconds: of.seconds("posthaste_delivery_latency_seconds", "From acceptance to the 2xx answer"),
            first_attempt_seconds: of
                .seconds("posthaste_first_attempt_latency_seconds", "From acceptance to the first attempt's start"),
            in_flight: of.gauge("posthaste_attempts_in_flight", "Attempts under way"),
            windowed: of.gauge("posthaste_deliveries_in_memory", "Waiting deliveries held in memory"),
            waiting: of.gauge("posthaste_deliveries_waiting", "Deliveries owed, in memory and on disk"),
            oldest_due_seconds: of.gauge("posthaste_oldest_due_age_seconds", "Age of the delivery that is due longest"),
            journal_bytes: of.gauge("posthaste_journal_size_bytes", "Bytes of journal on disk"),
            disk_free_bytes: of.gauge("posthaste_disk_free_bytes", "Bytes free where the data directory is"),
            commit_queued: of.gauge("posthaste_commit_queued", "Events waiting for the next group commit"),
            index_unwritten: of.gauge("posthaste_index_unwritten", "Index changes in memory only"),
            names_unwritten: of.gauge("posthaste_names_unwritten", "Producers' keys and resources in memory only"),
            commit_seconds: of.seconds("posthaste_commit_duration_seconds", "Write and sync of a group commit"),
            commit_records: of.histogram("posthaste_commit_records", Unit::Count, "Records in a group commit"),
            commit_bytes: of.histogram("posthaste_commit_size_bytes", Unit::Bytes, "Bytes in a group commit"),
            index_rebuilds: of.counter("posthaste_index_rebuilds_total", "Times the index was made anew"),
            sessions: of.gauge("posthaste_dashboard_sessions", "Sessions of the dashboard"),
            watchers: of.gauge("posthaste_dashboard_watchers", "Pages that watch for new events"),
            segments_dropped: of.counter(
                "posthaste_journal_segments_dropped_total",
                "Journal files dropped because they were past their time",
            ),
            events_damaged: of.counter("posthaste_events_damaged_total", "Events of which a record is damaged"),
            ready: of.gauge("posthaste_ready", "1 while the process takes work"),
            recorder: Arc::clone(&recorder),
        };
        of.build_info();
        metrics
    }

    /// Shows a configured limit, so that a figure can be read against it.
    pub fn limit(&self, name: &'static str, value: f64) {
        self.recorder.describe_gauge("posthaste_limit".into(), None, "Configured limits by name".into());
        let key = Key::from_parts("posthaste_limit", vec![Label::new("name", name)]);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    /// The open connections of a listener.
    pub fn connections(&self, listener: &'static str) -> Gauge {
        self.recorder.describe_gauge("posthaste_connections".into(), None, "Open connections by listener".into());
        let key = Key::from_parts("posthaste_connections", vec![Label::new("listener", listener)]);
        self.recorder.register_gauge(&key, &METADATA)
    }

    /// The connections of a listener that came to nothing: `refused` because their address has too many, `broken`
    /// by the client, `accept_failed` for want of something of the host's.
    pub fn connection_faults(&self, listener: &'static str, reason: &'static str) -> Counter {
        let name = "posthaste_connection_faults_total";
        self.recorder.describe_counter(name.into(), None, "Connections that came to nothing, by listener".into());
        let labels = vec![Label::new("listener", listener), Label::new("reason", reason)];
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    /// Shows a configured limit of a listener.
    pub fn listener_limit(&self, listener: &'static str, name: &'static str, value: f64) {
        let about = "Configured limits of listeners by name";
        self.recorder.describe_gauge("posthaste_listener_limit".into(), None, about.into());
        let labels = vec![Label::new("listener", listener), Label::new("name", name)];
        self.recorder.register_gauge(&Key::from_parts("posthaste_listener_limit", labels), &METADATA).set(value);
    }

    /// The requests of a listener that were answered with a class of status: `2xx`, `4xx`, ….
    pub fn requests(&self, listener: &'static str, class: &'static str) -> Counter {
        let name = "posthaste_http_requests_total";
        self.recorder.describe_counter(name.into(), None, "Requests answered, by listener and status class".into());
        let labels = vec![Label::new("listener", listener), Label::new("class", class)];
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    /// An event was refused.
    pub fn refused(&self, reason: RefusalReason) {
        self.refused[reason as usize].increment(1);
    }

    /// An attempt ended.
    pub fn attempted(&self, error: Option<ErrorCode>) {
        match error {
            None => self.succeeded.increment(1),
            Some(error) => self.failed[usize::from(error.code())].increment(1),
        }
    }

    /// A delivery reached a status.
    pub fn settled(&self, status: Status) {
        self.settled[usize::from(status.code())].increment(1);
    }

    /// The product switched an endpoint off.
    pub fn disabled(&self, reason: DisabledReason) {
        self.disabled[reason as usize].increment(1);
    }

    /// Everything as Prometheus reads it, text format 0.0.4.
    pub fn render(&self) -> String {
        self.text.run_upkeep();
        self.text.render()
    }

    /// Folds gathered samples together, so that they do not pile up between scrapes.
    pub fn upkeep(&self) {
        self.text.run_upkeep();
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

const METADATA: Metadata<'static> = Metadata::new("posthaste", Level::INFO, None);

/// Knows the buckets of each histogram.
fn builder() -> PrometheusBuilder {
    let buckets = [
        ("posthaste_commit_duration_seconds", SYNC_BUCKETS),
        ("posthaste_attempt_duration_seconds", ATTEMPT_BUCKETS),
        ("posthaste_delivery_latency_seconds", DELIVERY_BUCKETS),
        ("posthaste_first_attempt_latency_seconds", DELIVERY_BUCKETS),
        ("posthaste_commit_records", COUNT_BUCKETS),
        ("posthaste_commit_size_bytes", BYTE_BUCKETS),
    ];
    let mut builder = PrometheusBuilder::new();
    for (name, values) in buckets {
        let matcher = Matcher::Full(name.to_owned());
        builder = builder.set_buckets_for_metric(matcher, values).expect("no list of buckets is empty");
    }
    builder
}

/// Describes and registers in one breath.
struct Figures<'a> {
    recorder: &'a PrometheusRecorder,
}

impl Figures<'_> {
    fn build_info(&self) {
        let version = Key::from_parts("posthaste_build_info", vec![Label::new("version", env!("CARGO_PKG_VERSION"))]);
        self.recorder.describe_gauge("posthaste_build_info".into(), None, "Always 1; the version is a label".into());
        self.recorder.register_gauge(&version, &METADATA).set(1.0);
    }

    fn counter(&self, name: &'static str, about: &'static str) -> Counter {
        self.recorder.describe_counter(name.into(), None, about.into());
        self.recorder.register_counter(&Key::from_static_name(name), &METADATA)
    }

    fn counters<const N: usize>(
        &self,
        name: &'static str,
        about: &'static str,
        label: &'static str,
        values: [&'static str; N],
    ) -> Arc<[Counter]> {
        self.recorder.describe_counter(name.into(), None, about.into());
        let counter =
            |value| self.recorder.register_counter(&Key::from_parts(name, vec![Label::new(label, value)]), &METADATA);
        values.map(counter).into()
    }

    fn attempts(&self, outcome: &'static str) -> Counter {
        let [counter] = &*self.counters("posthaste_attempts_total", "Attempts by outcome", "outcome", [outcome]) else {
            unreachable!("one value makes one counter")
        };
        counter.clone()
    }

    fn gauge(&self, name: &'static str, about: &'static str) -> Gauge {
        self.recorder.describe_gauge(name.into(), None, about.into());
        self.recorder.register_gauge(&Key::from_static_name(name), &METADATA)
    }

    fn seconds(&self, name: &'static str, about: &'static str) -> Histogram {
        self.histogram(name, Unit::Seconds, about)
    }

    fn histogram(&self, name: &'static str, unit: Unit, about: &'static str) -> Histogram {
        self.recorder.describe_histogram(name.into(), Some(unit), about.into());
        self.recorder.register_histogram(&Key::from_static_name(name), &METADATA)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_there_before_anything_happens_and_count() {
        let metrics = Metrics::new();
        metrics.attempted(Some(ErrorCode::Timeout));
        metrics.attempted(None);
        metrics.refused(RefusalReason::DiskFull);
        metrics.settled(Status::Delivered);
        metrics.commit_seconds.record(0.0004);
        let text = metrics.render();
        for line in [
            "posthaste_attempts_total{outcome=\"timeout\"} 1",
            "posthaste_attempts_total{outcome=\"success\"} 1",
            "posthaste_attempts_total{outcome=\"dns\"} 0",
            "posthaste_events_refused_total{reason=\"disk_full\"} 1",
            "posthaste_deliveries_settled_total{status=\"delivered\"} 1",
            "posthaste_commit_duration_seconds_bucket{le=\"0.0005\"} 1",
            "posthaste_events_accepted_total 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
