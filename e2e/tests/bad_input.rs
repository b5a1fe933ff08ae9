//! A hundred malformed requests, sent as they are: each gets an answer that helps, and the master
//! stays as it was.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use e2e::check;
use e2e::lab::{Lab, StoreKind, run};
use serde::Deserialize;
use serde_json::Value;

const BAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/bad");
/// Bodies have up to 3 MB, and are looked at as text and as values: a few copies of one, at most.
const MOST_KIB: u64 = 256 << 10;

/// An entry of `manifests/bad/requests.yaml`, where the fields are explained.
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

#[test]
fn malformed_requests_get_a_clear_status_and_leave_the_master_as_it_was() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(0, StoreKind::Embedded), |lab| async move {
        let table = std::fs::read_to_string(Path::new(BAD).join("requests.yaml"))?;
        let requests: Vec<BadRequest> = serde_yaml::from_str(&table)?;
        ensure!(requests.len() >= 40, "only {} malformed requests", requests.len());
        let way_in = WayIn::of(&lab)?;
        let before = lab.master.running("master")?.context("the master does not run")?;
        let mut wrong = Vec::new();
        for request in &requests {
            if let Err(error) = way_in.send(&lab, request) {
                wrong.push(format!("{error:#}"));
            }
        }
        ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), requests.len(), wrong.join("\n"));
        ensure!(lab.master.running("master")? == Some(before), "the master was started again");
        let status = lab.master.run(&["cat", &format!("/proc/{before}/status")])?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .context("the kernel does not say how much memory was used")?;
        ensure!(peak < MOST_KIB, "the master used {peak} KiB");
        Ok(())
    })
}

/// The administrator's certificate, as files for curl.
struct WayIn {
    folder: PathBuf,
}

impl WayIn {
    fn of(lab: &Lab) -> Result<Self> {
        let folder = lab.hub.folder.join("way-in");
        std::fs::create_dir_all(&folder)?;
        let text = std::fs::read_to_string(lab.kubeconfig())?;
        let kubeconfig: Value = serde_yaml::from_str(&text)?;
        for (name, pointer) in [
            ("ca", "/clusters/0/cluster/certificate-authority-data"),
            ("cert", "/users/0/user/client-certificate-data"),
            ("key", "/users/0/user/client-key-data"),
        ] {
            let data = kubeconfig.pointer(pointer).and_then(Value::as_str).context(pointer)?;
            std::fs::write(
                folder.join(name),
                base64::engine::general_purpose::STANDARD.decode(data)?,
            )?;
        }
        Ok(Self { folder })
    }

    fn send(&self, lab: &Lab, request: &BadRequest) -> Result<()> {
        let name = request.name.as_deref().or(request.file.as_deref()).unwrap_or("a request");
        let body = match (&request.file, &request.generate) {
            (Some(file), _) => Path::new(BAD).join(file),
            (None, Some(Generated { before, text, times, after })) => {
                let path = self.folder.join("body");
                std::fs::write(&path, format!("{before}{}{after}", text.repeat(*times)))?;
                path
            }
            (None, None) => Path::new("/dev/null").to_owned(),
        };
        let file = |name: &str| self.folder.join(name).display().to_string();
        let url =
            format!("https://{}:6443{}?fieldValidation=Strict", lab.master.address, request.path);
        let content_type = format!(
            "Content-Type: {}",
            request.content_type.as_deref().unwrap_or("application/yaml")
        );
        let answer = lab
            .hub
            .run(&[
                "curl",
                // Over HTTP/2, curl 7 takes the end of a stream whose body was not wanted for an error.
                "--http1.1",
                "-s",
                "-m",
                "30",
                "-X",
                request.method.as_deref().unwrap_or("POST"),
                "--cacert",
                &file("ca"),
                "--cert",
                &file("cert"),
                "--key",
                &file("key"),
                "-H",
                &content_type,
                "--data-binary",
                &format!("@{}", body.display()),
                "-w",
                "\n%{http_code}",
                &url,
            ])
            .with_context(|| name.to_owned())?;
        let (body, code) = answer.rsplit_once('\n').context("no code")?;
        ensure!(code == request.code.to_string(), "{name}: {code} {body}");
        let status: Value =
            serde_json::from_str(body).with_context(|| format!("{name}: {body}"))?;
        ensure!(status["kind"] == "Status" && status["status"] == "Failure", "{name}: {body}");
        ensure!(body.len() < 200_000, "{name}: an answer of {} bytes", body.len());
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains(&request.message),
            "{name}: {:?} is not in {message:?}",
            request.message
        );
        Ok(())
    }
}
