#!/usr/bin/env bash
# Builds libnbd >= 1.22 with its Python binding from the source package of a newer Debian into .cache/libnbd.
#
# For the tests that need a client of BLOCK_STATUS payloads, which bookworm's 1.14 is not. Takes about a minute; not part of `make test`.
# Prints the folder to put on PYTHONPATH: `PYTHONPATH=$(tools/build-libnbd.sh) .venv/bin/python -m pytest …`.
# The suite may be given: tools/build-libnbd.sh sid
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/debian-mirror.sh

suite=${1:-trixie}
cache=$PWD/.cache/libnbd
python=$PWD/.venv/bin/python

works() {
    PYTHONPATH=$cache/python "$python" -c '
import nbd
major, minor = map(int, nbd.NBD().get_version().split(".")[:2])
raise SystemExit((major, minor) < (1, 22))' 2>/dev/null
}

fetch() {
    suite_apt "$cache" "$suite" deb-src update >&2
    (cd "$cache" && suite_apt "$cache" "$suite" deb-src --download-only source libnbd >&2)
    rm -rf "$cache/source"
    dpkg-source -x "$cache"/libnbd_*.dsc "$cache/source" >&2
}

build() {
    # Only the library and the Python binding: TLS, NBD URIs, FUSE and the other languages need packages that these tests do not.
    (cd "$cache/source" && {
        ./configure --disable-static --disable-fuse --disable-ocaml --disable-golang --disable-rust --disable-ublk \
            --without-gnutls --without-libxml2 --without-bash-completions --enable-python PYTHON="$python" \
            MKE2FS=no --prefix="$cache/installed" --quiet
        make -s -C common/utils
        make -s -j"$(nproc)" -C lib install
        make -s -C python
    } >"$cache/build.log" 2>&1) || { tail -n 20 "$cache/build.log" >&2; return 1; }
}

# The module was linked with the path of the installed library, so a caller needs PYTHONPATH and nothing else.
lay_out() {
    rm -rf "$cache/python"
    mkdir -p "$cache/python"
    cp "$cache"/source/python/nbd.py "$cache/python/"
    cp "$cache"/source/python/.libs/libnbdmod*.so "$cache/python/"
}

mkdir -p "$cache"
if ! works; then
    fetch
    build
    lay_out
    works || { echo "the libnbd built from $suite does not load" >&2; exit 1; }
fi
echo "$cache/python"
