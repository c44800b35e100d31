#!/usr/bin/env bash
# Prints a folder with a Debian kernel that has nbd, QEMU to boot it, and virtiofsd: unpacked under it, nothing is installed.
#
# Not installed, because bookworm's QEMU and the qemu-utils of its backports exclude each other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

guest=$PWD/.cache/guest
stamp=$guest/complete

# What installing QEMU and udev would add to this machine, and kmod in any case.
packages() {
    apt-get install --simulate --no-install-recommends --quiet qemu-system-x86 udev | awk '$1 == "Inst" { print $2 }'
    echo kmod
    apt-cache depends linux-image-6.12-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2; exit }'
}

fetch() {
    apt-cache show linux-image-6.12-cloud-amd64 >/dev/null 2>&1 || apt-get -qq update
    rm -rf "$guest"
    mkdir -p "$guest/debs" "$guest/root"
    # shellcheck disable=SC2046
    (cd "$guest/debs" && apt-get -qq download $(packages | sort -u) >&2)
    for package in "$guest"/debs/*.deb; do
        dpkg -x "$package" "$guest/root"
    done
    rm -rf "$guest/debs"
    # depmod is a name of kmod's; its link is absolute.
    bash -c "exec -a depmod '$guest/root/bin/kmod' -b '$guest/root' '$(ls "$guest/root/lib/modules")'"
    touch "$stamp"
}

[[ -e $stamp ]] || fetch
echo "$guest/root"
