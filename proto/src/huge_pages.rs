//! Huge pages: how pods ask for them (`hugepages-2Mi`) and mount them (`medium: HugePages-2Mi`).

use k8s_openapi::api::core::v1::PodSpec;

use crate::k8s as k8s_openapi;
use crate::quantity::Quantity;

/// The size of a page follows.
const RESOURCE: &str = "hugepages-";
const MEDIUM: &str = "HugePages";

/// Whether the name of a resource is that of huge pages, of whatever size.
pub fn is_resource(name: &str) -> bool {
    name.starts_with(RESOURCE)
}

/// The size in bytes of the pages that a resource's name means; nothing if it means no pages, or none that
/// could be.
pub fn page_size(resource: &str) -> Option<u64> {
    size(resource.strip_prefix(RESOURCE)?)
}

/// The name of the resource that pages of a size are.
pub fn resource(page_size: u64) -> String {
    let size = Quantity::from_bytes(i64::try_from(page_size).unwrap_or(i64::MAX));
    format!("{RESOURCE}{size}")
}

/// Whether an amount is made of whole pages.
pub fn is_whole(resource: &str, amount: Quantity) -> bool {
    let pages = page_size(resource).map(i128::from);
    pages.is_some_and(|size| amount.nano_value() % (size * 1_000_000_000) == 0)
}

/// Of which pages a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Of those that its pod asks for.
    OfPod,
    /// Of this size, in bytes.
    Size(u64),
}

/// What a volume's medium says; nothing if it says nothing of huge pages.
pub fn medium(text: &str) -> Option<Medium> {
    match text.strip_prefix(MEDIUM)? {
        "" => Some(Medium::OfPod),
        rest => size(rest.strip_prefix('-')?).map(Medium::Size),
    }
}

/// The size of the pages of a pod's volume; the error is for people.
pub fn volume_page_size(spec: &PodSpec, medium: Medium) -> Result<u64, String> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let resources = containers.filter_map(|container| container.resources.as_ref());
    let lists = resources.flat_map(|r| r.requests.iter().chain(r.limits.iter()));
    let mut asked: Vec<u64> = lists.flatten().filter_map(|(name, _)| page_size(name)).collect();
    asked.sort_unstable();
    asked.dedup();
    match (medium, asked.as_slice()) {
        (Medium::Size(size), asked) if asked.contains(&size) => Ok(size),
        (Medium::OfPod, [size]) => Ok(*size),
        (Medium::OfPod, [_, _, ..]) => Err(format!(
            "medium: {MEDIUM} can't be used if container requests multiple huge page sizes"
        )),
        _ => Err("hugePages storage requested, but there is no resource request for huge pages"
            .to_owned()),
    }
}

fn size(text: &str) -> Option<u64> {
    let size = Quantity::parse(text).ok().filter(Quantity::is_whole)?;
    u64::try_from(size.value()).ok().filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_tell_the_size_of_a_page() {
        for (name, expected) in [
            ("hugepages-2Mi", Some(2 << 20)),
            ("hugepages-1Gi", Some(1 << 30)),
            ("hugepages-2048Ki", Some(2 << 20)),
            ("hugepages-", None),
            ("hugepages-0", None),
            ("hugepages-500m", None),
            ("hugepages--2Mi", None),
            ("memory", None),
        ] {
            assert_eq!(page_size(name), expected, "{name}");
        }
        assert_eq!(resource(2 << 20), "hugepages-2Mi");
        assert_eq!(resource(1 << 30), "hugepages-1Gi");
        assert!(is_resource("hugepages-x") && !is_resource("memory"));
    }

    #[test]
    fn amounts_are_of_whole_pages() {
        let whole = |name, amount: &str| is_whole(name, Quantity::parse(amount).unwrap());
        assert!(whole("hugepages-2Mi", "4Mi") && whole("hugepages-2Mi", "0"));
        assert!(!whole("hugepages-2Mi", "3Mi") && !whole("hugepages-1Gi", "2Mi"));
        assert!(!whole("hugepages-x", "2Mi"));
    }

    #[test]
    fn a_volume_is_of_pages_that_its_pod_asks_for() {
        assert_eq!(medium("HugePages"), Some(Medium::OfPod));
        assert_eq!(medium("HugePages-1Gi"), Some(Medium::Size(1 << 30)));
        for text in ["", "Memory", "HugePages-", "HugePages2Mi", "HugePages-x", "hugepages"] {
            assert_eq!(medium(text), None, "{text}");
        }
        let of = |main: &[&str], init: &[&str], text: &str| {
            let asked = |sizes: &[&str]| {
                let list = sizes.iter().map(|size| (format!("hugepages-{size}"), json!("1Gi")));
                json!({"limits": list.collect::<serde_json::Map<_, _>>()})
            };
            let spec: PodSpec = serde_json::from_value(json!({
                "containers": [{"name": "a", "resources": asked(main)}],
                "initContainers": [{"name": "b", "resources": asked(init)}],
            }))
            .unwrap();
            volume_page_size(&spec, medium(text).unwrap())
        };
        assert_eq!(of(&["2Mi"], &[], "HugePages"), Ok(2 << 20));
        assert_eq!(of(&[], &["2Mi"], "HugePages"), Ok(2 << 20));
        assert_eq!(of(&["2Mi"], &["1Gi"], "HugePages-1Gi"), Ok(1 << 30));
        assert!(of(&["2Mi"], &["1Gi"], "HugePages").unwrap_err().contains("multiple"));
        for text in ["HugePages", "HugePages-2Mi"] {
            assert!(of(&[], &[], text).unwrap_err().contains("no resource request"));
        }
        assert!(of(&["2Mi"], &[], "HugePages-1Gi").is_err());
    }
}
