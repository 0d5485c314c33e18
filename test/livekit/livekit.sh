#!/bin/sh
# Builds the LiveKit server that the tests of test/rtc run beside ours, and LiveKit's side in them, and prints the folder
# that has both.
#
#   FUTURES_LIVEKIT=$(test/livekit/livekit.sh)
#
# It needs Go and its module proxy. The versions stand in go.mod. What is built lies in .cache/livekit/, under the hash of
# this folder, so that a second run only prints the path. Where LiveKit cannot be had, the script fails and says why in
# its last line. If FUTURES_LIVEKIT is set already, that is printed.
set -eu

die() { echo "livekit.sh: $*" >&2; exit 1; }

[ -z "${FUTURES_LIVEKIT:-}" ] || { echo "$FUTURES_LIVEKIT"; exit; }

here=$(cd "$(dirname "$0")" && pwd)
key=$( (cat "$here/go.mod" "$here/main.go" && go env GOVERSION GOARCH) | sha256sum | cut -c 1-16)
root=$(cd "$here/../.." && pwd)/.cache/livekit
if [ ! -x "$root/$key/livekit-server" ]; then
	mkdir -p "$root"
	# It is built beside its place and then moved there, so that what is in place is complete. Of two scripts that run at
	# the same time, both build and one gives its copy up.
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
