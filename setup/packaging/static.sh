#!/bin/sh
# Builds the programs of the homeserver for one architecture, as Go calls it, so that they need nothing of the system that
# they run on, and prints the folder that holds them.
#
#   setup/packaging/static.sh amd64|arm64
#
# SQLite is written in C, so another architecture than this machine's needs a C compiler for it. Name resolution and the
# look-up of users are Go's own: those of the C library load parts of it at run time, which a static program cannot.
set -eu

die() { echo "static.sh: $*" >&2; exit 1; }

[ $# -eq 1 ] || die "usage: $0 amd64|arm64"
arch=$1
case $arch in
amd64) compiler=x86_64-linux-gnu-gcc package=gcc-x86-64-linux-gnu library=libc6-dev-amd64-cross ;;
arm64) compiler=aarch64-linux-gnu-gcc package=gcc-aarch64-linux-gnu library=libc6-dev-arm64-cross ;;
*) die "the architecture $arch is not known here" ;;
esac
[ "$arch" != "$(go env GOHOSTARCH)" ] || compiler=${CC:-gcc} package=gcc library=libc6-dev
command -v "$compiler" >/dev/null || die "$compiler is not installed (Debian: $package $library)"

cd "$(dirname "$0")/../.."
folder=$PWD/.cache/static/$arch
dendrite=github.com/matrix-org/dendrite/cmd
CC=$compiler CGO_ENABLED=1 GOOS=linux GOARCH=$arch go build -trimpath -o "$folder/" \
	-tags 'netgo osusergo sqlite_omit_load_extension' -ldflags '-s -w -linkmode external -extldflags -static' \
	./cmd/... $dendrite/create-account $dendrite/generate-keys >&2
echo "$folder"
