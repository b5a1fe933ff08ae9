//! Whether this master works, for probes and people: `/healthz`, `/livez`, `/readyz`, their single
//! checks, `?verbose` and `?exclude=`, in Kubernetes' words.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, StatusCode, Uri, header};

use crate::api::error::ApiError;
use crate::api::rest::Api;
use crate::api::rest::query::Options;

/// A store that has not answered by then does not work.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The process answers.
    Ping,
    /// The store answers.
    Store,
    /// The caches follow the store.
    Caches,
    /// Nobody has asked it to stop.
    Shutdown,
}

impl Check {
    /// As in Kubernetes.
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Store => "etcd",
            Self::Caches => "informer-sync",
            Self::Shutdown => "shutdown",
        }
    }

    async fn holds(self, api: &Api) -> bool {
        match self {
            Self::Ping => true,
            Self::Store => {
                let asked = api.objects.writer().store.current_revision();
                matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Ok(_)))
            }
            Self::Caches => {
                let fresh = api.objects.caches().fresh();
                matches!(tokio::time::timeout(PATIENCE, fresh).await, Ok(Ok(_)))
            }
            Self::Shutdown => !api.shutdown.is_cancelled(),
        }
    }
}

const HEALTHZ: &[Check] = &[Check::Ping, Check::Store];
/// Whoever restarts a process that does not live cannot mend its store by that.
const LIVEZ: &[Check] = &[Check::Ping];
const READYZ: &[Check] = &[Check::Ping, Check::Store, Check::Caches, Check::Shutdown];

pub(super) async fn healthz(State(api): State<Arc<Api>>, uri: Uri) -> Response {
    all(&api, "healthz", HEALTHZ, &uri).await
}

pub(super) async fn livez(State(api): State<Arc<Api>>, uri: Uri) -> Response {
    all(&api, "livez", LIVEZ, &uri).await
}

pub(super) async fn readyz(State(api): State<Arc<Api>>, uri: Uri) -> Response {
    all(&api, "readyz", READYZ, &uri).await
}

pub(super) async fn one_of_healthz(api: State<Arc<Api>>, name: Path<String>) -> Response {
    one(api, HEALTHZ, name).await
}

pub(super) async fn one_of_livez(api: State<Arc<Api>>, name: Path<String>) -> Response {
    one(api, LIVEZ, name).await
}

pub(super) async fn one_of_readyz(api: State<Arc<Api>>, name: Path<String>) -> Response {
    one(api, READYZ, name).await
}

async fn one(State(api): State<Arc<Api>>, checks: &[Check], Path(name): Path<String>) -> Response {
    match checks.iter().find(|check| check.name() == name) {
        None => ApiError::no_such_path().into_response(),
        Some(check) if check.holds(&api).await => plain(StatusCode::OK, "ok".to_owned()),
        Some(_) => {
            let text = format!("internal server error: {name} failed: reason withheld\n");
            plain(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

/// All checks of a path; told one by one when one fails, or when that is asked for.
async fn all(api: &Api, path: &str, checks: &[Check], uri: &Uri) -> Response {
    let options = match Options::parse(uri) {
        Ok(options) => options,
        Err(error) => return error.into_response(),
    };
    let mut excluded: Vec<&str> = options.all("exclude").filter(|name| !name.is_empty()).collect();
    let mut results = Vec::new();
    for check in checks {
        let name = check.name();
        let before = excluded.len();
        excluded.retain(|other| *other != name);
        let result = if excluded.len() < before { None } else { Some(check.holds(api).await) };
        results.push((name, result));
    }
    let (good, report) = report(path, &results, &excluded);
    match (good, options.all("verbose").next().is_some()) {
        (true, false) => plain(StatusCode::OK, "ok".to_owned()),
        (true, true) => plain(StatusCode::OK, report),
        (false, _) => {
            tracing::warn!(path, ?results, "a health check failed");
            plain(StatusCode::INTERNAL_SERVER_ERROR, report)
        }
    }
}

/// What came of the checks (nothing: left out), and of the exclusions that fit none.
fn report(path: &str, results: &[(&str, Option<bool>)], unknown: &[&str]) -> (bool, String) {
    let mut text = String::new();
    for (name, result) in results {
        let line = match result {
            None => writeln!(text, "[+]{name} excluded: ok"),
            Some(true) => writeln!(text, "[+]{name} ok"),
            // Anybody may ask; the log says why.
            Some(false) => writeln!(text, "[-]{name} failed: reason withheld"),
        };
        // Writing to a string cannot fail.
        let _ = line;
    }
    if !unknown.is_empty() {
        let quoted: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let names = quoted.join(",");
        let _ =
            writeln!(text, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    let good = results.iter().all(|(_, result)| *result != Some(false));
    let _ = writeln!(text, "{path} check {}", if good { "passed" } else { "failed" });
    (good, text)
}

fn plain(status: StatusCode, text: String) -> Response {
    const NOSNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (NOSNIFF, "nosniff"),
        (header::CACHE_CONTROL, "no-cache, private"),
    ];
    (status, headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_told_as_in_kubernetes() {
        let results = [("ping", Some(true)), ("etcd", Some(false)), ("shutdown", None)];
        assert_eq!(
            report("readyz", &results, &["typo", "x"]),
            (
                false,
                "[+]ping ok\n[-]etcd failed: reason withheld\n[+]shutdown excluded: ok\n\
                 warn: some health checks cannot be excluded: no matches for \"typo\",\"x\"\n\
                 readyz check failed\n"
                    .to_owned()
            )
        );
        let (good, text) = report("livez", &results[..1], &[]);
        assert!(good && text == "[+]ping ok\nlivez check passed\n");
    }
}
