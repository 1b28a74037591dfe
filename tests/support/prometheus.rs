//! A real Prometheus, started as `make up` starts it, and what it answers.

use serde_json::Value;

use super::eventually;
use super::monitoring::{list, word};
use super::servers::Server;

/// It scrapes and evaluates every second, until it is dropped.
pub struct Prometheus(Server);

impl Prometheus {
    /// One that scrapes these admin addresses, separated by commas; ready.
    pub async fn start(targets: &str) -> Self {
        let server = Server::start(
            "prometheus",
            &[("GANESH_TARGETS", targets), ("INTERVAL", "1s")],
        );
        // It listens a moment before it answers.
        let ready = format!("http://127.0.0.1:{}/-/ready", server.port());
        eventually("Prometheus is ready", || async {
            reqwest::get(&ready)
                .await
                .is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        Self(server)
    }

    /// The `data` of an answer of its API.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let address = format!("http://127.0.0.1:{}/api/v1/{path}", self.0.port());
        let url = url::Url::parse_with_params(&address, parameters).unwrap();
        let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// The series that an expression gives now.
    pub async fn now(&self, expr: &str) -> Vec<Value> {
        let data = self.ask("query", &[("query", expr)]).await;
        list(&data["result"]).to_vec()
    }

    /// Whether an expression gives at least one number.
    pub async fn has_data(&self, expr: &str) -> bool {
        let results = self.now(expr).await;
        let mut results = results.iter();
        results.any(|result| word(&result["value"][1]) != "NaN")
    }

    /// The series of an expression from one Unix time to another, every second; no NaN.
    pub async fn range(&self, expr: &str, (from, to): (f64, f64)) -> Vec<(Value, Vec<f64>)> {
        let (from, to) = (from.to_string(), to.to_string());
        let parameters = [
            ("query", expr),
            ("start", from.as_str()),
            ("end", to.as_str()),
            ("step", "1"),
        ];
        let data = self.ask("query_range", &parameters).await;
        let series = list(&data["result"]).iter().map(|series| {
            let values = list(&series["values"]).iter();
            let values = values.map(|pair| word(&pair[1]).parse::<f64>().unwrap());
            (
                series["metric"].clone(),
                values.filter(|v| !v.is_nan()).collect(),
            )
        });
        series.collect()
    }
}
