package main

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// In a folder that everybody can read, with readable files from an earlier start.
func TestQuickStartIsPrivate(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "notes.txt")
	for _, path := range []string{mine, filepath.Join(dir, "userapi.db"), filepath.Join(dir, "syncapi.db-wal")} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "media"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	p := serve(t, dir)
	token := p.register(dir, "alice")
	p.mustCall(token, "POST", "/_matrix/media/v3/upload", "text", nil)
	p.mustCall(token, "POST", "/_matrix/client/v3/createRoom", map[string]any{}, nil)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // SQLite's files come and go
		}
		if path != mine && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %s", path, info.Mode())
		}
		if d.IsDir() && info.Mode().Perm()&0o077 == 0 {
			return fs.SkipDir // nobody else can enter
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(mine); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("a file that is not the server's: %v, %v", info.Mode(), err)
	}
}

// A web page can send a form or plain text to any server without asking first. It must not create an account with that.
func TestWebPagesCannotRegister(t *testing.T) {
	p := serve(t, t.TempDir(), "-really-enable-open-registration", "-allow-origin", "https://client.example")
	register := func(name, origin, host, kind string) int {
		t.Helper()
		body := `{"username":"` + name + `","password":"password","auth":{"type":"m.login.dummy"}}`
		r, err := http.NewRequestWithContext(t.Context(), "POST", p.url+"/_matrix/client/v3/register", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if host != "" {
			r.Host = host
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "application/json"} {
		if got := register("eve", "https://elsewhere.example", "", kind); got != http.StatusForbidden {
			t.Errorf("%s from elsewhere: %d", kind, got)
		}
		if got := register("eve", "", "rebound.example:8008", kind); got != http.StatusForbidden {
			t.Errorf("%s for another host: %d", kind, got)
		}
	}
	for name, origin := range map[string]string{"alice": "", "bob": "http://localhost:3000", "carol": "https://client.example"} {
		if got := register(name, origin, "", "application/json"); got != http.StatusOK {
			t.Errorf("%s from %q: %d", name, origin, got)
		}
	}
	p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the next line tells
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAllowOriginIsForQuickStarts(t *testing.T) {
	p := run(t, "-config", "dendrite.yaml", "-allow-origin", "https://client.example")
	if code := p.code(); code != 1 || !strings.Contains(p.output.String(), "-allow-origin is for -quickstart") {
		t.Errorf("exit code %d: %s", code, &p.output)
	}
}
