#!/bin/sh
# Builds the LiveKit server for the tests in test/rtc, and the program in this folder, and prints the folder with both.
#
#   FUTURES_LIVEKIT=$(test/livekit/livekit.sh)
#
# It needs Go and its module proxy. go.mod has the versions. The result is in .cache/livekit/, under the hash of this
# folder, so a second run only prints the path. If LiveKit cannot be built, the script fails and says why in its last
# line. If FUTURES_LIVEKIT is set, the script prints it.
set -eu

die() { echo "livekit.sh: $*" >&2; exit 1; }

[ -z "${FUTURES_LIVEKIT:-}" ] || { echo "$FUTURES_LIVEKIT"; exit; }

here=$(cd "$(dirname "$0")" && pwd)
key=$( (cat "$here/go.mod" "$here/main.go" && go env GOVERSION GOARCH) | sha256sum | cut -c 1-16)
root=$(cd "$here/../.." && pwd)/.cache/livekit
if [ ! -x "$root/$key/livekit-server" ]; then
	mkdir -p "$root"
	# It is built beside its final place and then moved there, so the final place is always complete. If two scripts run
	# at the same time, both build and one discards its copy.
	new=$(mktemp -d "$root/new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	mkdir "$new/bin"
	(cd "$here" && export GOWORK=off &&
		go build -o "$new/bin/livekit" . &&
		go build -o "$new/bin/livekit-server" github.com/livekit/livekit-server/cmd/server) >"$new/log" 2>&1 ||
		die "LiveKit cannot be built (no module proxy?): $(tail -n 1 "$new/log")"
	mv -T "$new/bin" "$root/$key" 2>/dev/null || [ -x "$root/$key/livekit-server" ] || die "cannot write to $root"
fi
echo "$root/$key"
