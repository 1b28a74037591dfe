//! A real Prometheus whose past is written by a test: hours in seconds.

#![allow(clippy::cast_possible_truncation, reason = "bytes of larger numbers")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use super::load::Sample;
use crate::support::eventually;
use crate::support::monitoring::{list, word};
use crate::support::servers::free_port;

pub(super) struct History {
    server: Child,
    address: String,
    client: reqwest::Client,
    /// Unix time of second 0.
    start_secs: u64,
    _folder: TempDir,
}

impl Drop for History {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl History {
    /// One with room for this much time before now.
    pub(super) async fn start(prometheus: &Path, secs: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration = folder.path().join("prometheus.yml");
        std::fs::write(&configuration, "global: { scrape_interval: 15s }\n").unwrap();
        let port = free_port();
        let server = Command::new(prometheus)
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--web.enable-remote-write-receiver")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let history = Self {
            server,
            address: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::new(),
            start_secs: now - u64::from(secs),
            _folder: folder,
        };
        let ready = format!("{}/-/ready", history.address);
        eventually("Prometheus is ready", || async {
            reqwest::get(&ready)
                .await
                .is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        history
    }

    /// Writes samples of this second, by Prometheus' remote write.
    pub(super) async fn write(&self, at_secs: u32, samples: &[Sample]) {
        let millis = (self.start_secs + u64::from(at_secs)) * 1000;
        let request = samples.iter().fold(Vec::new(), |mut request, sample| {
            field(&mut request, 1, &time_series(sample, millis));
            request
        });
        let sent = self
            .client
            .post(format!("{}/api/v1/write", self.address))
            .header("Content-Encoding", "snappy")
            .header("Content-Type", "application/x-protobuf")
            .header("X-Prometheus-Remote-Write-Version", "0.1.0")
            .body(snappy(&request));
        let answer = sent.send().await.unwrap();
        let status = answer.status();
        assert!(
            status.is_success(),
            "{status}: {}",
            answer.text().await.unwrap()
        );
    }

    /// What a query gives at this second; `None` without data, which is an error to KEDA (`ignoreNullValues: "false"`).
    pub(super) async fn ask(&self, query: &str, at_secs: u32) -> Option<f64> {
        let time = (self.start_secs + u64::from(at_secs)).to_string();
        let parameters = [("query", query), ("time", time.as_str())];
        let url =
            url::Url::parse_with_params(&format!("{}/api/v1/query", self.address), parameters)
                .unwrap();
        let answer: Value = self
            .client
            .get(url)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        let series = list(&answer["data"]["result"]);
        assert!(series.len() < 2, "KEDA takes one series: {answer}");
        series
            .first()
            .map(|one| word(&one["value"][1]).parse().unwrap())
    }
}

fn time_series((labels, value): &Sample, millis: u64) -> Vec<u8> {
    let mut series = Vec::new();
    for (name, value) in labels {
        let mut label = Vec::new();
        field(&mut label, 1, name.as_bytes());
        field(&mut label, 2, value.as_bytes());
        field(&mut series, 1, &label);
    }
    // A double in field 1, an integer in field 2.
    let mut sample = vec![0x09];
    sample.extend(value.to_bits().to_le_bytes());
    sample.push(0x10);
    varint(&mut sample, millis);
    field(&mut series, 2, &sample);
    series
}

/// A field of bytes, as Protobuf encodes it.
fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push((number << 3) | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Snappy's block format, without compression: literals of 64 KiB at most.
fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    varint(&mut block, bytes.len() as u64);
    for part in bytes.chunks(1 << 16) {
        block.push(61 << 2);
        block.extend(((part.len() - 1) as u16).to_le_bytes());
        block.extend(part);
    }
    block
}
