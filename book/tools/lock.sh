#!/bin/sh
# Pin what pyproject.toml asks for, with hashes, for Python 3.11 and newer. Versions pinned so far stay where they still
# fit; UPGRADE=1 takes the newest.
set -eu
cd "$(dirname "$0")/../.."
tool=_build/lock
[ -x $tool/bin/uv ] || { .venv/bin/python -m venv $tool && $tool/bin/python -m pip install --quiet uv; }
cp requirements.lock $tool/pins
# shellcheck disable=SC2086  # an option or none
$tool/bin/uv pip compile pyproject.toml --extra book --extra video --extra test --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --quiet ${UPGRADE:+--upgrade} --output-file $tool/pins >/dev/null
{
    echo "# Pinned versions the book is built and tested with, for Python 3.11 to 3.13. Regenerate with: make lock"
    echo "# CUDA's packages belong to the PyTorch of PyPI; with TORCH_INDEX, setup leaves them and PyTorch out."
    grep -v '^#' $tool/pins
} >$tool/requirements.lock
mv $tool/requirements.lock requirements.lock
