use super::*;

/// As distributions have it.
const CONTEXTS: &str = "# comment\nprocess = \"system_u:system_r:container_t:s0\"\n\
    content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
    file = \"system_u:object_r:container_file_t:s0\"\n";

fn policy() -> Policy {
    Policy::new(CONTEXTS, |_| true).unwrap()
}

fn made(options: &SelinuxOptions, is_free: bool) -> [Option<String>; 2] {
    let labels = policy().labels_with(options, Some(Level::number(2)), is_free, |_| true).unwrap();
    [labels.process, labels.file]
}

#[test]
fn who_says_nothing_has_the_policys_labels_with_a_level_of_its_own() {
    assert_eq!(
        made(&SelinuxOptions::default(), false),
        [
            Some("system_u:system_r:container_t:s0:c0,c3".to_owned()),
            Some("system_u:object_r:container_file_t:s0:c0,c3".to_owned())
        ]
    );
}

#[test]
fn what_a_pod_says_takes_the_place_of_what_the_policy_says() {
    let text = |text: &str| Some(text.to_owned());
    let cases = [
        ("level", ["system_u:system_r:container_t:x", "system_u:object_r:container_file_t:x"]),
        ("user", ["x:system_r:container_t:s0:c0,c3", "x:object_r:container_file_t:s0:c0,c3"]),
        (
            "role",
            ["system_u:x:container_t:s0:c0,c3", "system_u:object_r:container_file_t:s0:c0,c3"],
        ),
        ("type", ["system_u:system_r:x:s0:c0,c3", "system_u:object_r:container_file_t:s0:c0,c3"]),
    ];
    for (field, [process, file]) in cases {
        let mut options = SelinuxOptions::default();
        match field {
            "level" => options.level = text("x"),
            "user" => options.user = text("x"),
            "role" => options.role = text("x"),
            _ => options.kind = text("x"),
        }
        assert_eq!(made(&options, false), [text(process), text(file)], "{field}");
    }
}

#[test]
fn who_is_free_has_a_process_label_only_by_naming_its_type() {
    let file = Some("system_u:object_r:container_file_t:s0:c0,c3".to_owned());
    assert_eq!(made(&SelinuxOptions::default(), true), [None, file.clone()]);
    let kind = Some("spc_t".to_owned());
    let options = SelinuxOptions { kind, ..SelinuxOptions::default() };
    let process = Some("system_u:system_r:spc_t:s0:c0,c3".to_owned());
    assert_eq!(made(&options, true), [process, file]);
}

#[test]
fn a_label_that_the_policy_does_not_know_is_refused() {
    let kind = Some("nothing_t".to_owned());
    let options = SelinuxOptions { kind, ..SelinuxOptions::default() };
    let known = |label: &Label| label.kind != "nothing_t";
    let error = policy().labels_with(&options, None, false, known).unwrap_err();
    assert_eq!(
        error,
        "the policy of the node does not know the SELinux label \
         system_u:system_r:nothing_t:s0; correct seLinuxOptions"
    );
}

#[test]
fn a_policy_that_lacks_its_own_types_labels_those_who_say_others() {
    let known = |label: &Label| !label.kind.starts_with("container");
    let policy = Policy::new(CONTEXTS, known).unwrap();
    let nothing = policy.labels_with(&SelinuxOptions::default(), None, false, known);
    assert_eq!(nothing, Ok(Labels::default()));
    // Its files would still have the type that is not there.
    let kind = Some("other_t".to_owned());
    let options = SelinuxOptions { kind, ..SelinuxOptions::default() };
    let error = policy.labels_with(&options, None, false, known).unwrap_err();
    assert!(error.contains("system_u:object_r:container_file_t:s0"), "{error}");
}

#[test]
fn a_policy_without_levels_has_none_added() {
    let contexts = CONTEXTS.replace(":s0", "");
    let policy = Policy::new(&contexts, |_| true).unwrap();
    assert!(!policy.has_levels());
    let level = Some(Level::number(2));
    let labels = policy.labels_with(&SelinuxOptions::default(), level, false, |_| true).unwrap();
    assert_eq!(labels.process.as_deref(), Some("system_u:system_r:container_t"));
}

#[test]
fn a_policy_has_to_name_both_labels() {
    let error = Policy::new("process = u:r:t\n", |_| true).unwrap_err();
    assert_eq!(error, "there is no file");
    let error = Policy::new("process = u\nfile = u:r:t\n", |_| true).unwrap_err();
    assert_eq!(error, "process: \"u\" is no SELinux label");
}

#[test]
fn categories_do_not_end_a_mounts_option() {
    assert_eq!(mount_option("u:r:t:s0:c1,c2"), "context=\"u:r:t:s0:c1,c2\"");
}
