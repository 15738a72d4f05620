#!/usr/bin/env bash
# Every benchmark that wants a GPU, or a part of a study, in at most nine minutes; the results in one small folder.
#
#   benchmarks/gpu.sh OUT                   the benchmarks: OUT/*.json and OUT/log.txt
#   benchmarks/gpu.sh OUT NAME [OPTIONS]    go on with `tuition study NAME --out OUT OPTIONS` for eight minutes
#
# The machine needs PyTorch and no network. What else is missing there travels as wheels in local/wheels, made by
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 \
#       --dest local/wheels pydantic pydantic-core annotated-types typing-inspection SQLAlchemy
# Without a GPU it says what it would run and what that would print, and ends with 1.
set -uo pipefail

OUT=$(realpath -m "${1:?give a folder for the results}")
shift
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
END=$((SECONDS + 530))
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

run() { # SECONDS COMMAND...: for no longer than that, nor past the end
    local left=$((END - SECONDS)) limit=$1
    shift
    echo "\$ $*"
    [ "$GPU" = no ] || timeout "$((limit < left ? limit : left))" "$@" || echo "ended with exit code $?"
}

benchmarks() {
    echo "# a step of distill / the bare step of the same student; the target is 1.03"
    run 60 "$PYTHON" benchmarks/overhead.py --json "$OUT/overhead.json"
    echo "# every black-box method / the bare step, GFLOP/s, share of the bfloat16 peak"
    run 180 "$PYTHON" benchmarks/step.py --students wrn_16_2 --json "$OUT/step.json"
    echo "# images a second / eager float32 with DataLoader workers at batch 64; the target is 4"
    run 120 "$PYTHON" benchmarks/pipeline.py --students wrn_16_2 --json "$OUT/pipeline.json"
    echo "# runs an hour of 1600 calls and 120 epochs, by processes on the GPU; the target is 600 on one H200"
    run 170 "$PYTHON" benchmarks/packing.py --json "$OUT/packing.json"
}

study() {
    echo "# goes on with the study; its tables and runs.csv are in $OUT"
    run 510 "$PYTHON" -m tuition study "$@" --out "$OUT" --max-minutes 8
}

all() { if [ $# -gt 0 ]; then study "$@"; else benchmarks; fi; }

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    GPU=no
    echo "There is no GPU here. With one, this would run, in at most nine minutes, and print:"
    all "$@"
    exit 1
fi

GPU=yes
mkdir -p "$OUT"
if ! "$PYTHON" -c 'import pydantic, sqlalchemy' 2>/dev/null && compgen -G 'local/wheels/*.whl' >/dev/null; then
    SITE=$(mktemp -d)
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$SITE" local/wheels/*.whl
    PYTHONPATH=$PYTHONPATH:$SITE
fi
{
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    all "$@"
    echo "took $SECONDS s"
} 2>&1 | tee "$OUT/log.txt"
