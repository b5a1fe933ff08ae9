//! The malformed requests that the end-to-end tests send, without a network.

use std::path::PathBuf;
use std::time::Instant;

use axum::body::Body;
use http::Method;
use serde::Deserialize;

use super::{Server, request};

/// See `e2e/manifests/bad/requests.yaml`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BadRequest {
    file: Option<String>,
    name: Option<String>,
    generate: Option<Generated>,
    path: String,
    method: Option<String>,
    content_type: Option<String>,
    code: u16,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Generated {
    before: String,
    text: String,
    times: usize,
    after: String,
}

#[tokio::test]
async fn malformed_requests_are_refused_with_a_clear_status() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/manifests/bad"));
    let table = std::fs::read_to_string(folder.join("requests.yaml")).unwrap();
    let requests: Vec<BadRequest> = serde_yaml::from_str(&table).unwrap();
    let server = Server::start().await;
    let mut wrong = Vec::new();
    for bad in requests {
        let body = match (&bad.file, &bad.generate) {
            (Some(file), None) => std::fs::read(folder.join(file)).unwrap(),
            (None, Some(Generated { before, text, times, after })) => {
                format!("{before}{}{after}", text.repeat(*times)).into_bytes()
            }
            _ => panic!("a request is either a file or generated"),
        };
        let method: Method = bad.method.as_deref().unwrap_or("POST").parse().unwrap();
        let form = bad.content_type.as_deref().unwrap_or("application/yaml");
        let path = format!("{}?fieldValidation=Strict", bad.path);
        let started = Instant::now();
        let answer = server.send(request(method, &path, Some(form), Body::from(body))).await;
        let name = bad.file.or(bad.name).unwrap_or_default();
        let message = answer.body["message"].as_str().unwrap_or_default();
        println!(
            "{:>6} ms {name}: {} {message:.400}",
            started.elapsed().as_millis(),
            answer.status
        );
        let is_status = answer.body["kind"] == "Status" && answer.body["code"] == bad.code;
        if answer.status != bad.code || !is_status || !message.contains(&bad.message) {
            wrong.push(format!("{name}: {} {message:.600}", answer.status));
        }
        // An answer is for people, whatever the size of the question.
        if answer.body.to_string().len() > 200_000 {
            wrong.push(format!("{name}: the answer has {} bytes", answer.body.to_string().len()));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} answers are not as they should be:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
