//! What the agent counts while it follows the policy server.
//!
//! | Metric | Labels | Meaning |
//! | --- | --- | --- |
//! | `sarcenet_agent_policies` | | policies in force |
//! | `sarcenet_agent_policies_left_out` | | policies of the server that cannot be enforced |
//! | `sarcenet_agent_policies_watched` | | 1 when the server tells of changes, 0 when it is polled |
//! | `sarcenet_agent_policies_generation` | | generation of the policies; 0 if there is none |
//! | `sarcenet_agent_policies_delay_seconds` | | from the server's change to its being in force here |
//! | `sarcenet_agent_security_groups` | | security groups in force |
//! | `sarcenet_agent_security_groups_watched` | | 1 when the server tells of changes, 0 when it is polled |
//! | `sarcenet_agent_security_group_rules_left_out` | | their rules that cannot be enforced |
//! | `sarcenet_agent_followed_timestamp_seconds` | what | when the last good answer came, since the epoch |
//! | `sarcenet_agent_follow_failures_total` | what, kind | see [`FailureKind`] |
//!
//! `what` is `policies` or `security_groups`. Delays are as good as the clocks of server and cell
//! agree.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use sarcenet_server::http::metrics::Metrics;

use super::ask::FailureKind;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    what: &'static str,
    kind: &'static str,
}

/// The counters. Clones are the same.
#[derive(Debug, Clone)]
pub struct PolicyMetrics {
    policies: Gauge,
    policies_left_out: Gauge,
    watched: Gauge,
    generation: Gauge,
    delay: Histogram,
    groups: Gauge,
    groups_watched: Gauge,
    rules_left_out: Gauge,
    followed: Family<Of, Gauge<f64, AtomicU64>>,
    failures: Family<OfFailure, Counter>,
}

impl PolicyMetrics {
    /// Counters that are shown among `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let these = Self {
            policies: Gauge::default(),
            policies_left_out: Gauge::default(),
            watched: Gauge::default(),
            generation: Gauge::default(),
            // From a millisecond to half a minute.
            delay: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            groups: Gauge::default(),
            groups_watched: Gauge::default(),
            rules_left_out: Gauge::default(),
            followed: Family::default(),
            failures: Family::default(),
        };
        metrics.register(|registry| {
            let mut gauge =
                |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
            gauge("sarcenet_agent_policies", "Policies in force", &these.policies);
            gauge(
                "sarcenet_agent_policies_left_out",
                "Policies of the server that cannot be enforced",
                &these.policies_left_out,
            );
            gauge(
                "sarcenet_agent_policies_watched",
                "Whether the server tells of changes",
                &these.watched,
            );
            gauge(
                "sarcenet_agent_policies_generation",
                "Generation of the policies",
                &these.generation,
            );
            gauge("sarcenet_agent_security_groups", "Security groups in force", &these.groups);
            gauge(
                "sarcenet_agent_security_groups_watched",
                "Whether the server tells of changes of security groups",
                &these.groups_watched,
            );
            gauge(
                "sarcenet_agent_security_group_rules_left_out",
                "Rules of security groups that cannot be enforced",
                &these.rules_left_out,
            );
            registry.register(
                "sarcenet_agent_policies_delay_seconds",
                "Time from a change at the server to its being in force",
                these.delay.clone(),
            );
            registry.register(
                "sarcenet_agent_followed_timestamp_seconds",
                "When the last good answer came, since the epoch",
                these.followed.clone(),
            );
            registry.register(
                "sarcenet_agent_follow_failures",
                "Questions to servers that came to nothing",
                these.failures.clone(),
            );
        });
        these
    }

    /// A question came to nothing.
    pub fn failed(&self, what: &'static str, kind: FailureKind) {
        self.failures.get_or_create(&OfFailure { what, kind: kind.name() }).inc();
    }

    /// A question was answered.
    pub fn answered(&self, what: &'static str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.followed.get_or_create(&Of { what }).set(now.as_secs_f64());
    }

    /// How the policies are followed.
    pub fn watched(&self, watched: bool, generation: i64) {
        self.watched.set(watched.into());
        self.generation.set(generation);
    }

    /// So many policies are in force, so many are not, and it took that long, if it is known.
    pub fn policies(&self, there: usize, left_out: usize, delay: Option<Duration>) {
        self.policies.set(there as i64);
        self.policies_left_out.set(left_out as i64);
        if let Some(delay) = delay {
            self.delay.observe(delay.as_secs_f64());
        }
    }

    /// Whether changes of security groups are told.
    pub fn groups_watched(&self, watched: bool) {
        self.groups_watched.set(watched.into());
    }

    /// So many security groups are in force, and so many of their rules are not.
    pub fn groups(&self, there: usize, left_out: usize) {
        self.groups.set(there as i64);
        self.rules_left_out.set(left_out as i64);
    }
}
