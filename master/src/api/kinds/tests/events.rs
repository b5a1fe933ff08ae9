//! What is wrong with events, in both forms.

use super::*;

#[test]
fn events_keep_to_the_rules() {
    let event = json!({
        "metadata": meta(),
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "fieldPath": "spec.containers{main}"},
        "type": "Warning", "reason": "BackOff", "message": " restarting \n",
        "firstTimestamp": "2026-01-01T11:00:00Z", "lastTimestamp": "2026-01-01T11:58:00Z", "count": 4,
        "source": {"component": "kubelet", "host": "n1"},
    });
    settles::<Events>(&event);
    check::<Events>(
        &event,
        vec![
            (
                "/involvedObject/namespace",
                json!("other"),
                "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
            ),
            ("/involvedObject/namespace", json!(null), ""),
            (
                "/metadata/namespace",
                json!("kube-system"),
                "involvedObject.namespace: Invalid value: \"default\": does not match event.namespace",
            ),
        ],
    );
    let modern = with(&event, "/eventTime", json!("2026-01-01T11:00:00.000000Z"));
    assert_eq!(
        errors::<Events>(&modern),
        [
            "reportingController: Required value",
            "reportingController: Invalid value: \"\": name part must be non-empty",
            "reportingController: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "reportingInstance: Required value",
            "action: Required value"
        ]
    );
    assert_eq!(
        row::<Events>(&event),
        [
            "2m",
            "Warning",
            "BackOff",
            "pod/web",
            "spec.containers{main}",
            "kubelet, n1",
            "restarting",
            "60m",
            "4",
            "web"
        ]
    );
    let fields = selectable_fields::<Events>(&created::<Events>(&event));
    assert_eq!(fields["involvedObject.name"], "web");
    assert_eq!(fields["source"], "kubelet");
}

#[test]
fn events_of_the_newer_form_keep_to_its_rules() {
    let event = json!({
        "metadata": meta(),
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"},
        "eventTime": "2026-01-01T11:00:00.000001Z", "reportingComponent": "a.b/c",
        "reportingInstance": "c-1", "action": "Trying", "reason": "Tried", "type": "Normal",
        "series": {"count": 2, "lastObservedTime": "2026-01-01T11:00:00.000001Z"},
    });
    settles::<EventsView>(&event);
    let wrong = |pointer: &str, value: Value| {
        let object = created::<EventsView>(&with(&event, pointer, value));
        let found = EventsView::validate(&object).into_iter();
        let found = found.chain(EventsView::validate_create(&object));
        found.map(|error| error.to_string()).collect::<Vec<_>>()
    };
    for (pointer, value, expected) in [
        ("/eventTime", json!(null), "eventTime: Required value"),
        ("/type", json!("Odd"), "type: Invalid value: \"\": has invalid value: Odd"),
        ("/count", json!(2), "count: Invalid value: \"\": needs to be unset"),
        ("/source", json!({"host": "a"}), "source: Invalid value: \"\": needs to be unset"),
        ("/series/count", json!(1), "series.count: Invalid value: \"\": should be at least 2"),
        ("/series/lastObservedTime", json!(null), "series.lastObservedTime: Required value"),
        ("/involvedObject", json!({"kind": "Node", "name": "n1"}), ""),
    ] {
        let found = wrong(pointer, value);
        let expected: Vec<&str> = [expected].into_iter().filter(|text| !text.is_empty()).collect();
        assert_eq!(found, expected, "{pointer}");
    }
    let elsewhere = with(&event, "/metadata/namespace", json!("team"));
    let of_node = with(&elsewhere, "/involvedObject", json!({"kind": "Node", "name": "n1"}));
    assert_eq!(
        errors::<EventsView>(&of_node),
        ["involvedObject.namespace: Invalid value: \"\": does not match event.namespace"]
    );
    check_updates::<EventsView>(
        &event,
        vec![
            ("/series/count", json!(7), ""),
            ("/series/count", json!(1), "series.count: Invalid value: \"\": should be at least 2"),
            ("/reason", json!("Other"), "reason: Invalid value: \"Other\": field is immutable"),
            (
                "/reportingInstance",
                json!("c-2"),
                "reportingInstance: Invalid value: \"c-2\": field is immutable",
            ),
        ],
    );
    // One that was made in the older form can be labelled in the newer one.
    let older = json!({
        "metadata": meta(), "involvedObject": {"namespace": "default", "name": "web"},
        "firstTimestamp": "2026-01-01T11:00:00Z", "count": 4, "type": "Normal", "reason": "Tried",
    });
    check_updates::<EventsView>(&older, vec![("/metadata/labels", json!({"a": "b"}), "")]);
}
