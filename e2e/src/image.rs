//! The image that tests and the example run: one static program, packed without any other tool.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The program; `build.rs` made it.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/testserver"));

/// The name under which the tests know the image.
pub const TEST_IMAGE: &str = "kutter.test/testserver:1";

/// An image with a shell, of the host's static busybox.
pub const SHELL_IMAGE: &str = "kutter.test/busybox:1";

/// Where Debian's `busybox-static` has its program.
const BUSYBOX: &str = "/bin/busybox";

/// Writes an OCI archive with the image, known as `names`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_archive(path: &Path, names: &[&str]) -> Result<()> {
    let config = json!({
        "Entrypoint": ["/testserver"],
        "Env": ["PATH=/"],
        "ExposedPorts": {"8080/tcp": {}},
        "User": "web",
    });
    write(path, names, &layer()?, &config)
}

/// Writes an OCI archive with the image that has a shell.
///
/// # Errors
/// When busybox is not installed, or the file cannot be written.
pub fn write_shell_archive(path: &Path) -> Result<()> {
    let program = std::fs::read(BUSYBOX).context("busybox-static is not installed")?;
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "bin/busybox", 0o755, &program)?;
    for name in ["sh", "nc", "grep", "echo", "sleep"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Link);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_mtime(0);
        layer.append_link(&mut header, format!("bin/{name}"), "bin/busybox")?;
    }
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    write(path, &[SHELL_IMAGE], &layer.into_inner()?, &config)
}

fn write(path: &Path, names: &[&str], layer: &[u8], config: &Value) -> Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(layer)?;
    let packed = encoder.finish()?;

    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
    }))?;
    let manifests: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            entry
        })
        .collect();
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests}))?;

    let file = std::fs::File::create(path)
        .with_context(|| format!("failed to create {}", path.display()))?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
    add(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut archive, "index.json", 0o644, &index)?;
    for blob in [&packed, &config, &manifest] {
        let name = format!("blobs/{}", digest(blob).replacen(':', "/", 1));
        add(&mut archive, &name, 0o644, blob)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn layer() -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "testserver", 0o755, PROGRAM)?;
    add(&mut layer, "etc/passwd", 0o644, b"root:x:0:0::/:/\nweb:x:1000:1000::/:/\n")?;
    add(&mut layer, "etc/group", 0o644, b"root:x:0:\nweb:x:1000:\n")?;
    Ok(layer.into_inner()?)
}

fn add(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    mode: u32,
    data: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    // Always the same, so that the same program is always the same image.
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    archive.append_data(&mut header, name, data)
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
