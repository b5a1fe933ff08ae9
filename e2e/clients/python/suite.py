"""The Python client against a cluster: the dynamic client with every verb on every kind, the typed one, watches, streams.

Told by the environment: KUBECONFIG, NAMESPACE, SAMPLES (a JSON list of objects), APPLY (whether server-side
apply is served), POD (a pod of the test program that runs in the namespace).
"""

import copy
import json
import os
import time

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.stream import portforward, stream

NAMESPACE = os.environ["NAMESPACE"]
POD = os.environ["POD"]
APPLY = os.environ["APPLY"] == "true"


def refused(code, call, *arguments, **options):
    """The call fails with this HTTP code."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == code, error
        assert json.loads(error.body)["kind"] == "Status", error.body
        return
    raise AssertionError(f"{call} was not refused")


def every_verb(dynamic, sample):
    """Creates, reads, watches, changes and deletes an object of a kind, each verb that discovery tells."""
    resource = dynamic.resources.get(api_version=sample["apiVersion"], kind=sample["kind"])
    verbs = set(resource.verbs)
    scope = {"namespace": NAMESPACE} if resource.namespaced else {}
    name = sample["metadata"]["name"]
    labels = ",".join(f"{key}={value}" for key, value in sample["metadata"]["labels"].items())
    start = resource.get(**scope, label_selector=labels).metadata.resourceVersion
    made = resource.create(body=copy.deepcopy(sample), **scope)
    assert made.metadata.uid and made.metadata.creationTimestamp, made
    refused(409, resource.create, body=copy.deepcopy(sample), **scope)
    done = {"create", "list"}

    for content_type, patch in [
        ("application/merge-patch+json", {"metadata": {"annotations": {"merge": "1"}}}),
        ("application/strategic-merge-patch+json", {"metadata": {"annotations": {"strategic": "1"}}}),
        ("application/json-patch+json", [{"op": "add", "path": "/metadata/annotations/json", "value": "1"}]),
    ]:
        resource.patch(body=patch, name=name, content_type=content_type, **scope)
    if APPLY:
        own = {key: sample[key] for key in ("apiVersion", "kind")}
        own["metadata"] = {"name": name, "annotations": {"apply": "1"}}
        applied = resource.server_side_apply(body=own, name=name, field_manager="suite", **scope)
        assert any(entry.manager == "suite" for entry in applied.metadata.managedFields)
    done.add("patch")

    got = resource.get(name=name, **scope)
    for word in ["merge", "strategic", "json"] + (["apply"] if APPLY else []):
        assert got.metadata.annotations[word] == "1", (word, got.metadata)
    # Others may change an object meanwhile, a node's conditions for instance: an update without a version.
    replacement = got.to_dict()
    if sample["kind"] != "Lease":  # They are what clients compete for: a version is a must.
        del replacement["metadata"]["resourceVersion"]
    replacement["metadata"]["labels"]["replaced"] = "yes"
    assert resource.replace(body=replacement, name=name, **scope).metadata.labels.replaced == "yes"
    done |= {"get", "update"}

    subresources = resource.subresources
    if "status" in subresources:
        subresources["status"].get(name=name, **scope)
        subresources["status"].patch(body={"metadata": {"annotations": {"status": "1"}}}, name=name,
                                     content_type="application/merge-patch+json", **scope)
    if "scale" in subresources:
        assert subresources["scale"].get(name=name, **scope).kind == "Scale"
        scaled = subresources["scale"].patch(body={"spec": {"replicas": 0}}, name=name,
                                             content_type="application/merge-patch+json", **scope)
        assert scaled.spec.replicas == 0

    resource.delete(name=name, body={"gracePeriodSeconds": 0}, **scope)
    done.add("delete")
    seen = []
    for event in resource.watch(**scope, label_selector=labels, resource_version=start, timeout=20):
        assert event["object"].metadata.name == name
        seen.append(event["type"])
        if event["type"] == "DELETED":
            break
    assert seen[0] == "ADDED" and "MODIFIED" in seen and seen[-1] == "DELETED", seen
    refused(404, resource.get, name=name, **scope)
    done.add("watch")

    if "deletecollection" in verbs:
        dry = copy.deepcopy(sample)
        resource.create(body=dry, dry_run="All", **scope)
        resource.create(body=copy.deepcopy(sample), **scope)
        resource.delete(label_selector=labels, **scope)
        deadline = time.monotonic() + 20
        while resource.get(**scope, label_selector=labels).items:
            assert time.monotonic() < deadline, f"{sample['kind']} was not deleted with its collection"
        done.add("deletecollection")
    assert done >= verbs, f"{sample['kind']}: not tried: {verbs - done}"
    print(f"{sample['apiVersion']} {sample['kind']}: {' '.join(sorted(done))}")


def typed(core):
    """The generated client: models both ways, selectors, pages, options."""
    version = client.VersionApi().get_code()
    assert int(version.minor) >= 30, version
    meta = client.V1ObjectMeta(generate_name="typed-", labels={"suite": "typed"})
    for number in range(3):
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta, data={"n": str(number)}))
    page = core.list_namespaced_config_map(NAMESPACE, label_selector="suite in (typed)", limit=2)
    assert len(page.items) == 2 and page.metadata._continue, page.metadata
    rest = core.list_namespaced_config_map(NAMESPACE, label_selector="suite in (typed)", limit=2,
                                           _continue=page.metadata._continue)
    assert len(rest.items) == 1, rest
    names = {item.metadata.name for item in page.items + rest.items}
    one = names.pop()
    fields = f"metadata.name={one}"
    found = core.list_namespaced_config_map(NAMESPACE, field_selector=fields).items
    assert [item.metadata.name for item in found] == [one]
    stale = found[0]
    core.patch_namespaced_config_map(one, NAMESPACE, {"data": {"n": "new"}})
    refused(409, core.replace_namespaced_config_map, one, NAMESPACE, stale)
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="suite=typed")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="suite=typed").items
    bad = client.V1Pod(metadata=client.V1ObjectMeta(name="bad"), spec=client.V1PodSpec(
        containers=[client.V1Container(name="Main_", image="x")]))
    refused(422, core.create_namespaced_pod, NAMESPACE, bad)

    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_pod, NAMESPACE, field_selector=f"metadata.name={POD}",
                                timeout_seconds=20):
        assert event["object"].status.phase == "Running"
        watcher.stop()


def streams(core, subresources):
    """Logs, exec, and what else of it is served."""
    log = core.read_namespaced_pod_log(POD, NAMESPACE, tail_lines=10)
    assert log, "the pod's log is empty"
    options = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
    said = stream(core.connect_get_namespaced_pod_exec, POD, NAMESPACE,
                  command=["/testserver", "echo", "hello", "python"], **options)
    assert said == "hello python\n", said
    ended = stream(core.connect_get_namespaced_pod_exec, POD, NAMESPACE,
                   command=["/testserver", "exit", "3"], _preload_content=False, **options)
    ended.run_forever(timeout=20)
    assert ended.returncode == 3, ended.returncode
    if "pods/portforward" in subresources:
        forward = portforward(core.connect_get_namespaced_pod_portforward, POD, NAMESPACE, ports="8080")
        socket = forward.socket(8080)
        socket.setblocking(True)
        socket.settimeout(20)
        socket.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while POD.encode() not in answer:
            part = socket.recv(4096)
            assert part, f"the connection ended after {answer}: {forward.error(8080)}"
            answer += part
        socket.close()
    if "pods/attach" in subresources:
        attached = stream(core.connect_get_namespaced_pod_attach, POD, NAMESPACE, stdin=False, stdout=True,
                          stderr=True, tty=False, _preload_content=False)
        assert attached.is_open()
        attached.close()


def main():
    config.load_kube_config()
    core = client.CoreV1Api()
    dynamic = DynamicClient(client.ApiClient(), cache_file=os.environ["CACHE"])
    with open(os.environ["SAMPLES"], encoding="utf-8") as file:
        for sample in json.load(file):
            every_verb(dynamic, sample)
    typed(core)
    streams(core, {resource.name for resource in core.get_api_resources().resources})


main()
