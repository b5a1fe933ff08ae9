//! What stands in a request's line: paths, queries, selectors; and quantities.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::{Request, Uri};
use proto::quantity::{Format, Quantity};
use proto::selector::{FieldSelector, Selector};

use crate::api::kinds;
use crate::api::limits::Class;
use crate::api::registry::Registry;
use crate::api::rest::list_options::ListOptions;
use crate::api::rest::proxy::ProxyPath;
use crate::api::rest::query::{Options, Write};
use crate::api::rest::target::Target;

static REGISTRY: LazyLock<Registry> = LazyLock::new(kinds::registry);

/// A selector, of labels and of fields: printed and read again it selects the same.
pub fn selector(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Ok(selector) = Selector::parse(text) {
        let printed = selector.to_string();
        let again = Selector::parse(&printed).expect("what was printed is a selector");
        assert_eq!(again.to_string(), printed);
        // With each label that it names, with another value, and without.
        let mut labels = BTreeMap::new();
        assert_eq!(selector.matches(&labels), again.matches(&labels), "{printed}");
        for requirement in selector.requirements() {
            for value in ["", "a", "1"] {
                labels.insert(requirement.key().to_owned(), value.to_owned());
                assert_eq!(selector.matches(&labels), again.matches(&labels), "{printed}");
            }
        }
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let printed = selector.to_string();
        let again = FieldSelector::parse(&printed).expect("what was printed is a selector");
        assert_eq!(again, selector, "{printed}");
        for requirement in selector.requirements() {
            let told = |field: &str| (field == requirement.field).then_some("a");
            assert_eq!(selector.matches(told), again.matches(told), "{printed}");
        }
    }
}

/// A quantity: printed and read again it is the same amount, printed the same.
pub fn quantity(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(quantity) = Quantity::parse(text) else { return };
    let printed = quantity.to_string();
    let again = Quantity::parse(&printed).expect("what was printed is a quantity");
    // As in Kubernetes, what is written in 1024s is printed in whole units.
    let rounded = quantity.format() == Format::Binary && again.value() == quantity.value();
    let exact = again.nano_value() == quantity.nano_value();
    assert!(exact || rounded && !quantity.is_whole(), "{text} is printed as {printed}");
    // An odd number of bytes is printed without a suffix, and so becomes a decimal one.
    let second = again.to_string();
    let third = Quantity::parse(&second).expect("what was printed is a quantity");
    assert_eq!(third.to_string(), second, "{text}");
    assert_eq!(third.nano_value(), again.nano_value(), "{text}");
    assert!(printed.len() <= 32, "{printed}");
    let least = i128::from(quantity.value()) * 1_000_000_000;
    assert!(least.abs() >= quantity.nano_value().abs(), "{text} is less than {least}");
    assert_eq!(quantity.is_negative(), quantity < Quantity::ZERO);
}

/// A path with a query: what is asked for is understood or refused.
pub fn url(text: &[u8]) {
    let Ok(uri) = Uri::try_from(text) else { return };
    let Ok(request) = Request::get(uri.clone()).body(()) else { return };
    let (parts, ()) = request.into_parts();
    let class = Class::of(&parts);
    assert!(uri.path().contains(class.plural) && uri.path().contains(class.subresource));
    if let Some(path) = ProxyPath::parse(&uri) {
        let whole = uri.path_and_query().map_or("", |path| path.as_str());
        assert!(whole.starts_with(&path.prefix()), "{whole}: {path:?}");
    }
    let target = Target::parse(uri.path());
    let Ok(options) = Options::parse(&uri) else { return };
    for write in [Write::Create, Write::Update, Write::Patch, Write::Apply] {
        let _ = options.writing(write);
    }
    let kind = match &target {
        Some(Target::Resource(target)) => {
            REGISTRY.find(&target.group, &target.version, &target.plural)
        }
        _ => None,
    };
    let kinds = REGISTRY.kinds();
    let kind = kind.unwrap_or(kinds[text.len() % kinds.len()]);
    if let Ok(options) = ListOptions::parse(&options, kind) {
        for requirement in options.fields.requirements() {
            let field = requirement.field.as_str();
            let known = field.starts_with("metadata.") || kind.selectable().contains(&field);
            assert!(known || kind.view().is_some(), "{field} is no field to select by");
        }
    }
}
