package setup

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/setup/config"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

func quickStart(t *testing.T, dir string) (path string, cfg *config.Dendrite, futures *fconfig.FutureServer) {
	t.Helper()
	path, _, err := QuickStart(dir)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err = config.Load(path); err != nil {
		t.Fatal(err)
	}
	if futures, _, err = fconfig.Load(path); err != nil {
		t.Fatal(err)
	}
	if err := verify(cfg, futures); err != nil {
		t.Fatal(err)
	}
	return path, cfg, futures
}

// In any folder, with any characters in its name.
func TestQuickStartKeepsAllInItsFolder(t *testing.T) {
	for _, name := range []string{"data", `odd "name" 50% #1 ?x: {{y}} 'z' \`} {
		dir := filepath.Join(t.TempDir(), name)
		_, cfg, futures := quickStart(t, dir)
		if cfg.Global.ServerName != "localhost" || !futures.Enabled || !futures.SQLiteWAL || !cfg.ClientAPI.RegistrationDisabled {
			t.Errorf("%+v", futures)
		}
		for _, db := range append(databases(cfg)[1:], &futures.Database) {
			if want := fconfig.FileDataSource(dir); !strings.HasPrefix(string(db.ConnectionString), string(want)+"/") {
				t.Errorf("%s is not in %s", db.ConnectionString, want)
			}
		}
		for _, path := range []config.Path{cfg.Global.PrivateKeyPath, cfg.Global.JetStream.StoragePath + "/", cfg.MediaAPI.BasePath, cfg.SyncAPI.Fulltext.IndexPath} {
			if !strings.HasPrefix(string(path), dir+"/") {
				t.Errorf("%s is not in %s", path, dir)
			}
		}
	}
}

func TestQuickStartSecretsAreSecret(t *testing.T) {
	dir := t.TempDir()
	_, cfg, _ := quickStart(t, dir)
	_, other, _ := quickStart(t, t.TempDir())
	known := &config.Dendrite{}
	known.Defaults(config.DefaultOpts{Generate: true})
	if cfg.Global.PrivateKey.Equal(known.Global.PrivateKey) || cfg.Global.PrivateKey.Equal(other.Global.PrivateKey) {
		t.Error("the signing key is not random")
	}
	if s := cfg.ClientAPI.RegistrationSharedSecret; len(s) < 32 || s == other.ClientAPI.RegistrationSharedSecret {
		t.Errorf("the shared secret is %q", s)
	}
	data, err := os.ReadFile(filepath.Join(dir, "matrix_key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	seed := base64.RawURLEncoding.EncodeToString(block.Bytes)
	if id := strings.TrimPrefix(block.Headers["Key-ID"], "ed25519:"); strings.HasPrefix(seed, id[:3]) {
		t.Error("the key ID, which is public, is the start of the seed")
	}
	for _, name := range []string{"matrix_key.pem", "dendrite.yaml"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestQuickStartOverwritesNothing(t *testing.T) {
	dir := t.TempDir()
	path, _, _ := quickStart(t, dir)
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, created, err := QuickStart(dir)
	if text, _ := os.ReadFile(path); again != path || created || err != nil || string(text) != "mine" {
		t.Errorf("%v, %v; the file holds %q", created, err, text)
	}
}

// After a crash between the key and the configuration the key is kept, and the rest is added.
func TestQuickStartGoesOnAfterACrash(t *testing.T) {
	dir := t.TempDir()
	path, before, _ := quickStart(t, dir)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, after, _ := quickStart(t, dir)
	if !after.Global.PrivateKey.Equal(before.Global.PrivateKey) || after.Global.KeyID != before.Global.KeyID {
		t.Error("the signing key has changed")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestQuickStartFailsCleanly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := QuickStart(filepath.Join(file, "data")); err == nil {
		t.Error("no error for a folder inside a file")
	}
}

func TestQuickStartResolvesARelativeFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	path, _, err := QuickStart("data")
	if err != nil || !filepath.IsAbs(path) {
		t.Errorf("%s, %v", path, err)
	}
	text, err := os.ReadFile(path)
	if err != nil || bytes.Contains(text, []byte("file:data")) {
		t.Errorf("the paths depend on the working directory: %v\n%s", err, text)
	}
}

func TestWelcomeCanBePastedIntoAShell(t *testing.T) {
	text := Welcome("http://127.0.0.1:8008", "/srv/it's here/dendrite.yaml", "/opt/my tools")
	for line := range strings.Lines(text) {
		if _, command, ok := strings.Cut(line, "Create an account:"); ok {
			out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf '%s\n' "+command).Output()
			if err != nil || !strings.HasPrefix(string(out), "/opt/my tools/create-account\n-config\n/srv/it's here/dendrite.yaml\n-url\n") {
				t.Errorf("%v: %s", err, out)
			}
			return
		}
	}
	t.Errorf("no command in %s", text)
}
