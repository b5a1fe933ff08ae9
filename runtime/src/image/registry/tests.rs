use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::image::reference::parse_reference;

/// What a pretend registry answers.
enum Answer {
    /// A status with its headers, and a body.
    Whole(&'static str, String),
    /// More and more.
    Endless,
}

/// Answers each request by its first line and its proof; returns its address and what was asked.
async fn pretend(
    answer: impl Fn(&str, Option<&str>) -> Answer + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (answer, heard) = (Arc::new(answer), Arc::clone(&asked));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, heard) = (Arc::clone(&answer), Arc::clone(&heard));
            tokio::spawn(async move {
                // Who is asked hangs up when it has had enough.
                let _ = serve(stream, &*answer, &heard).await;
            });
        }
    });
    (address, asked)
}

async fn serve(
    stream: TcpStream,
    answer: &(impl Fn(&str, Option<&str>) -> Answer + Sync),
    heard: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut proof) = (String::new(), None);
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                proof = Some(value.to_owned());
            }
            Some(_) => {}
            None => break,
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    heard.lock().unwrap().push(path.clone());
    match answer(&path, proof.as_deref()) {
        Answer::Whole(head, body) => {
            let length = body.len();
            let text = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(text.as_bytes()).await
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
            let block = [b' '; 65_536];
            loop {
                stream.write_all(&block).await?;
            }
        }
    }
}

fn registry(address: &str, auth: RegistryAuth) -> Registry {
    let reference = parse_reference(&format!("{address}/team/web:1")).unwrap();
    Registry::of(&reference, true, &auth).unwrap()
}

fn me() -> RegistryAuth {
    RegistryAuth::Basic { username: "me".to_owned(), password: "secret".to_owned() }
}

fn reason(failure: Failure) -> String {
    match failure {
        Failure::Refused(reason) | Failure::Other(reason) => reason,
    }
}

#[tokio::test]
async fn answers_without_end_do_not_fill_the_memory() {
    let (address, _) = pretend(|path, _| match path {
        "/v2/team/web/manifests/3" => Answer::Whole("500 Oh", "x".repeat(1 << 20)),
        _ => Answer::Endless,
    })
    .await;
    let asked = registry(&address, RegistryAuth::Anonymous);
    let error = reason(asked.manifest("1").await.unwrap_err());
    assert_eq!(error, format!("{address} gave a manifest of more than 4194304 bytes"));
    let digest = format!("sha256:{}", "0".repeat(64));
    let error = reason(asked.document(&digest).await.unwrap_err());
    assert_eq!(error, format!("{address} gave a configuration of more than 4194304 bytes"));
    let token = asked.token(&format!("http://{address}/token"), None, None).await;
    let error = reason(token.unwrap_err());
    assert_eq!(error, format!("{address} gave a token of more than 262144 bytes"));
    let error = reason(asked.manifest("3").await.unwrap_err());
    assert_eq!(error, format!("{address} answers 500 Internal Server Error"));
}

/// Some say to everybody that they are registries, and ask only for whom an image is.
#[tokio::test]
async fn who_one_is_is_shown_where_it_is_asked_for() {
    let body = r#"{"schemaVersion": 2}"#;
    let challenge = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"";
    let (address, asked) = pretend(move |path, proof| match (path, proof) {
        ("/v2/team/web/manifests/1", Some("Basic bWU6c2VjcmV0")) => {
            Answer::Whole("200 OK", body.to_owned())
        }
        _ => Answer::Whole(challenge, String::new()),
    })
    .await;
    let (found, digest) = registry(&address, me()).manifest("1").await.unwrap();
    assert_eq!((found.as_slice(), digest), (body.as_bytes(), digest_of(body.as_bytes())));
    assert_eq!(asked.lock().unwrap().len(), 2);
    let stranger = registry(&address, RegistryAuth::Anonymous);
    let error = stranger.manifest("1").await.unwrap_err();
    assert!(
        matches!(&error, Failure::Refused(reason) if reason.contains("refuses access")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_token_is_asked_for_once() {
    let (address, asked) = pretend(|path, proof| match (path, proof) {
        (path, Some("Basic bWU6c2VjcmV0")) if path.starts_with("/token?service=a+b&scope=") => {
            Answer::Whole("200 OK", r#"{"access_token": "t1"}"#.to_owned())
        }
        (_, Some("Bearer t1")) => Answer::Whole("200 OK", "{}".to_owned()),
        _ => Answer::Whole("418 No", String::new()),
    })
    .await;
    let known = registry(&address, me());
    let realm = format!("http://{address}/token");
    let proof = known.token(&realm, Some("a b"), None).await.unwrap();
    *known.proof.write().await = Some(proof);
    known.manifest("1").await.unwrap();
    known.manifest("2").await.unwrap();
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked[0], "/token?service=a+b&scope=repository%3Ateam%2Fweb%3Apull");
    assert_eq!(asked.len(), 3);
    // Nobody on the way is to read the password.
    let reference = parse_reference("registry.example/team/web:1").unwrap();
    let careful = Registry::of(&reference, false, &me()).unwrap();
    let error = reason(careful.token(&realm, None, None).await.unwrap_err());
    assert!(error.contains("where everybody could read it"), "{error}");
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_taken() {
    let (address, _) = pretend(|path, _| match path {
        "/v2/team/web/manifests/none" => Answer::Whole("404 No", String::new()),
        "/v2/team/web/manifests/denied" => {
            Answer::Whole("400 No", r#"{"errors": [{"code": "DENIED"}]}"#.to_owned())
        }
        "/v2/team/web/manifests/long" => {
            let message = "x".repeat(5000);
            Answer::Whole(
                "400 No",
                format!(r#"{{"errors": [{{"code": "A", "message": "{message}"}}]}}"#),
            )
        }
        _ => Answer::Whole("200 OK", "{}".to_owned()),
    })
    .await;
    let asked = registry(&address, RegistryAuth::Anonymous);
    let other = format!("sha256:{}", "0".repeat(64));
    for wrong in
        [asked.manifest(&other).await.map(|_| ()), asked.document(&other).await.map(|_| ())]
    {
        let error = reason(wrong.unwrap_err());
        assert!(error.ends_with(&format!("in the place of {other}")), "{error}");
    }
    assert_eq!(asked.document(&digest_of(b"{}")).await.unwrap(), b"{}");
    let error = asked.manifest("none").await.unwrap_err();
    assert_eq!(error, Failure::Refused(format!("{address} does not have it")));
    assert!(matches!(asked.manifest("denied").await.unwrap_err(), Failure::Refused(_)));
    let error = reason(asked.manifest("long").await.unwrap_err());
    assert!(error.starts_with(&format!("{address} answers 400 Bad Request: xxx")), "{error}");
    assert!(error.len() < 400, "{}", error.len());
}

#[test]
fn challenges_are_read_as_registries_write_them() {
    let hub = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull""#;
    let bearer = Challenge::Bearer {
        realm: "https://auth.example/token".to_owned(),
        service: Some("registry.example".to_owned()),
        scope: Some("repository:a/b:pull".to_owned()),
    };
    assert_eq!(challenges(hub), [bearer]);
    assert_eq!(challenges("basic realm=\"x\""), [Challenge::Basic]);
    assert_eq!(challenges("Digest realm=\"x\", Basic realm=\"y\""), [Challenge::Basic]);
    assert_eq!(challenges("Bearer service=x"), []);
    assert_eq!(challenges("\u{1}"), []);
}
