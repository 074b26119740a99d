#!/bin/sh
# Pin what pyproject.toml asks for, for Python 3.11 and newer. Versions pinned so far stay where they still fit;
# UPGRADE=1 takes the newest. The packages that carry CUDA are left out: PyTorch's own metadata pins them, and
# a build of PyTorch for another CUDA, or for none, asks for others.
set -eu
cd "$(dirname "$0")/../.."
tool=_build/lock
[ -x $tool/bin/uv ] || { .venv/bin/python -m venv $tool && $tool/bin/python -m pip install --quiet uv; }
cp requirements.lock $tool/pins
# shellcheck disable=SC2086  # an option or none
$tool/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
    --no-annotate --no-header --quiet ${UPGRADE:+--upgrade} --output-file $tool/pins >/dev/null
{
    echo "# Pinned versions the book is built and tested with, for Python 3.11 to 3.13. Regenerate with: make lock"
    echo "# CUDA's packages are not listed: PyTorch pins its own, and other builds of PyTorch need others or none."
    grep -vE '^(#|nvidia-|cuda-|triton=)' $tool/pins
} >$tool/requirements.lock
mv $tool/requirements.lock requirements.lock
