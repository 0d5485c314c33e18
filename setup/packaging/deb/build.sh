#!/bin/sh
# Builds the Debian package for one architecture, as Go calls it, and prints its path.
#
#   setup/packaging/deb/build.sh amd64|arm64 FOLDER
#
# VERSION in the environment is its version, if it is not to be the program's, and COMPRESSION is xz, gzip or none. The same
# commit makes the same package.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 amd64|arm64 FOLDER" >&2 && exit 1; }
arch=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
repository=$here/../../..
version=${VERSION:-$(sed -n 's/^const version = "\(.*\)"/\1/p' "$repository/setup/logging.go")}
programs=$("$here/../static.sh" "$arch")

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
umask 022
chmod 755 "$tree"
doc=$tree/usr/share/doc/dendrite-futures
mkdir -p "$tree/DEBIAN" "$tree/usr/bin" "$tree/usr/lib/systemd/system" "$tree/etc/dendrite" "$doc"
cp "$programs/dendrite" "$programs/dendrite-admin" "$tree/usr/bin/"
for tool in create-account generate-keys generate-config; do
	cp "$programs/$tool" "$tree/usr/bin/dendrite-$tool"
done
cp "$here/dendrite.service" "$tree/usr/lib/systemd/system/"
cp "$here/README.Debian" "$repository/docs/operations.md" "$repository/docs/api.md" "$doc/"
cp "$repository/LICENSE" "$doc/copyright"
cp "$here/postinst" "$here/prerm" "$here/postrm" "$tree/DEBIAN/"
chmod 755 "$tree"/DEBIAN/p* "$tree"/usr/bin/*
size=$(du -sk "$tree" | cut -f 1)
sed -e "s/VERSION/$version/" -e "s/ARCH/$arch/" -e "s/SIZE/$size/" "$here/control" >"$tree/DEBIAN/control"

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repository" log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" -z1 --build "$tree" "$out/dendrite-futures_${version}_$arch.deb" >&2
echo "$out/dendrite-futures_${version}_$arch.deb"
