package setup

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/template"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

//go:embed quickstart.yaml.tmpl
var quickStartYAML string

// QuickStart makes dir a homeserver's folder with configuration, signing key, secrets, and places for everything else,
// readable only by their owner. It returns the path of the configuration, and whether it has created it. It uses what
// exists and never changes it. The configuration is written last, and atomically, so after a crash the next call
// completes the folder.
func QuickStart(dir string) (configPath string, created bool, err error) {
	if dir, err = filepath.Abs(dir); err != nil { // independent of the working directory, now and later
		return "", false, err
	}
	configPath = filepath.Join(dir, "dendrite.yaml")
	if there, err := exists(configPath); there || err != nil {
		return configPath, false, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", false, err
	}
	keyPath := filepath.Join(dir, "matrix_key.pem")
	there, err := exists(keyPath)
	if err == nil && !there {
		err = writeFile(keyPath, newSigningKey())
	}
	if err != nil {
		return "", false, err
	}
	text, err := quickStartConfig(dir, keyPath)
	if err != nil {
		return "", false, err
	}
	return configPath, true, writeFile(configPath, text)
}

// PrivateQuickStart is QuickStart for a process that does nothing else. Others cannot read the files that the process
// creates from now on, and files in dir that an earlier start has left readable become private. The mode of the folder
// itself stays, because it may be a home directory.
func PrivateQuickStart(dir string) (configPath string, err error) {
	private()
	if configPath, _, err = QuickStart(dir); err != nil {
		return "", err
	}
	folder := filepath.Dir(configPath)
	for _, pattern := range quickStartFiles() {
		names, err := fs.Glob(os.DirFS(folder), pattern)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if err := closeToOthers(filepath.Join(folder, name)); err != nil {
				return "", err
			}
		}
	}
	return configPath, nil
}

// quickStartFiles returns all files that a server with the quick start's configuration writes.
func quickStartFiles() []string {
	return []string{"dendrite.yaml", "*.pem", "*.db", "*.db-*", "*.lock", "*.tmp", "jetstream", "media", "searchindex"}
}

// closeToOthers makes a file, or a folder and so its contents, private to its owner.
func closeToOthers(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !info.IsDir() && !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	return os.Chmod(path, info.Mode().Perm()&^0o077)
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, err
}

// newSigningKey returns a PEM file in Dendrite's format. The key ID is public, so it must not depend on the seed.
func newSigningKey() []byte {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return pem.EncodeToMemory(&pem.Block{
		Type:    "MATRIX PRIVATE KEY",
		Headers: map[string]string{"Key-ID": "ed25519:" + rand.Text()[:6]},
		Bytes:   seed,
	})
}

func quickStartConfig(dir, keyPath string) ([]byte, error) {
	secret := make([]byte, 32)
	rand.Read(secret)
	// A JSON string is a valid YAML string, whatever characters the path contains.
	quote := func(s string) (string, error) {
		text, err := json.Marshal(s)
		return string(text), err
	}
	tmpl, err := template.New("dendrite.yaml").Funcs(template.FuncMap{
		"path": func(name string) (string, error) { return quote(filepath.Join(dir, name)) },
		"db": func(name string) (string, error) {
			return quote(string(fconfig.FileDataSource(filepath.Join(dir, name))))
		},
	}).Parse(quickStartYAML)
	if err != nil {
		return nil, err
	}
	key, err := quote(keyPath)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = tmpl.Execute(&out, map[string]string{"Key": key, "Secret": hex.EncodeToString(secret)})
	return out.Bytes(), err
}

// writeFile creates a file atomically, even if the machine crashes meanwhile.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory durable, if the system can.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}

// Welcome tells a new user what to do with the server that QuickStart has set up. tools is the folder of the running
// program, which also has create-account.
func Welcome(url, configPath, tools string) string {
	return fmt.Sprintf(`
Your homeserver is running at %[1]s

  Create an account:   %[2]s -config %[3]s -url %[1]s -username alice -admin
  Log in:              with any Matrix client on this machine: homeserver %[1]s, user alice
                       (Element: choose "Edit" beside the homeserver on its sign-in page;
                       for one in the browser, start with -allow-origin https://app.element.io)
  Configuration, data: %[4]s
  Stop:                Ctrl+C

`, url, quoteArg(filepath.Join(tools, "create-account")), quoteArg(configPath), filepath.Dir(configPath))
}

// quoteArg quotes a command's argument for the shell if necessary.
func quoteArg(s string) string {
	for _, r := range s {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '/' || r == '.' || r == '-' || r == '_') {
			return "'" + string(bytes.ReplaceAll([]byte(s), []byte("'"), []byte(`'\''`))) + "'"
		}
	}
	return s
}
