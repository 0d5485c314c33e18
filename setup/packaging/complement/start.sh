#!/bin/sh
# Starts the homeserver as Complement wants it: under the name SERVER_NAME, with a certificate from Complement's authority,
# with the application services that Complement has registered, and on SQLite or, with DATABASE=postgres, on a PostgreSQL
# of its own. Complement stops a container, saves it as an image and starts that again, so whatever is there is kept.
set -eu

cd "$(dirname "$0")"
ca=/complement/ca
server=${SERVER_NAME:?"Complement sets it to the name of the server"}

database=
case ${DATABASE:-sqlite} in
sqlite) ;;
postgres)
	bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
	data=$PWD/postgres
	as() { (cd / && exec runuser -u postgres -- "$@"); }
	if [ ! -d "$data" ]; then
		install -d -o postgres -m 700 "$data"
		as "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C -N >/dev/null
	fi
	rm -f "$data/postmaster.pid" # of the container that this one was saved from
	as "$bin/pg_ctl" -D "$data" -s -w -l "$data/log" start \
		-o "-c listen_addresses= -c unix_socket_directories=$data -c max_connections=500 -c fsync=off"
	database="user=postgres dbname=postgres host=$data"
	;;
*) echo "start.sh: DATABASE is $DATABASE; it may be sqlite or postgres" >&2 && exit 1 ;;
esac

[ -e matrix_key.pem ] || ./generate-keys --private-key matrix_key.pem
./generate-keys --keysize 2048 --server "$server" --tls-cert server.crt --tls-key server.key \
	--tls-authority-cert $ca/ca.crt --tls-authority-key $ca/ca.key
cp $ca/ca.crt /usr/local/share/ca-certificates/complement.crt && update-ca-certificates >/dev/null

services=$(find /complement/appservice -name '*.yaml' 2>/dev/null | sort | sed 's/.*/"&"/' | paste -s -d , -)
./generate-config -ci -server "$server" -db "$database" |
	sed -e "s|config_files: \[\]|config_files: [$services]|" -e 's|max_open_conns: 90|max_open_conns: 450|' >dendrite.yaml

exec ./dendrite --really-enable-open-registration --tls-cert server.crt --tls-key server.key --config dendrite.yaml
