package setup

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"
)

func journalMode(t *testing.T, path string) (mode string) {
	t.Helper()
	db, err := sql.Open(sqlutil.SQLITE_DRIVER_NAME, path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil {
		t.Fatal(err)
	}
	return mode
}

func TestEnableWALReachesEveryFile(t *testing.T) {
	dir := t.TempDir()
	_, cfg, _ := quickStart(t, dir)
	old := filepath.Join(dir, "roomserver.db") // one exists already, in the old mode
	db, err := sql.Open(sqlutil.SQLITE_DRIVER_NAME, old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE kept (x)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if mode := journalMode(t, old); mode == "wal" {
		t.Fatal("the test tests nothing")
	}
	if err := enableWAL(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, db := range databases(cfg)[1:] {
		path, err := sqlutil.ParseFileURI(db.ConnectionString)
		if err != nil {
			t.Fatal(err)
		}
		if mode := journalMode(t, path); mode != "wal" {
			t.Errorf("%s: %s", path, mode)
		}
		files++
	}
	if files != 8 {
		t.Errorf("%d files", files)
	}
}

func TestEnableWALNamesWhatFails(t *testing.T) {
	cfg := &config.Dendrite{}
	cfg.Global.DatabaseOptions.ConnectionString = "postgres://nobody"
	if err := enableWAL(t.Context(), cfg); err != nil {
		t.Errorf("PostgreSQL has no such file: %v", err)
	}
	cfg.SyncAPI.Database.ConnectionString = "file:/nowhere/sync.db"
	if err := enableWAL(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "/nowhere/sync.db") {
		t.Errorf("got %v", err)
	}
}

func TestLockStorageKeepsTheSecondOut(t *testing.T) {
	cfg := &config.Dendrite{}
	cfg.Global.JetStream.StoragePath = config.Path(filepath.Join(t.TempDir(), "new"))
	unlock, err := lockStorage(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockStorage(cfg); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("got %v", err)
	}
	unlock()
	unlock, err = lockStorage(cfg)
	if err != nil {
		t.Fatal(err)
	}
	unlock()

	elsewhere := &config.Dendrite{}
	elsewhere.Global.JetStream.StoragePath = config.Path(filepath.Join(t.TempDir(), "unused"))
	elsewhere.Global.JetStream.Addresses = []string{"nats://127.0.0.1:4222"}
	if _, err := lockStorage(elsewhere); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(string(elsewhere.Global.JetStream.StoragePath)); err == nil {
		t.Error("an external NATS needs no folder")
	}
}
