#!/bin/sh
# Makes a folder with all that "docker compose up" needs for a server of that name, with passwords of its own.
#
#   setup/packaging/compose/prepare.sh example.org FOLDER
set -eu

[ $# -eq 2 ] || { echo "usage: $0 DOMAIN FOLDER" >&2 && exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
[ ! -e "$2" ] || { echo "prepare.sh: $2 exists already, and its passwords are in use" >&2 && exit 1; }

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
set -- "$1" "$2" "$(random)" "$(random)" "$(random)"

mkdir -m 700 "$2"
for file in compose.yaml dendrite.yaml nats.conf livekit.yaml ../proxy/Caddyfile; do
	sed -e "s/@DOMAIN@/$1/g" -e "s/@POSTGRES_PASSWORD@/$3/g" -e "s/@LIVEKIT_SECRET@/$4/g" -e "s/@REGISTRATION_SECRET@/$5/g" \
		"$here/$file" >"$2/$(basename "$file")"
done
