# What deploy/up, deploy/down and deploy/test share. Sourced, not run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Where everything of the cluster on this machine is.
data=${KUTTER_DATA:-/var/lib/kutter}
run=${KUTTER_RUN:-/run/kutter}
log=${KUTTER_LOG_DIR:-/var/log/kutter}
port=${KUTTER_PORT:-6443}
bin=$here/target/release

if [ -t 2 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi

# Milliseconds since the epoch.
now() { date +%s%3N; }

began=$(now)

# One line of progress, with the seconds since the start.
say() {
    local passed=$(($(now) - began))
    printf '%s[%4d.%01d s]%s %s\n' "$bold" $((passed / 1000)) $((passed % 1000 / 100)) "$plain" "$*" >&2
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "$1 needs root, for namespaces, mounts and network: run it as root or with sudo"
}

# Installs Debian packages that are not there yet.
packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
            missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
        die "apt-get could not install ${missing[*]}"
}

# What building and running takes. libseccomp, libelf and zlib are libcontainer's; protoc and the messages that come with it are the etcd client's.
build_packages() {
    packages gcc libc6-dev pkg-config libseccomp-dev libelf-dev zlib1g-dev protobuf-compiler libprotobuf-dev \
        iproute2 util-linux curl ca-certificates
}

need_rust() {
    # sudo forgets where rustup put it.
    if ! command -v cargo >/dev/null; then
        local home
        for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
            [ -x "$home/.cargo/bin/cargo" ] && PATH=$home/.cargo/bin:$PATH && break
        done
    fi
    command -v cargo >/dev/null || die "there is no Rust toolchain: install one from https://rustup.rs"
}

# The process of a pid file, if it is still the program that wrote it.
running() {
    local pid
    pid=$(cat "$run/$1.pid" 2>/dev/null) || return 1
    [ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$bin/$1" ] && echo "$pid"
}

# Starts a program in the background, with its output in the log.
start() {
    local program=$1
    shift
    mkdir -p "$run" "$log"
    setsid "$bin/$program" "$@" >>"$log/$program.log" 2>&1 </dev/null &
    echo $! >"$run/$program.pid"
    disown
}

# Waits until a command succeeds, at most so many seconds. Ends when the program does.
wait_for() {
    local seconds=$1 program=$2 what=$3 deadline
    shift 3
    deadline=$(($(now) + seconds * 1000))
    until "$@" >/dev/null 2>&1; do
        running "$program" >/dev/null ||
            die "$program ended while $what was awaited; the end of $log/$program.log: $(tail -n 5 "$log/$program.log")"
        [ "$(now)" -lt "$deadline" ] || die "$what is not there after $seconds s; see $log/$program.log"
        sleep 0.05
    done
}
