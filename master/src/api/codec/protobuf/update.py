#!/usr/bin/env python3
"""Writes fields.txt: update.py kubernetes/api kubernetes/apimachinery [REVISION] > fields.txt

Out of two repositories' files: generated.proto has the numbers and types, types.go has what JSON is
called and whether a zero value counts as given. Another group is another line in PACKAGES.
"""

import re
import subprocess
import sys

PACKAGES = {
    "k8s.io.apimachinery.pkg.apis.meta.v1": ("meta.k8s.io/v1", "pkg/apis/meta/v1"),
    "k8s.io.apimachinery.pkg.runtime": ("runtime", "pkg/runtime"),
    "k8s.io.apimachinery.pkg.api.resource": ("resource", "pkg/api/resource"),
    "k8s.io.apimachinery.pkg.util.intstr": ("intstr", "pkg/util/intstr"),
    "k8s.io.api.core.v1": ("v1", "core/v1"),
    "k8s.io.api.apps.v1": ("apps/v1", "apps/v1"),
    "k8s.io.api.authentication.v1": ("authentication.k8s.io/v1", "authentication/v1"),
    "k8s.io.api.autoscaling.v1": ("autoscaling/v1", "autoscaling/v1"),
    "k8s.io.api.coordination.v1": ("coordination.k8s.io/v1", "coordination/v1"),
    "k8s.io.api.discovery.v1": ("discovery.k8s.io/v1", "discovery/v1"),
    "k8s.io.api.events.v1": ("events.k8s.io/v1", "events/v1"),
    "k8s.io.api.networking.v1": ("networking.k8s.io/v1", "networking/v1"),
    "k8s.io.api.node.v1": ("node.k8s.io/v1", "node/v1"),
    "k8s.io.api.policy.v1": ("policy/v1", "policy/v1"),
    "k8s.io.api.scheduling.v1": ("scheduling.k8s.io/v1", "scheduling/v1"),
}
# Their JSON is not an object of their fields; the reader knows them by name.
SCALARS = {"Time", "MicroTime", "Timestamp", "Duration", "FieldsV1", "Quantity", "QuantityValue",
           "IntOrString", "RawExtension", "Unknown", "TypeMeta"}


def go_fields(text):
    """(struct, number) -> (JSON name, "" if inlined; pointer?)"""
    found, struct = {}, None
    for line in text.splitlines():
        if match := re.match(r"type (\w+) struct", line):
            struct = match[1]
        elif tag := re.search(r'^\s*(.*?)\s*`json:"([^",]*)[^"]*" protobuf:"\w+,(\d+),', line):
            words = tag[1].split()
            pointer = len(words) > 1 and words[1].startswith("*")
            found[struct, tag[3]] = (tag[2], pointer)
    return found


def main():
    repositories, revision = sys.argv[1:3], (sys.argv[3:] or ["HEAD"])[0]
    print("# The protobuf form of Kubernetes' types: a message, then `name number type` of each field.")
    print("# `*`: a zero value counts as given. `-`: in JSON the fields stand in the object around it.")
    print("# Facts of k8s.io/api and k8s.io/apimachinery (Apache-2.0), written by update.py; not edited by hand.")
    for package, (name, folder) in PACKAGES.items():
        repository = repositories[package.startswith("k8s.io.apimachinery")]
        show = lambda file: subprocess.run(
            ["git", "-C", repository, "show", f"{revision}:{folder}/{file}"],
            check=file != "types.go", capture_output=True, text=True).stdout
        fields = go_fields(show("types.go"))

        def qualified(type_name):
            if "." not in type_name:
                return type_name if type_name in ("string", "bool", "int32", "int64", "bytes") else f"{name}.{type_name}"
            of, simple = type_name.lstrip(".").rsplit(".", 1)
            return f"{PACKAGES[of][0]}.{simple}"

        message = None
        for line in show("generated.proto").splitlines():
            if match := re.match(r"message (\w+) \{", line):
                message = match[1]
                if message not in SCALARS:
                    print(f"{name}.{message}")
                continue
            if message is None or message in SCALARS:
                continue
            one = re.match(r"\s+(optional|repeated) ([\w.]+) (\w+) = (\d+);", line)
            of = re.match(r"\s+map<string, ([\w.]+)> (\w+) = (\d+);", line)
            if one:
                label, type_name, field, number = one.groups()
            elif of:
                label, (type_name, field, number) = "map", of.groups()
            else:
                continue
            json, pointer = fields.get((message, number), (field, False))
            prefix = {"optional": "*" if pointer else "", "repeated": "[]", "map": "map "}[label]
            print(f"  {json or '-'} {number} {prefix}{qualified(type_name)}")


main()
