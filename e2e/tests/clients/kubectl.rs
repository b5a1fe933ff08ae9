//! kubectl: what people type, over all kinds at once where kubectl can do that.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::check::{Tool, get};
use e2e::image::TEST_IMAGE;
use kube::ResourceExt;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::{POD, Suite};

pub(crate) fn suite(suite: &Suite, tool: Tool) -> Result<()> {
    let kubectl = Kubectl { suite, tool };
    kubectl.documents()?;
    kubectl.objects()?;
    kubectl.commands()?;
    kubectl.validation()?;
    kubectl.scaling()?;
    kubectl.streams()
}

struct Kubectl<'a> {
    suite: &'a Suite,
    tool: Tool,
}

impl Kubectl<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut words = vec!["--namespace", self.suite.namespace.as_str()];
        words.extend(arguments);
        self.tool.run_with(&self.suite.lab, &words, input)
    }

    fn documents(&self) -> Result<()> {
        let versions = self.run(&["api-versions"])?;
        ensure!(versions.lines().any(|line| line == "v1"), "{versions}");
        let resources = self.run(&["api-resources"])?;
        ensure!(resources.contains("replicationcontrollers   rc "), "{resources}");
        let text = self.run(&["explain", "pod.spec.containers", "--recursive"])?;
        for words in ["A single application container", "terminationMessagePolicy"] {
            ensure!(text.contains(words), "{words} is not explained in {text}");
        }
        if self.tool != Tool::OldKubectl {
            // It reads the document that tells the values.
            let text = self.run(&["explain", "pod.spec.restartPolicy"])?;
            ensure!(text.contains("ENUM:") && text.contains("OnFailure"), "{text}");
        }
        ensure!(self.run(&["version"])?.contains("kutter"), "it does not say who serves");
        Ok(())
    }

    /// Every verb on every kind, all in one file.
    fn objects(&self) -> Result<()> {
        let count = self.suite.samples.len();
        let list = json!({"kind": "List", "apiVersion": "v1", "items": self.suite.samples});
        let file = self.suite.file("all", &list)?;
        let file = file.to_str().context("a path of plain letters")?;
        let each = |what: &str, text: &str, ending: &str| {
            let found = text.lines().filter(|line| line.trim_end().ends_with(ending)).count();
            ensure!(found == count, "{what}: {found} of {count}: {text}");
            Ok(())
        };
        let on = |arguments: &[&str]| {
            let words: Vec<&str> = arguments[..1]
                .iter()
                .chain(&["-f", file])
                .chain(&arguments[1..])
                .copied()
                .collect();
            self.run(&words)
        };
        each("dry", &on(&["create", "--dry-run=server"])?, "(server dry run)")?;
        each("create", &on(&["create"])?, "created")?;
        each("get", &on(&["get", "-o", "name"])?, "")?;
        on(&["get", "-o", "wide"])?;
        each("label", &on(&["label", "labelled=yes"])?, "labeled")?;
        each("annotate", &on(&["annotate", "noted=yes"])?, "annotated")?;
        let patch = r#"{"metadata":{"annotations":{"patched":"yes"}}}"#;
        for kind in ["strategic", "merge"] {
            on(&["patch", "--type", kind, "-p", patch])?;
        }
        let operation = r#"[{"op":"add","path":"/metadata/annotations/json","value":"yes"}]"#;
        each("patch", &on(&["patch", "--type", "json", "-p", operation])?, "patched")?;
        let text = on(&[
            "get",
            "-o",
            "jsonpath={range .items[*]}{.metadata.annotations.json}{'\\n'}{end}",
        ])?;
        each("patched", &text, "yes")?;
        on(&["apply"])?;
        on(&["apply"])?;
        if self.suite.apply {
            each(
                "apply",
                &on(&["apply", "--server-side", "--force-conflicts"])?,
                "serverside-applied",
            )?;
        }
        each("replace", &on(&["replace"])?, "replaced")?;
        self.describe()?;
        for sample in &self.suite.samples {
            let kind = sample.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
            if kind == "ConfigMap" {
                self.edit(&sample.name_any())?;
            }
        }
        self.run(&["get", "all", "--all-namespaces"])?;
        each("delete", &on(&["delete", "--grace-period=1"])?, "")?;
        Ok(())
    }

    /// Objects that kubectl makes up itself. New ones send these, and only these, as protobuf.
    fn commands(&self) -> Result<()> {
        let space = format!("{}-made", self.suite.namespace);
        let image = format!("--image={TEST_IMAGE}");
        let commands: &[&[&str]] = &[
            &["create", "namespace", &space],
            &[
                "create",
                "configmap",
                "made",
                "--from-literal=greeting=hello",
                "--from-literal=none=",
            ],
            &["create", "secret", "generic", "made", "--from-literal=password=open sesame"],
            &["create", "serviceaccount", "made"],
            &["create", "service", "clusterip", "made", "--tcp=80:http", "--tcp=81:8081"],
            &["create", "service", "nodeport", "made-port", "--tcp=80"],
            &["create", "quota", "made", "--hard=configmaps=100,services=64"],
            &["create", "deployment", "made", &image, "--replicas=0", "--port=8080"],
            &[
                "run",
                "made",
                &image,
                "--restart=Never",
                "--env=A=b",
                "--port=8080",
                "-l",
                "app=made",
            ],
            &["expose", "pod", "made", "--port=80", "--target-port=8080", "--name=exposed"],
        ];
        let mut made = Vec::new();
        for command in commands {
            // As JSON would have it.
            let dry = [*command, &["--dry-run=client", "-o", "json"]].concat();
            let mut wanted: Value = serde_json::from_str(&self.run(&dry)?)?;
            // Old ones say it of what has none, too.
            wanted["metadata"]["namespace"].take();
            let kind = wanted["kind"].as_str().context("a kind")?.to_owned();
            self.run(command)?;
            let name = wanted["metadata"]["name"].as_str().context("a name")?;
            let object = format!("{kind}/{name}");
            let stored: Value = serde_json::from_str(&self.run(&["get", &object, "-o", "json"])?)?;
            contains(&stored, &wanted).with_context(|| format!("{command:?} made {stored}"))?;
            made.push(object);
        }
        let delete = ["delete", "--grace-period=1", "--cascade=background"].into_iter();
        self.run(&delete.chain(made.iter().map(String::as_str)).collect::<Vec<_>>())?;
        Ok(())
    }

    fn describe(&self) -> Result<()> {
        // The old one knows endpoint slices as discovery.k8s.io/v1beta1 only, which is not served.
        let knows = |kind: &str| self.tool == Tool::Kubectl || kind != "EndpointSlice";
        let kind = |sample: &&kube::api::DynamicObject| {
            sample.types.as_ref().is_some_and(|types| knows(&types.kind))
        };
        let items: Vec<_> = self.suite.samples.iter().filter(kind).collect();
        let list = json!({"kind": "List", "apiVersion": "v1", "items": items});
        let file = self.suite.file("described", &list)?;
        let text = self.run(&["describe", "-f", file.to_str().context("plain letters")?])?;
        let count = text.lines().filter(|line| line.starts_with("Name:")).count();
        ensure!(count >= items.len(), "{count} of {} are described: {text}", items.len());
        Ok(())
    }

    fn edit(&self, name: &str) -> Result<()> {
        let mut command = self.tool.command(&self.suite.lab)?;
        command.env("KUBE_EDITOR", "sed -i s/hello/edited/");
        command.args(["--namespace", &self.suite.namespace, "edit", "configmap", name]);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let value = self.run(&["get", "configmap", name, "-o", "jsonpath={.data.greeting}"])?;
        ensure!(value == "edited", "it was not edited: {value}");
        Ok(())
    }

    /// Old ones look themselves, with our OpenAPI document; new ones ask the server to.
    fn validation(&self) -> Result<()> {
        let wrong = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "wrong"},
            "spec": {"containers": [{"name": "main", "imagex": "none"}]},
        });
        let wrong = &wrong.to_string();
        let error = self.run_with(&["create", "-f", "-"], wrong).unwrap_err().to_string();
        ensure!(error.contains("unknown field") && error.contains("imagex"), "{error}");
        let dry = self.run_with(&["create", "--dry-run=client", "-o", "name", "-f", "-"], wrong);
        ensure!(dry.is_ok() == (self.tool == Tool::Kubectl), "{dry:?}");
        Ok(())
    }

    fn scaling(&self) -> Result<()> {
        let controller = json!({
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "scaled"},
            "spec": {
                "replicas": 0,
                "selector": {"app": "scaled"},
                "template": {
                    "metadata": {"labels": {"app": "scaled"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{"name": "main", "image": TEST_IMAGE}],
                    },
                },
            },
        });
        self.run_with(&["apply", "-f", "-"], &controller.to_string())?;
        self.run(&["scale", "rc/scaled", "--replicas=1"])?;
        let condition = "--for=jsonpath={.status.readyReplicas}=1";
        if self.tool == Tool::Kubectl {
            self.run(&["wait", "rc/scaled", condition, "--timeout=60s"])?;
        }
        let pod = ["wait", "pod", "-l", "app=scaled", "--for=condition=Ready", "--timeout=60s"];
        // The old one does not wait for pods that are not there yet.
        let began = std::time::Instant::now();
        while let Err(error) = self.run(&pod) {
            let early = error.to_string().contains("no matching resources");
            ensure!(early && began.elapsed() < e2e::check::DEADLINE, "{error:#}");
        }
        let cascade =
            if self.tool == Tool::Kubectl { "--cascade=background" } else { "--cascade=true" };
        self.run(&["delete", "rc", "scaled", cascade])?;
        self.run(&["wait", "pod", "-l", "app=scaled", "--for=delete", "--timeout=60s"]).map_or_else(
            |error| {
                let gone = error.to_string().contains("no matching resources");
                ensure!(gone, "{error:#}");
                Ok(())
            },
            |_| Ok(()),
        )
    }

    fn streams(&self) -> Result<()> {
        ensure!(!self.run(&["logs", POD, "--tail=5"])?.is_empty(), "the log is empty");
        let spdy = self.suite.has("pods/portforward");
        if self.tool == Tool::Kubectl || spdy {
            let said = self.run(&["exec", POD, "--", "/testserver", "echo", "hello", "there"])?;
            ensure!(said == "hello there\n", "{said}");
            let read =
                self.run_with(&["exec", "-i", POD, "--", "/testserver", "read"], "through\n")?;
            ensure!(read == "through\n", "{read}");
            let error = self.run(&["exec", POD, "--", "/testserver", "exit", "3"]).unwrap_err();
            ensure!(error.to_string().contains("exit status: 3"), "{error:#}");
        }
        if self.tool == Tool::Kubectl {
            self.debug()?;
            self.resize()?;
        }
        if spdy { self.port_forward() } else { Ok(()) }
    }

    /// Looks into a pod that runs, by containers that are added to it.
    fn debug(&self) -> Result<()> {
        let image = format!("--image={TEST_IMAGE}");
        let debug = |name: &str, flag: &str, program: &[&str], input: &str| {
            let name = format!("--container={name}");
            let words = ["debug", POD, &image, &name, "--target=main", flag, "--", "/testserver"];
            self.run_with(&[&words, program].concat(), input)
        };
        // Its own first process is not the first among those that it sees.
        debug("once", "--quiet", &["cat", "/proc/1/cmdline"], "")?;
        let state = "jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}";
        let condition = format!("--for={state}=0");
        self.run(&["wait", "pod", POD, &condition, "--timeout=60s"])?;
        let seen = self.run(&["logs", POD, "--container=once"])?;
        ensure!(seen.starts_with("/testserver\0") && !seen.contains("cat"), "{seen:?}");

        self.debug_interactively(&image)?;

        debug("staying", "--quiet", &["sleep"], "")?;
        let running = "jsonpath={.status.ephemeralContainerStatuses[2].state.running.startedAt}";
        self.run(&["wait", "pod", POD, &format!("--for={running}"), "--timeout=60s"])?;
        let pid = ["exec", POD, "-c", "staying", "--", "/testserver", "cat", "/proc/1/cmdline"];
        ensure!(self.run(&pid)? == "/testserver\0", "an exec sees other processes");
        let described = self.run(&["describe", "pod", POD])?;
        for words in ["Ephemeral Containers:", "  staying:", "Started container staying"] {
            ensure!(described.contains(words), "{words} is not in {described}");
        }
        let pods = self.run(&["get", "pod", POD, "--no-headers"])?;
        ensure!(pods.contains("1/1"), "the pod is not what it was: {pods}");
        Ok(())
    }

    /// A pod that runs gets other resources; the kernel holds it to them.
    fn resize(&self) -> Result<()> {
        let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let resources = |cpu: &str, memory: &str| json!({"requests": amounts("50m", "16Mi"), "limits": amounts(cpu, memory)});
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "sized"},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main",
                    "image": TEST_IMAGE,
                    "resources": resources("200m", "64Mi"),
                    "resizePolicy": [
                        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
                    ],
                }],
            },
        });
        self.run_with(&["apply", "-f", "-"], &pod.to_string())?;
        self.run(&["wait", "pod", "sized", "--for=condition=Ready", "--timeout=60s"])?;
        let uid = self.run(&["get", "pod", "sized", "-o", "jsonpath={.metadata.uid}"])?;
        let patch = |wanted: Value| {
            let patch = json!({"spec": {"containers": [{"name": "main", "resources": wanted}]}});
            self.run(&[
                "patch",
                "pod",
                "sized",
                "--subresource",
                "resize",
                "-p",
                &patch.to_string(),
            ])
        };
        let until = |path: &str, value: &str| {
            let condition = format!("--for=jsonpath={{.status.{path}}}={value}");
            self.run(&["wait", "pod", "sized", &condition, "--timeout=60s"])
        };
        patch(resources("400m", "64Mi"))?;
        until("containerStatuses[0].resources.limits.cpu", "400m")?;
        ensure!(self.bound(&uid, "main-0", "cpu.max", "cpu.cfs_quota_us")? == "40000");
        patch(resources("400m", "96Mi"))?;
        until("containerStatuses[0].resources.limits.memory", "96Mi")?;
        until("containerStatuses[0].restartCount", "1")?;
        let memory = self.bound(&uid, "main-1", "memory.max", "memory.limit_in_bytes")?;
        ensure!(memory == (96 << 20).to_string(), "{memory}");
        // More than the node has.
        let wanted = json!({"requests": {"cpu": "900"}, "limits": {"cpu": "1000"}});
        patch(wanted)?;
        until("conditions[?(@.type==\"PodResizePending\")].reason", "Infeasible")?;
        until("containerStatuses[0].allocatedResources.cpu", "50m")?;
        let error = patch(json!({"limits": {"cpu": null}})).unwrap_err().to_string();
        ensure!(error.contains("resource limits cannot be removed"), "{error}");
        self.run(&["delete", "pod", "sized", "--grace-period=1"])?;
        Ok(())
    }

    /// What the kernel says of a container, in its file of version 2 or 1.
    fn bound(&self, uid: &str, container: &str, two: &str, one: &str) -> Result<String> {
        let at = |file: &str| format!("-path '*/pod{uid}/{container}/{file}'");
        let find = format!("find /sys/fs/cgroup {} -o {}", at(two), at(one));
        let script = format!("cat $({find} | head -n 1)");
        let text = self.suite.lab.node("node1")?.run(&["sh", "-c", &script])?;
        Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// Says something to a container that was added, and hears it.
    fn debug_interactively(&self, image: &str) -> Result<()> {
        let mut command = self.tool.command(&self.suite.lab)?;
        command.args(["--namespace", &self.suite.namespace, "debug", POD, image, "-i"]);
        command.args(["--container=parrot", "--target=main", "--", "/testserver", "parrot"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn()?;
        let heard = (|| {
            let mut input = child.stdin.take().context("no input")?;
            input.write_all(b"looked into\n")?;
            let output = BufReader::new(child.stdout.take().context("no output")?);
            // Its input stays open, as Kubernetes has it: neither side ends by itself.
            let mut lines = output.lines().take_while(Result::is_ok).flatten();
            ensure!(lines.any(|line| line.contains("heard looked into")), "it was not attached to");
            Ok(())
        })();
        killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
        child.wait()?;
        heard
    }

    fn port_forward(&self) -> Result<()> {
        let mut command = self.tool.command(&self.suite.lab)?;
        command.args(["--namespace", &self.suite.namespace, "port-forward", POD, ":8080"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let answered = (|| {
            // Kept to the end: kubectl writes a line for each connection, and dies of one it cannot write.
            let mut output = BufReader::new(child.stdout.take().context("no output")?);
            let mut line = String::new();
            output.read_line(&mut line)?;
            // Forwarding from 127.0.0.1:41001 -> 8080
            let address = line.split(' ').find(|word| word.contains("127.0.0.1:"));
            let Some(address) = address.map(str::to_owned) else {
                let mut problems = String::new();
                child.stderr.take().context("no output")?.read_to_string(&mut problems)?;
                anyhow::bail!("no port: {line}{problems}");
            };
            let answer = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(get(&address, "/hostname"))
            });
            let answer = answer.join().map_err(|_| anyhow::anyhow!("the request panicked"))?;
            drop(output);
            answer
        })();
        child.kill()?;
        child.wait()?;
        ensure!(answered?.contains(POD), "another pod answered");
        Ok(())
    }
}

/// Whether all that is wanted is there; the server adds to it.
fn contains(stored: &Value, wanted: &Value) -> Result<()> {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => {
            for (name, wanted) in wanted.iter().filter(|(_, wanted)| !is_nothing(wanted)) {
                let stored = stored.get(name).with_context(|| format!("no {name}"))?;
                contains(stored, wanted).with_context(|| name.clone())?;
            }
        }
        (Value::Array(stored), Value::Array(wanted)) => {
            ensure!(stored.len() == wanted.len(), "{} of {}", stored.len(), wanted.len());
            for (stored, wanted) in stored.iter().zip(wanted) {
                contains(stored, wanted)?;
            }
        }
        _ => ensure!(stored == wanted, "{stored} instead of {wanted}"),
    }
    Ok(())
}

/// `null` and `{}`: what Go says where nothing is given.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|fields| fields.values().all(is_nothing))
}
