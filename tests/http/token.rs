//! `GANESH_API_TOKEN`.

use reqwest::Method;
use reqwest::header::AUTHORIZATION;

use super::client::{Answer, get, request, send};
use crate::support::{Ganesh, Stack};

async fn get_as(ganesh: &Ganesh, authorization: &str) -> Answer {
    let request = request(ganesh, Method::GET, "/v1/events/unknown");
    send(request.header(AUTHORIZATION, authorization)).await
}

#[tokio::test]
async fn with_a_token_only_who_has_it_is_answered() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_API_TOKEN", "s3cret")]).await;
    for path in ["/v1/events/unknown", "/v1/subjects/s/latest", "/unknown"] {
        let answer = get(&ganesh, path).await;
        answer.problem(401, "Unauthorized");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer realm=\"ganesh\""), "{path}");
    }
    for wrong in [
        "",
        "s3cret",
        "Basic s3cret",
        "Bearer ",
        "Bearer s3cre",
        "Bearer s3crets",
    ] {
        get_as(&ganesh, wrong).await.problem(401, "Unauthorized");
    }
    let answer = get_as(&ganesh, "Bearer wrong").await;
    answer.problem(401, "Unauthorized");
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    for right in ["Bearer s3cret", "bearer  s3cret"] {
        get_as(&ganesh, right).await.problem(404, "Not Found");
    }
    // Probes and scrapers have none.
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    assert!(!ganesh.log().contains("s3cret"));
}
