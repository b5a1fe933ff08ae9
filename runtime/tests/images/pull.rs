//! Pulling from a real registry.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_client::secrets::RegistryAuth as ClientAuth;
use runtime::image::{
    ImageError, ImageService, ImageStore, ImageStoreConfig, RegistryAuth, RegistryMirror,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::registry::{Registry, digest, gzip, layer, left_out};

#[tokio::test]
async fn pulls_once_for_many_and_finds_it_afterwards() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let layers = [layer("one", b"1"), layer("two", &vec![7; 3_000_000])];
    registry.push("demo/app:1", &layers, &ClientAuth::Anonymous).await;
    let (store, reference) = (registry.store(), registry.reference("demo/app:1"));
    assert_eq!(store.lookup(&reference).await.unwrap(), None);
    let pulls = (0..16).map(|_| store.pull(&reference, &[]));
    let images = futures::future::try_join_all(pulls).await.unwrap();
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    let image = &images[0];
    assert_eq!(image.config.cmd, ["/hello"]);
    assert_eq!(std::fs::read(image.layers[1].join("two")).unwrap().len(), 3_000_000);
    assert!(image.repo_digests[0].starts_with(&format!("{}/demo/app@sha256:", registry.address)));
    assert_eq!(store.lookup(&reference).await.unwrap().as_ref(), Some(image));
    let ingest = registry.folder.join("store/ingest");
    assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
}

#[tokio::test]
async fn an_interrupted_download_is_resumed_and_a_damaged_one_noticed() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let data = noise(2_000_000);
    let content = layer("big", &data);
    registry.push("big:1", std::slice::from_ref(&content), &ClientAuth::Anonymous).await;
    let (store, reference) = (registry.store(), registry.reference("big:1"));
    let packed = gzip(&content);
    let partial = |bytes: &[u8]| {
        let name = format!("blob-{}", digest(&packed).replace(':', "-"));
        std::fs::write(registry.folder.join("store/ingest").join(name), bytes).unwrap();
    };

    let mut damaged = packed[..packed.len() / 2].to_vec();
    damaged[1000] ^= 1;
    partial(&damaged);
    let error = store.pull(&reference, &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::Layer { .. }), "{error}");
    assert_eq!(store.lookup(&reference).await.unwrap(), None);

    partial(&packed[..packed.len() / 2]);
    let image = store.pull(&reference, &[]).await.unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("big")).unwrap(), data);
}

#[tokio::test]
async fn says_what_is_missing_and_who_was_refused() {
    if left_out() {
        return;
    }
    // The password is "secret", hashed with bcrypt.
    let line = "me:$2b$05$.NJ.MJeJ5UKUdBE5IhZJI.e0oUbvYqWBMIiAbFoZb.qQ3kcyCxxKS\n";
    let registry = Registry::start(None).await;
    let store = registry.store();
    let error = store.pull(&registry.reference("no/such:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains("no/such:1") && error.contains("does not have it"), "{error}");

    let refusing = Registry::start(Some(line)).await;
    let store = refusing.store();
    let wrong = RegistryAuth::Basic { username: "me".to_owned(), password: "not this".to_owned() };
    let error = store.pull(&refusing.reference("a:1"), &[wrong]).await.unwrap_err().to_string();
    assert!(error.contains("refuses access"), "{error}");

    // The first credentials that the registry accepts serve.
    let right = RegistryAuth::Basic { username: "me".to_owned(), password: "secret".to_owned() };
    let auth = ClientAuth::Basic("me".to_owned(), "secret".to_owned());
    refusing.push("a:1", &[layer("one", b"1")], &auth).await;
    let wrong = RegistryAuth::Basic { username: "me".to_owned(), password: "old".to_owned() };
    let private = refusing.reference("a:1");
    store.pull(&private, &[wrong.clone(), right.clone()]).await.unwrap();
    // Who does not show them gets it from this machine no more than from the registry.
    let open = async |auth: &[RegistryAuth]| store.is_open_to(&private, auth).await.unwrap();
    let wrong = [wrong];
    assert!(open(&[right]).await && !open(&wrong).await && !open(&[]).await);
    store.pull(&private, &wrong).await.unwrap_err();
    assert!(!open(&wrong).await);
}

#[tokio::test]
async fn what_a_registry_lets_everybody_have_is_for_all() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let store = registry.store();
    registry.push("a:1", &[layer("one", b"1")], &ClientAuth::Anonymous).await;
    let image = registry.reference("a:1");
    assert!(!store.is_open_to(&image, &[]).await.unwrap());
    store.pull(&image, &[]).await.unwrap();
    assert!(store.is_open_to(&image, &[]).await.unwrap());
}

#[tokio::test]
async fn an_unreachable_registry_is_named() {
    if left_out() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("kutter-pull-{}", uuid::Uuid::new_v4()));
    let config = ImageStoreConfig { root: folder.clone(), ..ImageStoreConfig::default() };
    let store = ImageStore::open(config).unwrap();
    // Port 1 on loopback: nobody listens there.
    let error = store.pull("127.0.0.1:1/a/b:1", &[]).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1 cannot be reached"), "{error}");
    assert!(Path::new(&folder).exists());
    std::fs::remove_dir_all(folder).unwrap();
}

/// Stands before a registry and cuts every connection after so many bytes of answers. Tells how
/// many bytes of answers it has let through.
async fn cutting_proxy(registry: &str, cut_after: u64) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (registry, passed) = (registry.to_owned(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&passed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&registry).await.unwrap();
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let requests = tokio::io::copy(&mut from_client, &mut to_server);
                let answers = async {
                    let mut buffer = vec![0; 8192];
                    let mut left = cut_after;
                    while left > 0 {
                        let Ok(read) = from_server.read(&mut buffer).await else { return };
                        let pass = read.min(usize::try_from(left).unwrap());
                        if pass == 0 || to_client.write_all(&buffer[..pass]).await.is_err() {
                            return;
                        }
                        left -= pass as u64;
                        counter.fetch_add(pass as u64, Ordering::Relaxed);
                    }
                };
                tokio::select! {
                    _ = requests => {}
                    () = answers => {}
                }
            });
        }
    });
    (address, passed)
}

/// What no compression makes small.
fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn a_connection_that_breaks_again_and_again_costs_no_byte_twice() {
    if left_out() {
        return;
    }
    let registry = Registry::start(None).await;
    let mut generator = fastrand::Rng::with_seed(7);
    let data: Vec<u8> = std::iter::repeat_with(|| generator.u8(..)).take(2_000_000).collect();
    let content = layer("big", &data);
    registry.push("big:1", std::slice::from_ref(&content), &ClientAuth::Anonymous).await;
    let (address, passed) = cutting_proxy(&registry.address, 300_000).await;
    let image = registry.store().pull(&format!("{address}/big:1"), &[]).await.unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("big")).unwrap(), data);
    let (passed, size) = (passed.load(Ordering::Relaxed), gzip(&content).len() as u64);
    assert!(size > 1_900_000, "{size}");
    // Headers, manifest and configuration, and what was on its way when a connection was cut.
    assert!(passed < size + size / 5, "{passed} of {size}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_its_failures_are_the_next_ones_to_mend() {
    if left_out() {
        return;
    }
    let (origin, mirror) = (Registry::start(None).await, Registry::start(None).await);
    let anonymous = ClientAuth::Anonymous;
    origin.push("app:1", &[layer("from", b"origin")], &anonymous).await;
    mirror.push("app:1", &[layer("from", b"mirror")], &anonymous).await;
    origin.push("only:1", &[layer("from", b"origin")], &anonymous).await;
    let store = |mirrors: &[String]| {
        let mirrors: Vec<RegistryMirror> = mirrors
            .iter()
            .map(|url| format!("{}={url}", origin.address).parse().unwrap())
            .collect();
        let root = origin.folder.join(format!("store-{}", uuid::Uuid::new_v4()));
        ImageStore::open(ImageStoreConfig { root, mirrors, ..ImageStoreConfig::default() }).unwrap()
    };
    let from = |image: &runtime::image::Image| {
        std::fs::read_to_string(image.layers[0].join("from")).unwrap()
    };
    // Nobody listens at port 1.
    let store = store(&["http://127.0.0.1:1".to_owned(), format!("http://{}", mirror.address)]);
    let image = store.pull(&origin.reference("app:1"), &[]).await.unwrap();
    assert_eq!(from(&image), "mirror");
    assert_eq!(image.tags, [origin.reference("app:1")]);
    assert!(image.repo_digests[0].starts_with(&format!("{}/app@", origin.address)));
    let image = store.pull(&origin.reference("only:1"), &[]).await.unwrap();
    assert_eq!(from(&image), "origin");
    let error = store.pull(&origin.reference("none:1"), &[]).await.unwrap_err().to_string();
    assert!(error.contains(&origin.address) && error.contains("does not have it"), "{error}");
    // Others' images are none of its business.
    let image = store.pull(&mirror.reference("app:1"), &[]).await.unwrap();
    assert!(image.tags.contains(&mirror.reference("app:1")));
}
