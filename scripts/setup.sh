#!/bin/sh
# Makes a virtual environment with the newest Python >= 3.11 that runs, and installs gloro-jax.
set -eu

usage() {
    echo "usage: scripts/setup.sh [VENV]   (default .venv; PYTHON=... picks the interpreter)"
}

case "${1:-}" in -h | --help) usage; exit 0 ;; esac
cd "$(dirname "$0")/.."
venv=${1:-.venv}

python=
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "gloro-jax needs Python 3.11 or newer, and none was found. Install one, or name it:" >&2
    echo "    make setup PYTHON=/path/to/python3.12" >&2
    exit 1
fi

echo "Making $venv with $("$python" --version), about a gigabyte; this takes a minute or two ..."
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
touch "$venv/.installed"
echo "Done. The environment is $venv; the command line is $venv/bin/gloro-jax."
