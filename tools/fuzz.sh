#!/usr/bin/env bash
# Runs every fuzz target, one after the other: tools/fuzz.sh [SECONDS]. The first finding ends it, with the input that caused it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}

for script in tools/fuzz_*.py; do
    [[ -e $script ]] || continue
    echo "fuzz: $script for $seconds s"
    .venv/bin/python "$script" --seconds "$seconds"
done
