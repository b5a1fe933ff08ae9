# Debian systems in folders: tools that the host shall not get, and the roots of virtual machines. Sourced.

# The same mirrors as the host's.
sources() { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null || true; }

# Makes FOLDER a minimal Debian with these packages (separated by commas), unless it is complete with the same ones
# already; says by its status whether it has just been made. `complete FOLDER` ends the making.
debian() {
    local folder=$1 packages=$2
    [ "$packages" != "$(cat "$folder/.complete" 2>/dev/null)" ] || return 1
    rm -rf "$folder"
    sources | mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$folder" - ||
        die "mmdebstrap could not make $folder"
    echo "$packages" >"$folder/.packages"
}

complete() { mv "$1/.packages" "$1/.complete"; }
