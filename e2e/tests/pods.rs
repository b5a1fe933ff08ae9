//! What a pod says, on one node.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::check::{self, Tool, is_ready, restarts, until};
use e2e::image::{TEST_IMAGE, write_archive};
use e2e::lab::{Lab, StoreKind, run};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::{Api, Client};

const ALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/pods.yaml");

fn kubecfg(lab: &Lab, arguments: &[&str]) -> Result<String> {
    Tool::Kubecfg.run(lab, arguments)
}

/// Applies a pod of one container, which runs the test program with arguments.
fn apply(lab: &Lab, name: &str, args: &str, more: &str) -> Result<()> {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         spec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 5\n{more}\n  containers:\n\
         \x20 - {{name: main, image: \"{TEST_IMAGE}\", args: {args}}}\n"
    );
    Tool::Kubecfg.run_with(lab, &["apply", "-"], &manifest).map(drop)
}

fn state(pod: &Pod) -> Option<&ContainerState> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()
}

fn waiting_for(pod: &Pod) -> Option<&str> {
    state(pod)?.waiting.as_ref()?.reason.as_deref()
}

fn ended(pod: &Pod) -> Option<(&str, i32)> {
    let terminated = state(pod)?.terminated.as_ref()?;
    Some((terminated.reason.as_deref()?, terminated.exit_code))
}

async fn until_ended(client: &Client, name: &str) -> Result<(String, i32)> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let what = format!("{name} has ended");
    let found = until(&pods, &format!("app={name}"), &what, |pods| {
        pods.iter().any(|pod| ended(pod).is_some())
    })
    .await?;
    let (reason, code) = ended(&found[0]).context("it has ended")?;
    Ok((reason.to_owned(), code))
}

#[test]
fn environment_volumes_probes_and_confinement_are_as_the_pod_says() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        Tool::Kubecfg.run(&lab, &Tool::Kubecfg.apply(ALL))?;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        until(&pods, "app=all", "the pod is ready", |pods| pods.iter().any(is_ready)).await?;
        environment(&lab)?;
        names(&lab)?;
        volumes(&lab, &client).await?;
        confinement(&lab)?;
        streams(&lab)?;
        described(&lab)?;

        // An unhealthy container is started again, by its liveness probe.
        let unhealthy = "http://127.0.0.1:8080/unhealthy";
        kubecfg(&lab, &["exec", "all", "-c", "server", "--", "/testserver", "get", unhealthy])?;
        until(&pods, "app=all", "the unhealthy container was started again", |pods| {
            pods.iter().any(|pod| restarts(pod) == 1 && is_ready(pod))
        })
        .await?;
        let before = kubecfg(&lab, &["logs", "all", "-c", "server", "--previous"])?;
        ensure!(before.contains("got SIGTERM, ending"), "it was not asked to end: {before}");

        kubecfg(&lab, &["delete", "pod", "all"])?;
        ensure!(check::pods(&client, "app=all").await?.is_empty(), "the pod is still there");
        ensure!(check::processes(&lab, "node1")?.is_empty(), "its processes are still there");
        Ok(())
    })
}

fn environment(lab: &Lab) -> Result<()> {
    let url = "http://127.0.0.1:8080/env";
    let env = kubecfg(lab, &["exec", "all", "-c", "server", "--", "/testserver", "get", url])?;
    for line in [
        "PLAIN=plain",
        "GREETING=hello",
        "POD_NAME=all",
        "PASSWORD=open sesame",
        "AGAIN=hello all $(PLAIN) $(NOT_THERE)",
        "MEMORY=64",
        "HOSTNAME=all",
        "PATH=/",
    ] {
        ensure!(env.lines().any(|found| found == line), "{line} is not in {env}");
    }
    // What is defined later is not known yet.
    ensure!(env.contains("EXPANDED=$(GREETING), $(POD_NAME)"), "{env}");
    ensure!(env.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "{env}");
    Ok(())
}

/// Services have names, as far as each is known: by the namespace of who asks, and in full.
fn names(lab: &Lab) -> Result<()> {
    let resolve = |name: &str| {
        kubecfg(lab, &["exec", "all", "-c", "server", "--", "/testserver", "resolve", name])
    };
    for name in ["kubernetes", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local."] {
        let found = resolve(name)?;
        ensure!(found.trim() == "10.96.0.1", "{name} is {found}");
    }
    let nobody = resolve("nobody.default.svc.cluster.local.");
    ensure!(nobody.is_err(), "a Service that is not there has an address: {nobody:?}");
    Ok(())
}

async fn volumes(lab: &Lab, client: &Client) -> Result<()> {
    let cat = |container: &str, path: &str| {
        kubecfg(lab, &["exec", "all", "-c", container, "--", "/testserver", "cat", path])
    };
    ensure!(cat("server", "/settings/sub/file.conf")? == "from a config map\n");
    ensure!(cat("server", "/host/GPL-2")?.contains("GENERAL PUBLIC LICENSE"));
    // The secret's files belong to root and are for its group only.
    ensure!(cat("server", "/keys/password").is_err(), "a stranger reads the secret");
    let mounts = cat("second", "/proc/self/mounts")?;
    ensure!(mounts.contains(" /shared "), "{mounts}");
    let mounts = cat("server", "/proc/self/mounts")?;
    let memory = mounts.lines().find(|line| line.contains(" /memory ")).unwrap_or_default();
    ensure!(memory.contains("tmpfs") && memory.contains("size=8192k"), "{memory}");

    // A changed config map reaches the running pod.
    let change = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n\
                  data: {greeting: hello, file.conf: changed}\n";
    Tool::Kubecfg.run_with(lab, &["apply", "-"], change)?;
    let deadline = std::time::Instant::now() + check::DEADLINE;
    while cat("server", "/settings/sub/file.conf")? != "changed" {
        ensure!(std::time::Instant::now() < deadline, "the change does not arrive");
    }
    ensure!(check::pods(client, "app=all").await?.iter().all(|pod| restarts(pod) == 0));
    Ok(())
}

fn confinement(lab: &Lab) -> Result<()> {
    let own = kubecfg(
        lab,
        &[
            "exec",
            "all",
            "-c",
            "server",
            "--",
            "/testserver",
            "get",
            "http://127.0.0.1:8080/status",
        ],
    )?;
    let executed = ["exec", "all", "-c", "server", "--", "/testserver", "cat", "/proc/self/status"];
    let executed = kubecfg(lab, &executed)?;
    for status in [&own, &executed] {
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        ensure!(field("Uid:") == "1234 1234 1234 1234", "{status}");
        ensure!(field("Gid:") == "1235 1235 1235 1235", "{status}");
        ensure!(field("Seccomp:") == "2", "{status}");
        ensure!(field("NoNewPrivs:") == "1", "{status}");
        ensure!(field("CapBnd:") == "0000000000000000", "{status}");
        ensure!(field("CapEff:") == "0000000000000000", "{status}");
    }
    let cat = ["exec", "all", "-c", "second", "--", "/testserver", "cat", "/proc/self/status"];
    let second = kubecfg(lab, &cat)?;
    ensure!(second.contains("CapBnd:\t00000000a80405fb"), "not the customary set: {second}");
    let masked = ["exec", "all", "-c", "second", "--", "/testserver", "cat", "/proc/keys"];
    ensure!(kubecfg(lab, &masked).map_or(true, |text| text.is_empty()), "/proc/keys can be read");
    Ok(())
}

fn streams(lab: &Lab) -> Result<()> {
    let exec = |arguments: &[&str], input: &str| {
        let mut words = vec!["exec", "all", "-c", "second"];
        words.extend(arguments);
        Tool::Kubecfg.run_with(lab, &words, input)
    };
    ensure!(exec(&["--", "/testserver", "terminal"], "")? == "terminal: false\n");
    ensure!(exec(&["-i", "--", "/testserver", "read"], "in\n")? == "in\n");
    let error = exec(&["--", "/testserver", "exit", "3"], "").unwrap_err().to_string();
    ensure!(error.contains("exit status: 3"), "{error}");
    let error = exec(&["--", "/no/such"], "").unwrap_err().to_string();
    ensure!(error.contains("no such file or directory"), "{error}");
    let big = "x".repeat(1 << 20);
    let echoed = exec(&["-i", "--", "/testserver", "read"], &big)?;
    ensure!(echoed == big, "{} bytes of {} came back", echoed.len(), big.len());

    // A terminal takes a terminal at this end: script(1) makes one.
    let command = Tool::Kubecfg.command(lab)?;
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let kubecfg = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let line = format!("{kubecfg} exec -it all -c second -- /testserver terminal");
    let output = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("KUBECONFIG", lab.kubeconfig())
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("terminal: true"), "{text}");
    Ok(())
}

fn described(lab: &Lab) -> Result<()> {
    let text = kubecfg(lab, &["describe", "pod", "all"])?;
    for part in
        ["Seccomp:", "RuntimeDefault", "Capabilities:", "-ALL", "read only", "Scheduled", "Started"]
    {
        ensure!(text.contains(part), "{part} is not in\n{text}");
    }
    Ok(())
}

#[test]
fn ends_are_told_as_they_were() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        apply(&lab, "fine", "[echo, done]", "")?;
        apply(&lab, "failing", "[exit, \"9\"]", "")?;
        ensure!(until_ended(&client, "fine").await? == ("Completed".to_owned(), 0));
        ensure!(until_ended(&client, "failing").await? == ("Error".to_owned(), 9));
        ensure!(kubecfg(&lab, &["logs", "fine"])? == "done\n");

        let hungry = "apiVersion: v1\nkind: Pod\nmetadata: {name: hungry, labels: {app: hungry}}\n\
            spec: {restartPolicy: Never, containers: [{name: main, image: \"kutter.test/testserver:1\", \
            args: [allocate, \"200\"], resources: {limits: {memory: 32Mi}}}]}\n";
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], hungry)?;
        ensure!(until_ended(&client, "hungry").await? == ("OOMKilled".to_owned(), 137));

        apply(&lab, "forking", "[fork, \"5000\"]", "")?;
        until_ended(&client, "forking").await?;
        let got = kubecfg(&lab, &["logs", "forking"])?;
        let count = got.lines().find_map(|line| line.strip_prefix("forked ")?.parse::<u32>().ok());
        ensure!(count.is_some_and(|count| count < 5000), "no bound on processes: {got}");

        apply(&lab, "chatty", "[lines, \"10000\"]", "")?;
        until_ended(&client, "chatty").await?;
        let all = kubecfg(&lab, &["logs", "chatty"])?;
        let expected: String = (1..=10000).map(|line| format!("line {line}\n")).collect();
        ensure!(all == expected, "{} bytes of {}", all.len(), expected.len());
        ensure!(kubecfg(&lab, &["logs", "chatty", "--tail", "2"])? == "line 9999\nline 10000\n");
        ensure!(kubecfg(&lab, &["logs", "-f", "chatty"])? == expected);

        let crashing = "apiVersion: v1\nkind: Pod\nmetadata: {name: crashing, labels: {app: crashing}}\n\
            spec: {containers: [{name: main, image: \"kutter.test/testserver:1\", args: [exit, \"4\"]}]}\n";
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], crashing)?;
        until(&pods, "app=crashing", "it backs off", |pods| {
            pods.iter()
                .any(|pod| waiting_for(pod) == Some("CrashLoopBackOff") && restarts(pod) >= 1)
        })
        .await?;
        let table = kubecfg(&lab, &["get", "pods"])?;
        ensure!(table.contains("CrashLoopBackOff"), "{table}");

        let error = apply(&lab, "refused", "[sleep]", "  runtimeClassName: other").unwrap_err();
        let error = error.to_string();
        ensure!(error.contains("RuntimeClass") && error.contains("not found"), "{error}");
        Ok(())
    })
}

#[test]
fn images_come_from_registries_with_and_without_credentials() -> Result<()> {
    if !check::is_root() {
        return Ok(());
    }
    run(check::lab(1, StoreKind::Embedded), |lab| async move {
        let client = check::client(&lab).await?;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let folder = lab.hub.folder.join("registry");
        std::fs::create_dir_all(&folder)?;
        // The password is "secret", hashed with bcrypt.
        let line = "me:$2b$05$.NJ.MJeJ5UKUdBE5IhZJI.e0oUbvYqWBMIiAbFoZb.qQ3kcyCxxKS\n";
        std::fs::write(folder.join("htpasswd"), line)?;
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: \"10.77.0.1:5000\"}}\n\
             auth: {{htpasswd: {{realm: test, path: {0}/htpasswd}}}}\n",
            folder.display()
        );
        std::fs::write(folder.join("config.yml"), config)?;
        let config = folder.join("config.yml").display().to_string();
        let command = ["docker-registry".to_owned(), "serve".to_owned(), config];
        lab.hub.spawn("docker-registry", &command)?;
        let archive = folder.join("private.tar");
        write_archive(&archive, &["10.77.0.1:5000/private/app:1"])?;
        e2e::registry::push(&archive, "10.77.0.1:5000", "private/app", "1", "me:secret").await?;

        let pod = |name: &str, secrets: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
                 spec: {{imagePullSecrets: [{secrets}], containers: [{{name: main, args: [sleep], \
                 image: \"10.77.0.1:5000/private/app:1\"}}]}}\n"
            )
        };
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], &pod("stranger", ""))?;
        let waits =
            |pod: &Pod| matches!(waiting_for(pod), Some("ErrImagePull" | "ImagePullBackOff"));
        until(&pods, "app=stranger", "the image is refused", |pods| pods.iter().any(waits)).await?;
        let described = kubecfg(&lab, &["describe", "pod", "stranger"])?;
        ensure!(described.contains("refuses access"), "{described}");

        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: pull}\n\
            type: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: \
            '{\"auths\": {\"10.77.0.1:5000\": {\"username\": \"me\", \"password\": \"secret\"}}}'}\n";
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], secret)?;
        Tool::Kubecfg.run_with(&lab, &["apply", "-"], &pod("friend", "{name: pull}"))?;
        until(&pods, "app=friend", "the image was pulled", |pods| pods.iter().any(is_ready))
            .await?;
        Ok(())
    })
}
