use super::claims::{Own, Reference, Refusal, read, sign};
use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NOW: i64 = 1_800_000_000;

fn key() -> SigningKey {
    SigningKey::of(&SigningKey::generate().unwrap()).unwrap()
}

fn reference(name: &str) -> Reference {
    Reference { name: name.to_owned(), uid: format!("uid-{name}") }
}

fn claims() -> Claims {
    Claims {
        aud: vec![ISSUER.to_owned()],
        exp: NOW + 3600,
        iat: NOW,
        iss: ISSUER.to_owned(),
        jti: "7".to_owned(),
        kubernetes: Own {
            namespace: "shop".to_owned(),
            node: Some(reference("n1")),
            pod: Some(reference("web")),
            secret: None,
            service_account: reference("seller"),
        },
        nbf: NOW,
        sub: "system:serviceaccount:shop:seller".to_owned(),
    }
}

#[test]
fn a_token_says_what_kubernetes_tokens_say() {
    use base64::Engine as _;
    let key = key();
    let token = sign(&key, &claims()).unwrap();
    let parts: Vec<Vec<u8>> = token
        .split('.')
        .map(|part| base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).unwrap())
        .collect();
    let json = |part: &[u8]| -> Value { serde_json::from_slice(part).unwrap() };
    assert_eq!(json(&parts[0]), json!({"alg": "ES256", "kid": key.id}));
    assert_eq!(
        json(&parts[1]),
        json!({
            "aud": [ISSUER], "exp": NOW + 3600, "iat": NOW, "nbf": NOW, "iss": ISSUER, "jti": "7",
            "sub": "system:serviceaccount:shop:seller",
            "kubernetes.io": {
                "namespace": "shop",
                "node": {"name": "n1", "uid": "uid-n1"},
                "pod": {"name": "web", "uid": "uid-web"},
                "serviceaccount": {"name": "seller", "uid": "uid-seller"}
            }
        })
    );
    assert_eq!(parts[2].len(), 64);
    assert_eq!(read(&key, &token, ISSUER, NOW), Ok(claims()));
}

#[test]
fn a_token_is_good_for_its_time_only() {
    let key = key();
    let token = sign(&key, &claims()).unwrap();
    for (now, found) in [
        (NOW - 61, Err(Refusal::Early)),
        (NOW - 60, Ok(())),
        (NOW + 3599, Ok(())),
        (NOW + 3600, Err(Refusal::Expired)),
    ] {
        assert_eq!(read(&key, &token, ISSUER, now).map(drop), found, "{now}");
    }
}

#[test]
fn what_was_changed_or_signed_by_others_is_refused() {
    let (key, other) = (key(), key());
    let token = sign(&key, &claims()).unwrap();
    assert_eq!(read(&other, &token, ISSUER, NOW), Err(Refusal::Signature));
    assert_eq!(read(&key, &token, "https://elsewhere", NOW), Err(Refusal::Issuer));
    let (text, signature) = token.rsplit_once('.').unwrap();
    let (head, body) = text.split_once('.').unwrap();
    let encode = |json: &str| {
        use base64::Engine as _;
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(json)
    };
    let none = encode(&format!("{{\"alg\":\"none\",\"kid\":\"{}\"}}", key.id));
    let admin = sign(&other, &Claims { sub: "system:serviceaccount:a:b".to_owned(), ..claims() });
    let (admin, _) =
        admin.unwrap().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for (forged, refusal) in [
        (format!("{none}.{body}."), Refusal::Signature),
        (format!("{none}.{body}.{signature}"), Refusal::Signature),
        (format!("{head}.{}.{signature}", admin.split_once('.').unwrap().1), Refusal::Signature),
        (format!("{head}.{body}.{}", encode("x")), Refusal::Signature),
        (format!("{head}.{body}"), Refusal::Malformed),
        (format!("{head}.{body}.{signature}="), Refusal::Malformed),
        (format!("{body}.{body}.{signature}"), Refusal::Malformed),
        ("x".repeat(1 << 20), Refusal::Malformed),
        (String::new(), Refusal::Malformed),
    ] {
        assert_eq!(read(&key, &forged, ISSUER, NOW), Err(refusal), "{forged:.80}");
    }
    // Signed by us, and yet the user is not the account.
    let user = Claims { sub: "system:serviceaccount:kube-system:boss".to_owned(), ..claims() };
    assert_eq!(read(&key, &sign(&key, &user).unwrap(), ISSUER, NOW), Err(Refusal::Issuer));
}

#[test]
fn the_public_key_is_told_as_a_web_key() {
    let key = key();
    let told = key.public();
    assert_eq!(
        (&told["kty"], &told["crv"], &told["kid"]),
        (&json!("EC"), &json!("P-256"), &json!(key.id))
    );
    assert_eq!(told["x"].as_str().unwrap().len(), 43);
    assert_eq!(told["y"].as_str().unwrap().len(), 43);
}

#[tokio::test]
async fn all_masters_have_one_key() {
    let store = crate::store::EmbeddedStore::in_memory().unwrap();
    let first = SigningKey::open(&store).await.unwrap();
    let second = SigningKey::open(&store).await.unwrap();
    assert_eq!(first.id, second.id);
    assert!(second.has_signed("text", &first.sign("text").unwrap()));
}
