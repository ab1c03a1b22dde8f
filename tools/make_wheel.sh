#!/usr/bin/env bash
# make_wheel.sh: builds the wheel, puts the shared libraries it needs into it, and proves it in an
# empty environment outside the tree. Run by `make wheel`, with the tools on PATH.
set -euo pipefail

bytes_max=1500000
rm -rf build/wheel build/lib build/lib.* build/bdist.* dist
mkdir -p build/wheel dist

python -m pip wheel -q --no-deps --no-build-isolation -w build/wheel .
case $(uname -s) in
Darwin) delocate-wheel -w dist build/wheel/*.whl ;;
*) auditwheel repair --strip -w dist build/wheel/*.whl ;;
esac
wheel=$(ls "$PWD"/dist/*.whl)

proof=$(mktemp -d)
trap 'rm -rf "$proof"' EXIT
python -m venv "$proof/venv"
cp tools/prove_wheel.py "$proof"
cd "$proof"
venv/bin/python -m pip install -q --disable-pip-version-check --no-index --no-deps "$wheel"
venv/bin/python -I prove_wheel.py

bytes=$(wc -c <"$wheel" | tr -d ' ')
echo "wheel: $(basename "$wheel"), $bytes bytes"
if [ "$bytes" -gt "$bytes_max" ]; then
    echo "wheel: more than the $bytes_max bytes that it may have" >&2
    exit 1
fi
