#!/bin/sh
# Installs Synapse for the tests in this folder, and prints the path of a Python that has it.
#
#   FUTURES_SYNAPSE_PYTHON=$(test/interop/synapse.sh)
#
# It needs Python 3.11 or newer with the module venv, or the program virtualenv, and the Python package registry.
# requirements.txt has the versions and the hashes of all packages. They are installed in .cache/synapse/, under the
# hash of that file, so a second run only prints the path. If Synapse cannot be installed, the script fails and says
# why in its last line. If FUTURES_SYNAPSE_PYTHON is set, the script prints it.
set -eu

die() { echo "synapse.sh: $*" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/requirements.txt

# python prints the first interpreter that is new enough.
python() {
	for name in python3 python3.13 python3.12 python3.11; do
		if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			"$name" -c 'import sys; print(sys.executable)'
			return
		fi
	done
	return 1
}

# environment creates a virtual environment with pip in the folder. In Debian venv and pip are separate packages.
environment() {
	"$python" -m venv "$1" && return
	rm -rf "$1"
	"$python" -m virtualenv -q "$1" && return
	rm -rf "$1"
	virtualenv -q -p "$python" "$1"
}

[ -z "${FUTURES_SYNAPSE_PYTHON:-}" ] || { echo "$FUTURES_SYNAPSE_PYTHON"; exit; }

python=$(python) || die "there is no Python 3.11 or newer"
version=$("$python" -c 'import platform; print(platform.python_version(), platform.machine())')
key=$( (cat "$requirements" && echo "$python $version") | sha256sum | cut -c 1-16)
root=$(cd "$here/../.." && pwd)/.cache/synapse
if [ ! -x "$root/$key/bin/python" ]; then
	mkdir -p "$root"
	# It is installed beside its final place and then moved there, so the final place is always complete. If two
	# scripts run at the same time, both install and one discards its copy.
	new=$(mktemp -d "$root/new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	environment "$new/env" >"$new/log" 2>&1 || die "no virtual environment (python3-venv is missing?): $(tail -n 1 "$new/log")"
	"$new/env/bin/python" -m pip install -q --disable-pip-version-check --no-input --retries 2 --no-deps \
		--only-binary :all: --require-hashes -r "$requirements" >"$new/log" 2>&1 ||
		die "the packages cannot be installed (no registry?): $(tail -n 1 "$new/log")"
	mv -T "$new/env" "$root/$key" 2>/dev/null || [ -x "$root/$key/bin/python" ] || die "cannot write to $root"
fi
echo "$root/$key/bin/python"
