//! The rules of Kubernetes' HorizontalPodAutoscaler for one external metric of the type AverageValue, with the behaviour
//! of the rendered ScaledObject, and KEDA's fallback.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "replicas are few"
)]

use serde_json::Value;

use crate::support::monitoring::list;

/// Within this of the present number nothing changes.
const TOLERANCE: f64 = 0.1;

pub(super) struct Autoscaler {
    least: usize,
    most: usize,
    /// Errors in a row, after which KEDA answers the present number.
    failures_allowed: u64,
    failures: u64,
    up: Rules,
    down: Rules,
    /// What was desired, and when.
    desired: Vec<(u32, usize)>,
    /// Replicas that were added or removed, and when.
    changes: Vec<(u32, i64)>,
}

struct Rules {
    window_secs: u32,
    policies: Vec<Policy>,
}

struct Policy {
    is_percent: bool,
    value: usize,
    period_secs: u32,
}

fn number(value: &Value) -> u32 {
    u32::try_from(
        value
            .as_u64()
            .unwrap_or_else(|| panic!("{value} is no number")),
    )
    .unwrap()
}

impl Rules {
    fn of(rules: &Value) -> Self {
        assert_eq!(rules["selectPolicy"], "Max");
        let policies = list(&rules["policies"]).iter().map(|policy| Policy {
            is_percent: policy["type"] == "Percent",
            value: number(&policy["value"]) as usize,
            period_secs: number(&policy["periodSeconds"]),
        });
        Self {
            window_secs: number(&rules["stabilizationWindowSeconds"]),
            policies: policies.collect(),
        }
    }
}

impl Autoscaler {
    pub(super) fn of(scaled: &Value) -> Self {
        let behavior = &scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"];
        assert_eq!(scaled["fallback"]["behavior"], "currentReplicas");
        assert_eq!(scaled["triggers"][0]["metricType"], "AverageValue");
        assert_eq!(scaled["triggers"][0]["metadata"]["threshold"], "1");
        Self {
            least: number(&scaled["minReplicaCount"]) as usize,
            most: number(&scaled["maxReplicaCount"]) as usize,
            failures_allowed: u64::from(number(&scaled["fallback"]["failureThreshold"])),
            failures: 0,
            up: Rules::of(&behavior["scaleUp"]),
            down: Rules::of(&behavior["scaleDown"]),
            desired: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn least(&self) -> usize {
        self.least
    }

    /// How many replicas there are after a round.
    pub(super) fn next(&mut self, at_secs: u32, now: usize, wanted: Option<f64>) -> usize {
        self.failures = if wanted.is_some() {
            0
        } else {
            self.failures + 1
        };
        let wanted = match wanted {
            Some(wanted) => wanted,
            // A round with an error changes nothing, and is not remembered.
            None if self.failures <= self.failures_allowed => return now,
            None => now as f64,
        };
        let desired = desired(now, wanted);
        let stabilized = self.stabilized(at_secs, now, desired);
        let next = self
            .at_this_rate(at_secs, now, stabilized)
            .clamp(self.least, self.most);
        if next != now {
            self.changes.push((at_secs, next as i64 - now as i64));
        }
        next
    }

    /// Up to the least, down to the most that was desired in the window.
    fn stabilized(&mut self, at_secs: u32, now: usize, desired: usize) -> usize {
        self.desired.push((at_secs, desired));
        let within = |window: u32| {
            let recent = self
                .desired
                .iter()
                .filter(move |(at, _)| at + window > at_secs);
            recent.map(|(_, desired)| *desired)
        };
        let least = within(self.up.window_secs)
            .min()
            .unwrap_or(desired)
            .min(desired);
        let most = within(self.down.window_secs)
            .max()
            .unwrap_or(desired)
            .max(desired);
        now.max(least).min(most)
    }

    /// As far as the policies let it go at once.
    fn at_this_rate(&self, at_secs: u32, now: usize, wanted: usize) -> usize {
        let before = |policy: &Policy| {
            let recent = self
                .changes
                .iter()
                .filter(|(at, _)| at + policy.period_secs > at_secs);
            (now as i64 - recent.map(|(_, change)| change).sum::<i64>()) as f64
        };
        let part = |policy: &Policy| policy.value as f64 / 100.0;
        if wanted > now {
            let limits = self.up.policies.iter().map(|policy| {
                if policy.is_percent {
                    (before(policy) * (1.0 + part(policy))).ceil() as usize
                } else {
                    before(policy) as usize + policy.value
                }
            });
            return wanted.min(limits.max().unwrap().max(now));
        }
        let limits = self.down.policies.iter().map(|policy| {
            if policy.is_percent {
                (before(policy) * (1.0 - part(policy))) as usize
            } else {
                (before(policy) as usize).saturating_sub(policy.value)
            }
        });
        wanted.max(limits.min().unwrap().min(now))
    }
}

/// What the metric alone asks for: its sum over the target for each replica, which is 1.
fn desired(now: usize, wanted: f64) -> usize {
    let ratio = wanted / now as f64;
    if (1.0 - ratio).abs() <= TOLERANCE {
        now
    } else {
        wanted.ceil() as usize
    }
}

#[test]
fn the_rules_are_those_of_kubernetes() {
    // Within a tenth nothing changes; beyond it the next whole number counts.
    assert_eq!(desired(2, 2.19), 2);
    assert_eq!(desired(2, 2.3), 3);
    assert_eq!(desired(3, 2.6), 3);
    assert_eq!(desired(3, 1.9), 2);
    let up = Rules {
        window_secs: 60,
        policies: vec![Policy {
            is_percent: false,
            value: 2,
            period_secs: 60,
        }],
    };
    let down = Rules {
        window_secs: 300,
        policies: vec![Policy {
            is_percent: false,
            value: 1,
            period_secs: 60,
        }],
    };
    let (desired, changes) = (Vec::new(), Vec::new());
    let mut autoscaler = Autoscaler {
        least: 1,
        most: 9,
        failures_allowed: 1,
        failures: 0,
        up,
        down,
        desired,
        changes,
    };
    assert_eq!(autoscaler.next(0, 2, Some(2.0)), 2);
    // A higher wish has to last for the window, and two replicas come at a time.
    assert_eq!(autoscaler.next(30, 2, Some(9.0)), 2);
    assert_eq!(autoscaler.next(60, 2, Some(9.0)), 4);
    assert_eq!(autoscaler.next(75, 4, Some(9.0)), 4);
    // Without data nothing changes.
    assert_eq!(autoscaler.next(90, 4, None), 4);
    assert_eq!(autoscaler.next(105, 4, None), 4);
    assert_eq!(
        autoscaler.next(120, 4, Some(9.0)),
        4,
        "the fallback wished for four"
    );
    assert_eq!(autoscaler.next(165, 4, Some(9.0)), 6);
    // Down when the highest wish is five minutes old, one a minute.
    assert_eq!(autoscaler.next(300, 6, Some(1.0)), 6);
    assert_eq!(autoscaler.next(465, 6, Some(1.0)), 5);
    assert_eq!(autoscaler.next(480, 5, Some(1.0)), 5);
}
