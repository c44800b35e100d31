#!/usr/bin/env bash
# Runs every fuzz target, one after the other: tools/fuzz.sh [SECONDS]. The first finding ends it, with the input that caused it.
#
# The native targets need cargo-fuzz and a nightly toolchain; where there are none, that is said and the Python ones run alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}

for script in tools/fuzz_*.py; do
    echo "fuzz: $script for $seconds s"
    .venv/bin/python "$script" --seconds "$seconds"
done

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzz: no cargo-fuzz on a nightly toolchain: the native targets are not run" >&2
    exit
fi
for target in $(cargo +nightly fuzz list --fuzz-dir native/fuzz); do
    echo "fuzz: $target for $seconds s"
    # What a run finds of interest goes to corpus/, which git ignores; the seeds that git keeps are only read.
    mkdir -p "native/fuzz/corpus/$target"
    folders=("native/fuzz/corpus/$target")
    [[ -d native/fuzz/seeds/$target ]] && folders+=("native/fuzz/seeds/$target")
    cargo +nightly fuzz run --fuzz-dir native/fuzz "$target" "${folders[@]}" -- -max_total_time="$seconds" -print_final_stats=1
done
