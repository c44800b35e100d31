#!/usr/bin/env bash
# Makes this checkout ready to build and test: Debian packages, the virtual environment, libnbd's binding, QEMU 10.
#
# May run any number of times: what is there is left alone, and with nothing to do it takes a fraction of a second.
# Ends with one sentence and exit code 1 where something is missing that it cannot install.
# Nothing outside this checkout changes except through apt-get.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/setup.stamp

die() {
    echo "setup: $*" >&2
    exit 1
}

missing_packages() {
    local package
    while read -r package; do
        # An image may strip dpkg's Status down; "installed" at its end is what counts.
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *" installed" ]] || echo "$package"
    done < <(grep -v '^#' tools/debian-packages.txt)
}

install_packages() {
    command -v dpkg-query >/dev/null || die "not a Debian system: install by hand: $(grep -v '^#' tools/debian-packages.txt | xargs)"
    local missing as_root=()
    missing=$(missing_packages | xargs)
    [[ -n $missing ]] || return 0
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || die "missing Debian packages, install them as root: apt-get install $missing"
        as_root=(sudo -n)
    fi
    echo "setup: installing $missing"
    "${as_root[@]}" apt-get -q update >/dev/null
    # The list is a list of words on purpose.
    # shellcheck disable=SC2086
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing >/dev/null
}

# The interpreter must be CPython 3.11: Debian's libnbd binding is compiled for that one alone.
find_python() {
    local candidate
    for candidate in python3.11 /usr/bin/python3.11 python3; do
        if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "no Python 3.11 found (apt-get install python3.11-venv)"
}

find_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin command -v cargo >/dev/null ||
        die "no Rust toolchain: put cargo on PATH or into ~/.cargo/bin"
}

# Three files of the system's dist-packages, and not the folder: everything else in it would shadow the environment's packages.
link_libnbd() {
    local site folder=$PWD/$venv/libnbd file
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$folder"
    for file in /usr/lib/python3/dist-packages/{nbd.py,nbdsh.py,libnbdmod.cpython-311-*.so}; do
        [[ -e $file ]] || die "python3-libnbd has no $file for Python 3.11"
        ln -sf "$file" "$folder/"
    done
    echo "$folder" >"$site/libnbd.pth"
    "$venv/bin/python" -c 'import nbd' || die "the libnbd binding does not load in $venv"
}

make_environment() {
    local python=$1
    # A copied or moved checkout leaves an environment behind that points elsewhere.
    "$venv/bin/python" -c 'import pip' 2>/dev/null || "$python" -m venv --clear "$venv"
    "$venv/bin/python" tools/requirements.py >"$venv/requirements.txt"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$venv/requirements.txt"
    link_libnbd
}

fingerprint() {
    echo "$1 $PWD"
    sha256sum pyproject.toml tools/setup.sh tools/requirements.py
}

install_packages
find_cargo
python=$(find_python)
if [[ $(fingerprint "$python") != "$(cat "$stamp" 2>/dev/null)" ]]; then
    echo "setup: making $venv"
    make_environment "$python"
    fingerprint "$python" >"$stamp"
fi
tools/fetch-qemu10.sh >/dev/null || echo "setup: no QEMU 10, tests of extended headers with it will be skipped" >&2
