#!/bin/sh
# Make .venv hold what requirements.lock pins, and the package itself. Does nothing where it already does.
# PYTHON chooses the interpreter; TORCH_INDEX another package index for torch and torchvision alone (see README).
set -eu
cd "$(dirname "$0")/../.."

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

suitable() { # a pyenv shim may exist and not run, so ask the interpreter itself
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if suitable "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "No Python of version 3.11 or newer was found; python3 here is: $(python3 --version 2>&1 || true)" \
        "Install one (python.org, your package manager), or name it: make $GOAL PYTHON=/path/to/python3.12"
}

GOAL=${1:-book}
venv_python=.venv/bin/python
remembered=.venv/torch-index
: "${TORCH_INDEX:=$(cat $remembered 2>/dev/null || true)}"

if [ -n "${PYTHON:-}" ] && suitable $venv_python; then
    ask='import sys; print("%d.%d" % sys.version_info[:2])'
    wanted=$("$PYTHON" -c "$ask" 2>/dev/null) || fail "PYTHON=$PYTHON does not run."
    present=$($venv_python -c "$ask")
    [ "$wanted" = "$present" ] || fail "PYTHON=$PYTHON is Python $wanted, but .venv was made with Python $present." \
        "Remove .venv first: make clean-venv"
fi

# Contents rather than times: a checkout changes times. The folder counts because the package is installed as a link to it.
state=$({ cat requirements.lock pyproject.toml book/tools/setup.sh; pwd; echo "$TORCH_INDEX"; } | cksum)
if suitable $venv_python && [ "$(cat .venv/installed 2>/dev/null || true)" = "$state" ]; then
    exit 0
fi

if ! suitable $venv_python; then
    python=$(find_python)
    echo "Creating .venv with $("$python" --version) ..."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments; on Debian and Ubuntu: sudo apt install python3-venv"
    "$python" -m venv --clear .venv
fi

echo "Installing what requirements.lock pins (the first time a few minutes, and 6 GB on Linux with CUDA) ..."
rm -f .venv/installed
quiet=--quiet
[ ! -t 1 ] || quiet= # on a terminal pip shows how far it is: six silent gigabytes look like a hang
# shellcheck disable=SC2086  # an option or none
pip() { $venv_python -m pip --disable-pip-version-check $quiet "$@"; }
# --no-compile: Python compiles a module when it is first imported. Most are never, and compiling all takes half the time.
pins=requirements.lock
if [ -n "$TORCH_INDEX" ]; then
    again=--force-reinstall # a torch of the same version, built for something else, would count as installed
    [ "$TORCH_INDEX" != "$(cat $remembered 2>/dev/null || true)" ] || again=
    # shellcheck disable=SC2046,SC2086  # two requirements, and an option or none
    pip install $again --no-compile --no-deps --index-url "$TORCH_INDEX" $(sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' requirements.lock)
    echo "$TORCH_INDEX" >$remembered
    pins=.venv/requirements.lock # another index has other files of PyTorch, and other packages for CUDA or none
    awk '/^[a-zA-Z]/ { kept = !/^(torch|torchvision|triton|nvidia-.*|cuda-.*)==/ } kept' requirements.lock >$pins
fi
pip install --no-compile --no-deps --require-hashes --requirement $pins
pip install --no-deps --editable .
echo "$state" >.venv/installed
