//! How long the pull of an image of eight layers takes from a registry on this machine, to files that a container can
//! have, beside `skopeo copy` and `umoci unpack` of the same image, in turns. A report, not a test:
//! `cargo bench -p runtime --bench pulls`, as root, on a machine that has nothing else to do. A number after `--` is
//! how many megabytes the image has unpacked; 200 if there is none.

#[path = "../tests/images/registry.rs"]
#[allow(dead_code, unreachable_pub)]
mod registry;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use oci_client::secrets::RegistryAuth;
use registry::{Registry, left_out};
use runtime::image::{ImageService, ImageStore, ImageStoreConfig};

const LAYERS: usize = 8;
const ROUNDS: usize = 5;

/// As large as many a file of a program or a library.
const FILE_BYTES: usize = 64 << 10;

fn main() {
    if left_out() {
        return;
    }
    let megabytes = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let executor = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    executor.expect("an async runtime").block_on(report(megabytes.unwrap_or(200)));
}

async fn report(megabytes: usize) {
    let registry = Registry::start(None).await;
    let layers: Vec<Vec<u8>> =
        (0..LAYERS).map(|number| layer(number, megabytes * (1 << 20) / LAYERS)).collect();
    registry.push("bench:1", &layers, &RegistryAuth::Anonymous).await;
    drop(layers);
    let reference = registry.reference("bench:1");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let folder = registry.folder.join(format!("round{round}"));
        fs::create_dir(&folder).expect("a folder");
        ours.push(pull(&reference, &folder).await);
        theirs.push(copy_and_unpack(&reference, &folder));
        fs::remove_dir_all(&folder).expect("it goes");
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("an image of {megabytes} MB in {LAYERS} layers, medians of {ROUNDS} turns:");
    println!("  pull                       {ours:>9.3?}");
    println!("  skopeo copy, umoci unpack  {theirs:>9.3?}");
    println!("  ratio                      {:>9.2}", ours.as_secs_f64() / theirs.as_secs_f64());
}

/// Files of which a half can be compressed, as of programs.
fn layer(number: usize, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut builder = tar::Builder::new(Vec::new());
    for file in 0..bytes.div_ceil(FILE_BYTES) {
        let mut content = vec![b'x'; FILE_BYTES];
        random.fill(&mut content[..FILE_BYTES / 2]);
        let mut header = tar::Header::new_gnu();
        header.set_size(FILE_BYTES as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let path = format!("layer{number}/{}/{file}", file % 50);
        builder.append_data(&mut header, path, &content[..]).expect("it is appended");
    }
    builder.into_inner().expect("an archive")
}

async fn pull(reference: &str, folder: &Path) -> Duration {
    let root = folder.join("store");
    let store = ImageStore::open(ImageStoreConfig { root, ..ImageStoreConfig::default() });
    let store = store.expect("a store");
    let began = Instant::now();
    let image = store.pull(reference, &[]).await.expect("it is pulled");
    let took = began.elapsed();
    assert_eq!(image.layers.len(), LAYERS);
    assert!(image.layers[LAYERS - 1].join(format!("layer{}/0/0", LAYERS - 1)).exists());
    took
}

fn copy_and_unpack(reference: &str, folder: &Path) -> Duration {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{program} has to be installed: {e}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    };
    let layout = folder.join("layout");
    let layout = format!("{}:v1", layout.display());
    let bundle = folder.join("bundle");
    let began = Instant::now();
    let (from, to) = (format!("docker://{reference}"), format!("oci:{layout}"));
    let policy = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"];
    run("skopeo", &[&policy[..], &[&*from, &*to]].concat());
    run("umoci", &["unpack", "--image", &layout, &bundle.display().to_string()]);
    let took = began.elapsed();
    assert!(bundle.join("rootfs/layer0/0/0").exists());
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
