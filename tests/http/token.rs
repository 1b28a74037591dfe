//! `GANESH_API_TOKEN`.

use reqwest::Method;
use reqwest::header::AUTHORIZATION;

use super::client::{Answer, get, request, send};
use crate::support::{Ganesh, PATIENCE, Stack, eventually};

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

#[tokio::test]
async fn each_token_of_a_file_admits_and_the_file_is_read_again() {
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "token-first\n\n  token-second  \n").unwrap();
    let settings = [("GANESH_API_TOKEN_FILE", file.to_str().unwrap())];
    let ganesh = stack.serve(&settings).await;
    let status = async |token: &str| get_as(&ganesh, &format!("Bearer {token}")).await.status;
    assert_eq!(
        (status("token-first").await, status("token-second").await),
        (404, 404)
    );
    for wrong in [
        "firs",
        "token-firsttoken-second",
        "token-first\\nsecond",
        "",
    ] {
        assert_eq!(status(wrong).await, 401, "{wrong}");
    }
    let stream = request(&ganesh, Method::GET, "/v1/events/stream");
    let stream = stream.header("authorization", "Bearer token-first");
    let mut stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    // As Kubernetes does it: another file under the same name.
    let next = folder.path().join("next");
    std::fs::write(&next, "token-second\ntoken-third\n").unwrap();
    std::fs::rename(&next, &file).unwrap();
    eventually("the new one admits", || async {
        status("token-third").await == 404
    })
    .await;
    assert_eq!(
        (status("token-first").await, status("token-second").await),
        (401, 404)
    );
    // What was begun with a token ends with it.
    let ends = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(PATIENCE, ends).await.unwrap();
    // What has no tokens neither opens the API nor closes it.
    for text in ["", "\n", "two words\n"] {
        std::fs::write(&file, text).unwrap();
        let warnings = ganesh
            .log()
            .matches("the previous tokens stay valid")
            .count();
        if text.is_empty() {
            eventually("it says so", || async {
                ganesh
                    .log()
                    .matches("the previous tokens stay valid")
                    .count()
                    > warnings
            })
            .await;
        }
        assert_eq!((status("token-third").await, status("").await), (404, 401));
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "token-fourth").unwrap();
    eventually("it is read again", || async {
        status("token-fourth").await == 404
    })
    .await;
    assert_eq!(get(&ganesh, "/v1/events/unknown").await.status, 401);
    for token in ["token-first", "token-second", "token-third", "token-fourth"] {
        assert!(!ganesh.log().contains(token), "{}", ganesh.log());
    }
}
