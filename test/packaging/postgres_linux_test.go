package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// startPostgres starts PostgreSQL on its usual port, with a user and a database of that name, as its container image does.
func startPostgres(t *testing.T, user, password string) {
	t.Helper()
	dir := scratch(t)
	script := root + "/test/postgres.sh"
	start := exec.Command(script, "start", dir)
	start.Env = append(start.Environ(), "POSTGRES_OPTIONS=-c fsync=off -p 5432")
	settings, err := output(start)
	if err != nil && os.Getenv(required) == "required" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("PostgreSQL cannot be had: %v", err)
	}
	t.Cleanup(func() {
		if _, err := output(exec.Command(script, "stop", dir)); err != nil {
			t.Error(err)
		}
	})
	for _, statement := range []string{
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", user, password),
		fmt.Sprintf("CREATE DATABASE %s OWNER %s", user, user),
	} {
		sql := exec.Command("sh", "-c", settings+` PGPORT=5432 PGPASSWORD=$POSTGRES_PASSWORD exec psql -h 127.0.0.1 -U futures -d postgres -c "$1"`, "sh", statement)
		if _, err := output(sql); err != nil {
			t.Fatal(err)
		}
	}
}
