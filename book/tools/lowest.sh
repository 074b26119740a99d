#!/bin/sh
# Run the library's tests with the lowest version of everything that pyproject.toml allows, in an environment of its own.
# What fails here raises a bound there. PYTHON chooses the interpreter, best the oldest that is allowed; TORCH_INDEX
# another package index for torch and torchvision alone.
set -eu
cd "$(dirname "$0")/../.."
tool=_build/lock
folder=_build/lowest
[ -x $tool/bin/uv ] || { .venv/bin/python -m venv $tool && $tool/bin/python -m pip install --quiet uv; }
mkdir -p $folder
$tool/bin/uv pip compile pyproject.toml --extra video --resolution lowest-direct --python-version 3.11 \
    --no-annotate --no-header --quiet --output-file $folder/pins >/dev/null
version='import sys; print(sys.version)'
[ "$($folder/bin/python -c "$version" 2>/dev/null)" = "$("${PYTHON:-.venv/bin/python}" -c "$version")" ] ||
    { cp $folder/pins $tool/pins && "${PYTHON:-.venv/bin/python}" -m venv --clear $folder && mv $tool/pins $folder/pins; }
pins=$folder/pins
if [ -n "${TORCH_INDEX:-}" ]; then # as in setup.sh: torch and torchvision alone, which bring no CUDA from there
    # shellcheck disable=SC2046  # two requirements
    $folder/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --index-url "$TORCH_INDEX" \
        $(sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' $folder/pins)
    awk '!/^(torch|torchvision|triton|nvidia-.*|cuda-.*)==/' $folder/pins >$folder/pins-without-torch
    pins=$folder/pins-without-torch
fi
$folder/bin/python -m pip install --disable-pip-version-check --quiet --requirement $pins
$folder/bin/python -m pip install --disable-pip-version-check --quiet \
    pytest pytest-xdist pytest-timeout hypothesis ipython ipykernel nbclient nbformat sphinx playwright
$folder/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
$folder/bin/python -m pytest -q -n 2 --dist loadfile \
    tests/ops tests/models tests/data tests/train tests/course vlmcourse "$@"
