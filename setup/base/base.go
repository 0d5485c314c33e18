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
	baseDir  = ".base" // in the project's folder; ignored by git and, because of its dot, by "./..."
	filesDir = "_files"

	description = "internal/patched_base.go" // in Dendrite's tree; see describe
)

// modulePaths are the modules that are patched. The folder of a module's patches is named after the path's last element.
var modulePaths = []string{"github.com/matrix-org/dendrite", "github.com/matrix-org/gomatrixserverlib"}

// module is a module to patch, in the version that go.mod requires.
type module struct {
	Path, Version, Dir, Sum string

	patches []string // paths relative to setup/base, in the order in which they are applied
	files   []string // whole files to add; paths relative to setup/base
}

func (m *module) name() string { return filepath.Base(m.Path) }

// base is the input from which the patched base is made.
type base struct {
	root    string // the project's folder
	source  string // setup/base below it
	modules []*module
	hash    string // of the whole input
}

// readBase finds the modules in the module cache; the go command downloads them if they are missing.
func readBase(root string) (*base, error) {
	out, err := goCommand(root, append([]string{"mod", "download", "-json"}, modulePaths...)...)
	if err != nil {
		return nil, err
	}
	var modules []*module
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		m := new(module)
		if err := dec.Decode(m); err != nil {
			return nil, fmt.Errorf("go mod download: %w", err)
		}
		modules = append(modules, m)
	}
	return newBase(root, modules)
}

// newBase finds the patches and files for the modules.
func newBase(root string, modules []*module) (*base, error) {
	b := &base{root: root, source: filepath.Join(root, "setup", "base"), modules: modules}
	for _, m := range modules {
		var err error
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
	}
	return b, b.sum()
}

// listFiles lists the regular files in dir/sub and its folders, in order, as paths relative to dir. The list is empty if
// dir/sub does not exist.
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

// sum computes the hash of the input: the modules, the patches, and this program without its tests.
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
		if strings.HasSuffix(file, "_test.go") && !strings.Contains(file, filesDir) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(b.source, file))
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %x\n", filepath.ToSlash(file), sha256.Sum256(data))
	}
	b.hash = hex.EncodeToString(h.Sum(nil))
	return nil
}

// update makes the patched base unless it is up to date.
func (b *base) update() error {
	if b.isUpToDate() {
		return nil
	}
	return b.make()
}

// isUpToDate reports whether the patched base was made from this input.
func (b *base) isUpToDate() bool {
	s, err := b.readStamp()
	if err != nil || s.input != b.hash {
		return false
	}
	work, err := os.ReadFile(filepath.Join(b.root, "go.work"))
	return err == nil && bytes.Equal(work, b.workFile())
}

// make makes the patched base and replaces the old one. It refuses if the old one has edits that are in no patch.
func (b *base) make() error {
	target := filepath.Join(b.root, baseDir)
	edited, err := b.edits()
	if err != nil {
		return err
	}
	if len(edited) > 0 {
		return fmt.Errorf("%s has edits that are in no patch: record them (docs/base.md), or delete %s: %s",
			baseDir, baseDir, strings.Join(edited, ", "))
	}
	next, err := os.MkdirTemp(b.root, baseDir+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(next)
	if err := b.build(next, everyPatch); err != nil {
		return err
	}
	if err := writeStamp(next, b.hash); err != nil {
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

func everyPatch(string) bool { return true }

// build writes the modules to dir and applies the patches for which wanted returns true.
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

// verify compares the module cache with go.sum. The go command checks only what it downloads; it does not notice later
// changes of the cache.
func (m *module) verify() error {
	sum, err := dirhash.HashDir(m.Dir, m.Path+"@"+m.Version, dirhash.Hash1)
	if err != nil {
		return err
	}
	if sum != m.Sum {
		return fmt.Errorf("%s %s in the module cache does not match go.sum (%s instead of %s); run 'go clean -modcache' and try again",
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

// copyFile copies a file. The copy is writable, unlike files in the module cache.
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

// describe adds a generated file with the description of the base, which the server shows. The constant's name tells the
// user what to do if the constant is missing.
func (b *base) describe(dendrite string) error {
	n := 0
	for _, m := range b.modules {
		n += len(m.patches)
	}
	text := fmt.Sprintf("package internal\n\n// PatchedBase_RunMakeOnce describes the patches of Dendrite. Written by setup/base.\n"+
		"const PatchedBase_RunMakeOnce = \"%d patches, %s\"\n", n, b.hash[:12])
	return os.WriteFile(filepath.Join(dendrite, description), []byte(text), 0o644)
}

// patchName splits the name of a patch, as the user has typed it, into module and file name.
func patchName(file string) (m, name string, err error) {
	m, name, ok := strings.Cut(filepath.ToSlash(file), "/")
	if !ok || !strings.HasSuffix(name, ".patch") || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%q is not of the form dendrite/NN-name.patch", file)
	}
	return m, name, nil
}
