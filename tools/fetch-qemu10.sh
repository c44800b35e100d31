#!/usr/bin/env bash
# Prints the folder of a qemu-img and qemu-io of version 10 or later: those speak NBD's extended headers, bookworm's 7.2 do not.
#
# Where PATH has none, the package of bookworm-backports is unpacked (not installed) into .cache/qemu10. Fails where neither works.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/debian-mirror.sh

cache=$PWD/.cache/qemu10

is_new() {
    [[ $("$1" --version 2>/dev/null) =~ version\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= 10))
}

fetch() {
    mkdir -p "$cache"
    suite_apt "$cache" bookworm-backports deb update >&2
    (cd "$cache" && suite_apt "$cache" bookworm-backports deb download qemu-utils >&2)
    dpkg -x "$cache"/qemu-utils_*.deb "$cache/root"
    rm -rf "$cache"/qemu-utils_*.deb "$cache/apt"
}

on_path=$(command -v qemu-img || true)
if [[ -n $on_path ]] && is_new "$on_path"; then
    dirname "$on_path"
    exit
fi
is_new "$cache/root/usr/bin/qemu-img" || fetch
is_new "$cache/root/usr/bin/qemu-img" || { echo "qemu-img of bookworm-backports does not run here" >&2; exit 1; }
echo "$cache/root/usr/bin"
