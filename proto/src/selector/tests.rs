use super::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn selects(selector: &str, pairs: &[(&str, &str)]) -> bool {
    Selector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}")).matches(&labels(pairs))
}

#[test]
fn every_operator_selects() {
    for (selector, pairs, expected) in [
        ("", &[][..], true),
        ("  ", &[("a", "b")], true),
        ("a=b", &[("a", "b")], true),
        ("a==b", &[("a", "b")], true),
        ("a = b", &[("a", "c")], false),
        ("a=b", &[], false),
        ("a=", &[("a", "")], true),
        ("a!=b", &[("a", "c")], true),
        ("a!=b", &[], true),
        ("a!=b", &[("a", "b")], false),
        ("a in (b,c)", &[("a", "c")], true),
        ("a in (b, c )", &[("a", "d")], false),
        ("a in (b,c)", &[], false),
        ("a in (,c)", &[("a", "")], true),
        ("a in ()", &[("a", "")], true),
        ("a notin (b,c)", &[("a", "d")], true),
        ("a notin (b,c)", &[], true),
        ("a notin (b,c)", &[("a", "b")], false),
        ("a", &[("a", "")], true),
        ("a", &[], false),
        ("!a", &[], true),
        ("! a", &[("a", "x")], false),
        ("a>1", &[("a", "2")], true),
        ("a>1", &[("a", "1")], false),
        ("a<1", &[("a", "0")], true),
        ("a<1", &[("a", "x")], false),
        ("a<1", &[], false),
        ("a=b,c!=d,e in (x,y),!f,g>1", &[("a", "b"), ("e", "y"), ("g", "2")], true),
        ("a=b,c!=d,e in (x,y),!f,g>1", &[("a", "b"), ("e", "y"), ("g", "2"), ("f", "")], false),
        ("example.com/a=b", &[("example.com/a", "b")], true),
        ("in in (in,notin)", &[("in", "notin")], true),
    ] {
        assert_eq!(selects(selector, pairs), expected, "{selector:?} on {pairs:?}");
    }
}

#[test]
fn what_is_no_selector_is_refused_with_what_was_expected() {
    for (selector, fragment) in [
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a,,b", "found ',', expected: identifier after ','"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a=(", "expected: identifier"),
        ("a in b", "expected: '('"),
        ("a in (b", "expected: ',' or ')'"),
        ("a in (", "expected: ',', or identifier"),
        ("a like b", "found 'like', expected: in, notin, =, ==, !=, gt, lt"),
        ("!", "expected: identifier"),
        ("a>b", "must be an integer"),
        ("a$=b", "key: Invalid value: \"a$\": name part must consist"),
        ("a=b$", "values[0][a]: Invalid value: \"b$\": a valid label must be"),
        ("x/y/z", "key: Invalid value"),
    ] {
        let error = Selector::parse(selector).expect_err(selector).to_string();
        assert!(error.contains(fragment), "{selector:?}: {error}");
    }
}

#[test]
fn prints_what_it_reads() {
    for text in ["", "a=b", "a!=b,c", "a in (b,c),!d,e>1,f<2", "a notin (b,c)", "a="] {
        let selector = Selector::parse(text).unwrap();
        assert_eq!(selector.to_string(), text);
        assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
    }
}

fn expression(operator: &str, values: &[&str]) -> LabelSelector {
    LabelSelector {
        match_labels: None,
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "a".to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        }]),
    }
}

#[test]
fn label_selector_objects_mean_the_same() {
    for (operator, values, text) in [
        ("In", &["b", "c"][..], "a in (b,c)"),
        ("NotIn", &["b"], "a!=b"),
        ("Exists", &[], "a"),
        ("DoesNotExist", &[], "!a"),
    ] {
        let selector = Selector::from_label_selector(&expression(operator, values)).unwrap();
        assert_eq!(selector, Selector::parse(text).unwrap());
    }
    for (operator, values, fragment) in [
        ("In", &[][..], "values set can't be empty"),
        ("Exists", &["b"], "must be empty for exists"),
        ("Near", &["b"], "\"Near\" is not a valid label selector operator"),
    ] {
        let error = Selector::from_label_selector(&expression(operator, values)).unwrap_err();
        assert!(error.to_string().contains(fragment), "{error}");
    }
    assert!(Selector::from_label_selector(&LabelSelector::default()).unwrap().is_everything());
    assert!(Selector::from_map(&labels(&[("a", "b")])).matches(&labels(&[("a", "b"), ("c", "d")])));
}

#[test]
fn field_selectors_compare_and_escape() {
    let object = labels(&[("spec.nodeName", "n1"), ("metadata.name", "a,b=c\\")]);
    for (selector, expected) in [
        ("", true),
        ("spec.nodeName=n1", true),
        ("spec.nodeName==n1", true),
        ("spec.nodeName!=n1", false),
        ("spec.nodeName=", false),
        ("status.phase=", true),
        ("status.phase!=Running,spec.nodeName=n1", true),
        (r"metadata.name=a\,b\=c\\", true),
    ] {
        let parsed = FieldSelector::parse(selector).unwrap();
        let found = parsed.matches(|field| object.get(field).map(String::as_str));
        assert_eq!(found, expected, "{selector}");
        assert_eq!(FieldSelector::parse(&parsed.to_string()).unwrap(), parsed);
    }
    for selector in ["a", "a=b=c", r"a=\x", r"a=b\", "!"] {
        let error = FieldSelector::parse(selector).expect_err(selector).to_string();
        assert!(error.starts_with("invalid selector: '"), "{error}");
    }
    assert_eq!(FieldSelector::parse("a!=b,c=d").unwrap().exact("c"), Some("d"));
    assert_eq!(FieldSelector::parse("a!=b,c=d").unwrap().exact("a"), None);
}
