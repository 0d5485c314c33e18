package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"
)

const (
	baseDir  = ".base" // in the project's folder, ignored by git and, for its dot, by "./..."
	filesDir = "_files"

	description = "internal/patched_base.go" // in Dendrite's tree; see describe
)

// modulePaths are the modules that are patched. Their patches lie in folders named after the last element.
var modulePaths = []string{"github.com/matrix-org/dendrite", "github.com/matrix-org/gomatrixserverlib"}

// module is one module to patch, as go.mod and the module cache have it.
type module struct {
	Path, Version, Dir, Sum string

	patches []string // their paths from setup/base, in the order of application
	files   []string // whole files to add, likewise
}

func (m *module) name() string { return filepath.Base(m.Path) }

// base is all that decides about the patched base.
type base struct {
	root    string // the project's folder
	source  string // setup/base below it
	modules []*module
	hash    string // of all input
}

// readBase reads which modules there are, and verifies that the module cache has what go.sum promises.
func readBase(root string) (*base, error) {
	b := &base{root: root, source: filepath.Join(root, "setup", "base")}
	out, err := goCommand(root, append([]string{"mod", "download", "-json"}, modulePaths...)...)
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		m := new(module)
		if err := dec.Decode(m); err != nil {
			return nil, fmt.Errorf("go mod download: %w", err)
		}
		if m.patches, err = filepath.Glob(filepath.Join(b.source, m.name(), "*.patch")); err != nil {
			return nil, err
		}
		slices.Sort(m.patches)
		for i, path := range m.patches {
			m.patches[i] = filepath.Join(m.name(), filepath.Base(path))
		}
		if m.files, err = listFiles(b.source, filepath.Join(m.name(), filesDir)); err != nil {
			return nil, err
		}
		b.modules = append(b.modules, m)
	}
	return b, b.sum()
}

// listFiles lists the regular files below dir/sub, in order, by their paths from dir. There need not be a sub.
func listFiles(dir, sub string) (files []string, err error) {
	err = filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files = append(files, rel)
		return err
	})
	if os.IsNotExist(err) {
		return nil, nil
	}
	return files, err
}

// sum computes the hash of all input: the modules, the patches and this program.
func (b *base) sum() error {
	h := sha256.New()
	for _, m := range b.modules {
		fmt.Fprintln(h, m.Path, m.Version, m.Sum)
	}
	files, err := listFiles(b.source, ".")
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(b.source, file))
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %x\n", filepath.ToSlash(file), sha256.Sum256(data))
	}
	b.hash = hex.EncodeToString(h.Sum(nil))
	return nil
}

func (b *base) stamp() string { return filepath.Join(b.root, baseDir, "stamp") }

// isUpToDate reports whether the patched base was made from this very input.
func (b *base) isUpToDate() bool {
	stamp, err := os.ReadFile(b.stamp())
	if err != nil || string(stamp) != b.hash {
		return false
	}
	work, err := os.ReadFile(filepath.Join(b.root, "go.work"))
	return err == nil && bytes.Equal(work, b.workFile())
}

// make makes the patched base anew.
func (b *base) make() error {
	target := filepath.Join(b.root, baseDir)
	next, err := os.MkdirTemp(b.root, baseDir+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(next)
	if err := b.build(next, func(string) bool { return true }); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(next, "stamp"), []byte(b.hash), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(next, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	if err := os.Rename(next, target); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.root, "go.work"), b.workFile(), 0o644)
}

func (b *base) workFile() []byte {
	var w bytes.Buffer
	w.WriteString("// Written by setup/base; \"make\" keeps it up to date. See docs/base.md.\n\ngo 1.26.0\n\nuse .\n\nreplace (\n")
	for _, m := range b.modules {
		fmt.Fprintf(&w, "\t%s %s => ./%s/%s\n", m.Path, m.Version, baseDir, m.name())
	}
	w.WriteString(")\n")
	return w.Bytes()
}

// build writes the modules into dir, with those of the patches that are wanted.
func (b *base) build(dir string, wanted func(patch string) bool) error {
	for _, m := range b.modules {
		if err := m.verify(); err != nil {
			return err
		}
		tree := filepath.Join(dir, m.name())
		if err := m.copy(tree); err != nil {
			return err
		}
		for _, file := range m.files {
			rel, _ := filepath.Rel(filepath.Join(m.name(), filesDir), file)
			if err := copyFile(filepath.Join(b.source, file), filepath.Join(tree, rel)); err != nil {
				return err
			}
		}
		for _, patch := range m.patches {
			if !wanted(patch) {
				continue
			}
			if err := apply(filepath.Join(b.source, patch), tree); err != nil {
				return fmt.Errorf("%s does not fit %s %s: %w", patch, m.Path, m.Version, err)
			}
		}
	}
	return b.describe(filepath.Join(dir, "dendrite"))
}

// verify compares the module cache with go.sum. The go command does that with what it downloads, but not with
// what somebody has changed since.
func (m *module) verify() error {
	sum, err := dirhash.HashDir(m.Dir, m.Path+"@"+m.Version, dirhash.Hash1)
	if err != nil {
		return err
	}
	if sum != m.Sum {
		return fmt.Errorf("the module cache has another %s %s than go.sum (%s instead of %s); 'go clean -modcache' and try again",
			m.Path, m.Version, sum, m.Sum)
	}
	return nil
}

func (m *module) copy(target string) error {
	files, err := listFiles(m.Dir, ".")
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := copyFile(filepath.Join(m.Dir, file), filepath.Join(target, file)); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file as one that can be written, whatever the module cache's bits are.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// describe adds the one file that is not written by hand: what the server says of its base, under a name whose
// absence tells what to do.
func (b *base) describe(dendrite string) error {
	n := 0
	for _, m := range b.modules {
		n += len(m.patches)
	}
	text := fmt.Sprintf("package internal\n\n// PatchedBase_RunMakeOnce says what Dendrite was patched with. Written by setup/base.\n"+
		"const PatchedBase_RunMakeOnce = \"%d patches, %s\"\n", n, b.hash[:12])
	return os.WriteFile(filepath.Join(dendrite, description), []byte(text), 0o644)
}

// patchName checks a patch's name as the user has typed it.
func patchName(file string) (m, name string, err error) {
	m, name, ok := strings.Cut(filepath.ToSlash(file), "/")
	if !ok || !strings.HasSuffix(name, ".patch") || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%q is not of the form dendrite/NN-name.patch", file)
	}
	return m, name, nil
}
