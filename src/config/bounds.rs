//! What values may be: each key alone, and keys together.
//!
//! Never changes a value: what is out of bounds is refused, not cut.

use super::units::{show_bytes, show_ms};
use super::{Config, Dashboard, Delivery, Listener, Transport};

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A key and what is wrong with it.
type Finding = (String, String);

/// What is out of bounds, each key looked at alone.
pub(super) fn of_single_keys(config: &Config) -> Vec<Finding> {
    let mut check = Check::default();
    for (section, listener) in config.listeners() {
        check_listener(&mut check, section, listener);
    }
    let storage = &config.storage;
    check.count("storage.commit_queue_max", storage.commit_queue_max, 1, 1 << 20);
    check.bytes("storage.segment_bytes", storage.segment_bytes, MIB, GIB);
    check.ms("storage.index_flush", storage.index_flush_ms, 10, MINUTE_MS);
    check.bytes("storage.index_cache_bytes", storage.index_cache_bytes, MIB, TIB);
    check.bytes("storage.free_bytes_min", storage.free_bytes_min, 16 * MIB, TIB);
    check.bytes("storage.commit_queue_bytes_max", storage.commit_queue_bytes_max, MIB, GIB);
    check.ms("storage.settle_delay", storage.settle_delay_ms, 1, SECOND_MS);
    check.count("storage.index_unwritten_max", storage.index_unwritten_max, 1_000, 10_000_000);
    check.count("storage.names_unwritten_max", storage.names_unwritten_max, 32, 1_000_000);
    check.count("storage.reads_max", storage.reads_max, 1, 256);
    check.bytes("storage.reserve_bytes", storage.reserve_bytes, 0, 64 * GIB);
    check.ms("storage.retention_age", storage.retention_age_ms, HOUR_MS, 3650 * DAY_MS);
    check.bytes("storage.retention_bytes_max", storage.retention_bytes_max, 4 * MIB, 1024 * TIB);
    check.ms("storage.retention_every", storage.retention_every_ms, 10, HOUR_MS);
    check.ms("storage.idempotency_window", storage.idempotency_window_ms, DAY_MS, 7 * DAY_MS);
    check.require("storage.data_dir", !storage.data_dir.as_os_str().is_empty(), "must be a directory");
    let delivery = &config.delivery;
    check.ms("delivery.timeout", delivery.timeout_ms, 100, MINUTE_MS);
    check.count("delivery.in_flight_max", delivery.in_flight_max, 1, 1 << 16);
    check.count("delivery.in_flight_per_merchant_max", delivery.in_flight_per_merchant_max, 1, 1 << 16);
    check.count("delivery.in_flight_per_endpoint_max", delivery.in_flight_per_endpoint_max, 1, 1 << 16);
    check.count("delivery.window_max", delivery.window_max, 1, 1 << 20);
    check.count("delivery.window_total_max", delivery.window_total_max, 1_000, 10_000_000);
    check.bytes("delivery.window_payload_bytes_max", delivery.window_payload_bytes_max, MIB, 64 * GIB);
    check.count("delivery.page_max", delivery.page_max, 1, 1 << 16);
    check.count("delivery.pages_max", delivery.pages_max, 1, 256);
    check.count("delivery.settling_max", delivery.settling_max, 1, 1 << 20);
    check.count("delivery.notices_max", delivery.notices_max, 256, 1 << 20);
    check.bytes("delivery.notices_payload_bytes_max", delivery.notices_payload_bytes_max, MIB, 64 * GIB);
    check.count("delivery.shards", delivery.shards, 0, 256);
    check.ms("delivery.drain_max", delivery.drain_ms_max, 0, HOUR_MS);
    check.ms("delivery.retry_after_max", delivery.retry_after_ms_max, SECOND_MS, 30 * DAY_MS);
    check_policy(&mut check, delivery);
    let waits = &delivery.retry_schedule_ms;
    check.require("delivery.retry_schedule", waits.len() <= 100, "must have at most 100 entries");
    for wait in waits {
        check.ms("delivery.retry_schedule", *wait, 100, 30 * DAY_MS);
    }
    check.require("delivery.retry_jitter", (0.0..=1.0).contains(&delivery.retry_jitter), "must be from 0.0 to 1.0");
    let egress = &config.egress;
    check.require("egress.ports", !egress.ports.contains(&0), "must not have port 0");
    let are_names = egress.denied_suffixes.iter().all(|s| !s.is_empty() && !s.starts_with(['.', '*']));
    check.require(
        "egress.denied_suffixes",
        are_names,
        "must be domains such as \"corp.example\", without * or a dot before",
    );
    check_transport(&mut check, &config.transport);
    let events = &config.events;
    check.bytes("events.body_bytes_max", events.body_bytes_max, KIB, 16 * MIB);
    check.count("events.batch_lines_max", events.batch_lines_max, 1, 100_000);
    check.bytes("events.batch_bytes_max", events.batch_bytes_max, KIB, GIB);
    check_dashboard(&mut check, &config.dashboard);
    check.0
}

fn check_policy(check: &mut Check, delivery: &Delivery) {
    check.count("delivery.breaker_failures", delivery.breaker_failures as usize, 0, 1_000);
    check.count("delivery.breaker_successes", delivery.breaker_successes as usize, 1, 1_000);
    check.ms("delivery.breaker_wait", delivery.breaker_wait_ms, 1, DAY_MS);
    check.ms("delivery.breaker_wait_max", delivery.breaker_wait_ms_max, 1, DAY_MS);
    check.ms("delivery.slow_after", delivery.slow_ms, 1, MINUTE_MS);
    check.count("delivery.rate_per_endpoint_max", delivery.rate_per_endpoint_max as usize, 0, 1_000_000);
    check.ms("delivery.fault_wait", delivery.fault_wait_ms, 1, MINUTE_MS);
    check.ms("delivery.fault_wait_max", delivery.fault_wait_ms_max, 1, HOUR_MS);
    check.ms("delivery.failing_after", delivery.failing_after_ms, 0, 30 * DAY_MS);
    check.ms("delivery.disable_after", delivery.disable_after_ms, 0, 365 * DAY_MS);
    check.ms("delivery.disable_spread", delivery.disable_spread_ms, 0, 30 * DAY_MS);
    check.ms("delivery.overdue_max", delivery.overdue_ms_max, 0, 3650 * DAY_MS);
    check.count("delivery.recover_events_max", delivery.recover_events_max, 1, 100_000_000);
    check.count("delivery.recover_per_second", delivery.recover_per_second as usize, 1, 100_000);
    check.count("delivery.recoveries_max", delivery.recoveries_max, 1, 100_000);
    check.count("delivery.parked_per_endpoint_max", delivery.parked_per_endpoint_max, 1, 1 << 20);
}

fn check_dashboard(check: &mut Check, dashboard: &Dashboard) {
    check.ms("dashboard.link_ttl", dashboard.link_ttl_ms, 10 * SECOND_MS, DAY_MS);
    check.count("dashboard.links_max", dashboard.links_max, 1, 1_000_000);
    check.ms("dashboard.session_idle", dashboard.session_idle_ms, SECOND_MS, 7 * DAY_MS);
    check.ms("dashboard.session_age_max", dashboard.session_age_ms_max, SECOND_MS, 30 * DAY_MS);
    check.count("dashboard.sessions_per_merchant_max", dashboard.sessions_per_merchant_max, 1, 10_000);
    check.count("dashboard.sessions_max", dashboard.sessions_max, 1, 1_000_000);
    check.count("dashboard.watchers_per_merchant_max", dashboard.watchers_per_merchant_max, 0, 10_000);
    check.count("dashboard.watchers_max", dashboard.watchers_max, 0, 1 << 20);
    check.count("dashboard.actions_per_minute_max", dashboard.actions_per_minute_max as usize, 1, 1_000_000);
    check.require("dashboard.frame_ancestors", dashboard.frame_ancestors.len() <= 32, "must have at most 32 entries");
}

fn check_listener(check: &mut Check, section: &str, listener: &Listener) {
    let key = |name: &str| format!("{section}.{name}");
    check.count(&key("connections_max"), listener.connections_max, 1, 1 << 20);
    check.count(&key("connections_per_ip_max"), listener.connections_per_ip_max, 1, 1 << 20);
    check.ms(&key("head_timeout"), listener.head_timeout_ms, 100, 10 * MINUTE_MS);
    check.bytes(&key("head_bytes_max"), listener.head_bytes_max, KIB, MIB);
    check.count(&key("headers_max"), listener.headers_max, 8, 1000);
    check.bytes(&key("uri_bytes_max"), listener.uri_bytes_max, 256, 64 * KIB);
    check.ms(&key("body_timeout"), listener.body_timeout_ms, 100, HOUR_MS);
    check.bytes(&key("body_bytes_in_flight_max"), listener.body_bytes_in_flight_max, 64 * KIB, TIB);
    check.ms(&key("tls_handshake_timeout"), listener.tls_handshake_timeout_ms, 100, MINUTE_MS);
    check.ms(&key("keep_alive_idle"), listener.keep_alive_idle_ms, 100, HOUR_MS);
    check.ms(&key("write_timeout"), listener.write_timeout_ms, 100, HOUR_MS);
    check.ms(&key("linger"), listener.linger_ms, 0, MINUTE_MS);
    check.bytes(&key("linger_bytes_max"), listener.linger_bytes_max, 0, GIB);
    check.ms(&key("drain_max"), listener.drain_ms_max, 0, HOUR_MS);
}

fn check_transport(check: &mut Check, transport: &Transport) {
    check.ms("transport.dns_timeout", transport.dns_timeout_ms, 100, MINUTE_MS);
    check.ms("transport.connect_timeout", transport.connect_timeout_ms, 100, MINUTE_MS);
    check.ms("transport.tls_timeout", transport.tls_timeout_ms, 100, MINUTE_MS);
    // No more than the watch on what comes before the head lets pass.
    check.bytes("transport.response_head_bytes_max", transport.response_head_bytes_max, 8 * KIB, 64 * KIB);
    check.bytes("transport.response_body_read_bytes_max", transport.response_body_read_bytes_max, 0, MIB);
    check.bytes("transport.response_body_kept_bytes_max", transport.response_body_kept_bytes_max, 0, 64 * KIB);
    check.ms("transport.response_body_timeout", transport.response_body_timeout_ms, 10, MINUTE_MS);
    check.bytes("transport.response_headers_kept_bytes_max", transport.response_headers_kept_bytes_max, 0, 64 * KIB);
    check.ms("transport.idle", transport.idle_ms, 100, HOUR_MS);
    check.ms("transport.age_max", transport.age_ms_max, 100, DAY_MS);
    check.count("transport.uses_max", transport.uses_max as usize, 1, 1 << 20);
    check.count("transport.idle_connections_max", transport.idle_connections_max, 0, 1 << 20);
    check.count("transport.dns_lookups_max", transport.dns_lookups_max, 1, 1 << 16);
    check.ms("transport.dns_ttl_max", transport.dns_ttl_ms_max, SECOND_MS, DAY_MS);
}

/// What is wrong only together, named by the key that should change.
pub(super) fn combinations(config: &Config) -> Vec<Finding> {
    let mut check = Check::default();
    for (section, listener) in config.listeners() {
        let key = |name: &str| format!("{section}.{name}");
        let (cert, private) = (listener.tls_cert.is_some(), listener.tls_key.is_some());
        check.require(&key("tls_key"), private || !cert, "must be set, because tls_cert is");
        check.require(&key("tls_cert"), cert || !private, "must be set, because tls_key is");
        check.at_most(
            &key("connections_per_ip_max"),
            listener.connections_per_ip_max,
            "connections_max",
            listener.connections_max,
        );
        check.at_most(&key("uri_bytes_max"), listener.uri_bytes_max, "head_bytes_max", listener.head_bytes_max);
    }
    let addresses = config.listeners().map(|(section, listener)| (section, listener.address));
    for (i, (section, address)) in addresses.iter().enumerate() {
        let twin = addresses[..i].iter().find(|(_, other)| other == address && address.port() != 0);
        if let Some((other, _)) = twin {
            check.require(&format!("{section}.address"), false, &format!("must differ from {other}.address"));
        }
    }
    let delivery = &config.delivery;
    let merchant = delivery.in_flight_per_merchant_max;
    check.at_most("delivery.in_flight_per_merchant_max", merchant, "in_flight_max", delivery.in_flight_max);
    let endpoint = delivery.in_flight_per_endpoint_max;
    check.at_most("delivery.in_flight_per_endpoint_max", endpoint, "in_flight_per_merchant_max", merchant);
    let shorter = delivery.breaker_wait_ms <= delivery.breaker_wait_ms_max;
    check.require("delivery.breaker_wait", shorter, "must not be more than breaker_wait_max");
    let shorter = delivery.fault_wait_ms <= delivery.fault_wait_ms_max;
    check.require("delivery.fault_wait", shorter, "must not be more than fault_wait_max");
    let events = &config.events;
    check.at_most("events.body_bytes_max", events.body_bytes_max, "batch_bytes_max", events.batch_bytes_max);
    let memory = config.ingest.body_bytes_in_flight_max;
    check.at_most("events.batch_bytes_max", events.batch_bytes_max, "ingest.body_bytes_in_flight_max", memory);
    check.at_most(
        "events.batch_bytes_max",
        events.batch_bytes_max,
        "storage.segment_bytes",
        config.storage.segment_bytes,
    );
    let dashboard = &config.dashboard;
    let sessions = dashboard.sessions_per_merchant_max;
    check.at_most("dashboard.sessions_per_merchant_max", sessions, "sessions_max", dashboard.sessions_max);
    let watchers = dashboard.watchers_per_merchant_max;
    check.at_most("dashboard.watchers_per_merchant_max", watchers, "watchers_max", dashboard.watchers_max);
    check.require(
        "storage.retention_bytes_max",
        config.storage.retention_bytes_max / 4 >= config.storage.segment_bytes,
        "must be at least four times segment_bytes",
    );
    let auth = &config.auth;
    let one_key = auth.operator_key.is_none() || auth.operator_key_file.is_none();
    check.require("auth.operator_key", one_key, "must not be set together with operator_key_file");
    check.0
}

#[derive(Default)]
struct Check(Vec<Finding>);

impl Check {
    fn count(&mut self, key: &str, value: usize, min: u64, max: u64) {
        self.within(key, value as u64, min, max, |n| n.to_string());
    }

    fn bytes(&mut self, key: &str, value: usize, min: u64, max: u64) {
        self.within(key, value as u64, min, max, |n| format!("{:?}", show_bytes(n)));
    }

    fn ms(&mut self, key: &str, value: u64, min: u64, max: u64) {
        self.within(key, value, min, max, |n| format!("{:?}", show_ms(n)));
    }

    fn within(&mut self, key: &str, value: u64, min: u64, max: u64, show: fn(u64) -> String) {
        let detail = format!("must be from {} to {}", show(min), show(max));
        self.require(key, (min..=max).contains(&value), &detail);
    }

    fn at_most(&mut self, key: &str, value: usize, other: &str, most: usize) {
        self.require(key, value <= most, &format!("must not be more than {other}"));
    }

    fn require(&mut self, key: &str, holds: bool, detail: &str) {
        if !holds {
            self.0.push((key.to_owned(), detail.to_owned()));
        }
    }
}
