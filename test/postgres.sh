#!/bin/sh
# A temporary PostgreSQL for tests.
#
#   eval "$(test/postgres.sh start DIR)"   creates a cluster in DIR, starts it and prints its address for the tests
#   test/postgres.sh stop DIR              stops it and removes everything that start has created
#   test/postgres.sh ctl DIR ARGUMENT...   runs pg_ctl on it, as in "ctl DIR restart -m immediate"
#
# It listens on a free port of the loopback interface, with a random password. PostgreSQL refuses to run as
# root, so root starts it as the user postgres, who must have access to DIR. It does not sync to disk, because it is
# temporary; for measurements use POSTGRES_OPTIONS="-c fsync=on" (or any other options).
set -eu

die() { echo "postgres.sh: $*" >&2; exit 1; }

usage="usage: $0 start|stop DIR, or $0 ctl DIR ARGUMENT..."
[ $# -ge 2 ] || die "$usage"
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
data=$dir/data

bin=$(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$bin" ] || bin=$(dirname "$(command -v pg_ctl || die "PostgreSQL's server is not installed")")

# as runs a command as the user who owns the cluster.
if [ "$(id -u)" -eq 0 ]; then
	id postgres >/dev/null 2>&1 || die "root needs a user named postgres to run PostgreSQL as"
	as() { (cd / && runuser -u postgres -- "$@"); }
	chown postgres "$dir"
	as test -w "$dir" || die "the user postgres cannot reach $dir"
else
	as() { "$@"; }
fi

start() {
	[ ! -e "$data" ] || die "$data exists already"
	password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	printf '%s\n' "$password" | as sh -c 'umask 077 && cat >"$1"' sh "$dir/password"
	as "$bin/initdb" -D "$data" -U futures -A scram-sha-256 --pwfile="$dir/password" -E UTF8 --locale=C -N >"$dir/initdb.log" 2>&1 ||
		die "initdb failed: $(cat "$dir/initdb.log")"

	# Another process may take the port before PostgreSQL listens, so try several.
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
		if as "$bin/pg_ctl" -D "$data" -s -w -l "$dir/server.log" start \
			-o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= ${POSTGRES_OPTIONS--c fsync=off}" >/dev/null 2>&1; then
			echo "export POSTGRES_HOST=127.0.0.1 PGPORT=$port POSTGRES_USER=futures POSTGRES_PASSWORD=$password POSTGRES_DB=postgres"
			return
		fi
	done
	die "PostgreSQL does not start: $(tail -n 5 "$dir/server.log")"
}

stop() {
	if [ -e "$data/postmaster.pid" ]; then
		as "$bin/pg_ctl" -D "$data" -s -w -m immediate stop
	fi
	rm -rf "$data" "$dir/password" "$dir/initdb.log" "$dir/server.log"
	rmdir "$dir" 2>/dev/null || true # unless it contains something else
}

ctl() { as "$bin/pg_ctl" -D "$data" -s -w -l "$dir/server.log" "$@" >/dev/null; }

case $command in
start) start ;;
stop) stop ;;
ctl) shift 2 && ctl "$@" ;;
*) die "$usage" ;;
esac
