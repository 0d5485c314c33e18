package main

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/dirhash"
)

// project is a folder like this project's, with two small modules to patch.
type project struct {
	*testing.T
	root    string
	modules []*module
}

const (
	header  = "What: a test.\nWhy: \nSince: \nCan go: \n\n"
	library = "package lib\n\nvar A = 1\n\nvar B = 1\n\nvar C = 1\n"
)

// patched returns a patch that gives a variable of lib.go another value.
func patched(line, name, from, to string) string {
	lines, after := "3", " \n"
	if name == "C" { // the last line
		lines, after = "2", ""
	}
	return header + "diff --git a/lib.go b/lib.go\n--- a/lib.go\n+++ b/lib.go\n@@ -" + line + "," + lines + " +" + line + "," + lines + " @@\n \n" +
		"-var " + name + " = " + from + "\n+var " + name + " = " + to + "\n" + after
}

func newProject(t *testing.T) *project {
	t.Helper()
	p := &project{T: t, root: t.TempDir()}
	cache := t.TempDir()
	for _, name := range []string{"dendrite", "gomatrixserverlib"} {
		m := &module{Path: "example.org/" + name, Version: "v1.2.3", Dir: filepath.Join(cache, name+"@v1.2.3")}
		p.write(filepath.Join(m.Dir, "lib.go"), library)
		p.write(filepath.Join(m.Dir, "internal", "x.go"), "package internal\n")
		p.modules = append(p.modules, m)
		p.sum(m)
	}
	p.patch("gomatrixserverlib/10-b.patch", patched("4", "B", "1", "2"))
	p.patch("gomatrixserverlib/20-b-again.patch", patched("4", "B", "2", "3"))
	p.patch("gomatrixserverlib/30-c.patch", patched("6", "C", "1", "2"))
	p.patch("gomatrixserverlib/_files/new/file.go", "package new\n")
	p.patch("dendrite/10-c.patch", patched("6", "C", "1", "9"))
	return p
}

func (p *project) write(path, text string) {
	p.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.Fatal(err)
	}
}

func (p *project) sum(m *module) {
	p.Helper()
	var err error
	if m.Sum, err = dirhash.HashDir(m.Dir, m.Path+"@"+m.Version, dirhash.Hash1); err != nil {
		p.Fatal(err)
	}
}

func (p *project) patch(name, text string) {
	p.write(filepath.Join(p.root, "setup", "base", name), text)
}
func (p *project) made(name string) string { return filepath.Join(p.root, baseDir, name) }

func (p *project) read(path string) string {
	p.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		p.Fatal(err)
	}
	return string(data)
}

func (p *project) base() *base {
	p.Helper()
	b, err := newBase(p.root, p.modules)
	if err != nil {
		p.Fatal(err)
	}
	return b
}

func (p *project) make() {
	p.Helper()
	if err := p.base().update(); err != nil {
		p.Fatal(err)
	}
}

func (p *project) wantError(err error, parts ...string) {
	p.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			p.Fatalf("the error is %v, without %q", err, part)
		}
	}
}

// tree returns the mode and content of every file in a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		all[path] = info.Mode().String() + string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMake(t *testing.T) {
	p := newProject(t)
	p.make()
	want := strings.NewReplacer("B = 1", "B = 3", "C = 1", "C = 2").Replace(library)
	if got := p.read(p.made("gomatrixserverlib/lib.go")); got != want {
		t.Errorf("patched to %s", got)
	}
	if got := p.read(p.made("gomatrixserverlib/new/file.go")); got != "package new\n" {
		t.Errorf("added as %s", got)
	}
	if got := p.read(p.made("dendrite/" + description)); !strings.Contains(got, `"4 patches, `) {
		t.Errorf("described as %s", got)
	}
	work := p.read(filepath.Join(p.root, "go.work"))
	if !strings.Contains(work, "example.org/dendrite v1.2.3 => ./.base/dendrite\n") {
		t.Errorf("go.work is %s", work)
	}
	if got := p.read(filepath.Join(p.modules[1].Dir, "lib.go")); got != library {
		t.Errorf("the module cache was changed to %s", got)
	}
	first := tree(t, p.made(""))
	if err := os.RemoveAll(p.made("")); err != nil {
		t.Fatal(err)
	}
	p.make()
	if again := tree(t, p.made("")); !maps.Equal(first, again) {
		t.Error("made twice, it differs")
	}
	if left, err := filepath.Glob(filepath.Join(p.root, baseDir+"-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestUpToDate(t *testing.T) {
	p := newProject(t)
	p.make()
	long := time.Now().Add(-time.Hour)
	mark := func() {
		t.Helper()
		if err := os.Chtimes(p.made(stampFile), long, long); err != nil {
			t.Fatal(err)
		}
	}
	wantMade := func(want bool, what string) {
		t.Helper()
		p.make()
		info, err := os.Stat(p.made(stampFile))
		if err != nil {
			t.Fatal(err)
		}
		if made := time.Since(info.ModTime()) < time.Minute; made != want {
			t.Errorf("%s: made anew is %v", what, made)
		}
		mark()
	}
	mark()
	wantMade(false, "unchanged")
	p.patch("base_test.go", "package main\n")
	wantMade(false, "a test of setup/base")
	p.patch("base.go", "package main\n")
	wantMade(true, "setup/base")
	p.patch("gomatrixserverlib/_files/new/file.go", "package new // changed\n")
	wantMade(true, "a file")
	p.patch("gomatrixserverlib/40-a.patch", patched("2", "A", "1", "5"))
	wantMade(true, "another patch")
	p.write(filepath.Join(p.root, "go.work"), "go 1.26\n")
	wantMade(true, "go.work")
	p.modules[0].Version = "v1.2.4"
	p.sum(p.modules[0])
	wantMade(true, "another version")
	if err := os.RemoveAll(p.made("")); err != nil {
		t.Fatal(err)
	}
	wantMade(true, "deleted")
}

func TestPatchDoesNotFit(t *testing.T) {
	for what, c := range map[string]struct{ text, say string }{
		"another line":    {patched("4", "B", "7", "8"), "lib.go"},
		"twice there":     {header + "diff --git a/lib.go b/lib.go\n--- a/lib.go\n+++ b/lib.go\n@@ -1 +1,2 @@\n \n+\n", "several places"},
		"another file":    {strings.ReplaceAll(patched("4", "B", "3", "8"), "lib.go", "other.go"), "other.go"},
		"no patch":        {header, "it changes nothing"},
		"no header":       {strings.TrimPrefix(patched("4", "B", "3", "8"), header), "no header"},
		"adds a file":     {header + "diff --git a/n.go b/n.go\nnew file mode 100644\n--- /dev/null\n+++ b/n.go\n@@ -0,0 +1 @@\n+package n\n", "_files"},
		"deletes a file":  {header + "diff --git a/lib.go b/lib.go\ndeleted file mode 100644\n--- a/lib.go\n+++ /dev/null\n@@ -1 +0,0 @@\n-package lib\n", "_files"},
		"is no patch":     {header + "diff --git a/lib.go b/lib.go\n--- a/lib.go\n+++ b/lib.go\n@@ nonsense\n", "25-bad.patch"},
		"another version": {"", ""},
	} {
		t.Run(what, func(t *testing.T) {
			p := newProject(t)
			p.make()
			before := tree(t, p.made(""))
			name := "25-bad.patch"
			if c.text == "" {
				name, c.say = "10-b.patch", "v1.2.4"
				p.modules[1].Version = "v1.2.4"
				p.write(filepath.Join(p.modules[1].Dir, "lib.go"), "package lib\n")
				p.sum(p.modules[1])
			} else {
				p.patch("gomatrixserverlib/"+name, c.text)
			}
			p.wantError(p.base().update(), "gomatrixserverlib/"+name+" does not fit", c.say)
			if !maps.Equal(before, tree(t, p.made(""))) {
				t.Error("the old base has changed")
			}
		})
	}
}

func TestChangedModuleCache(t *testing.T) {
	for what, change := range map[string]func(dir string) error{
		"changed": func(dir string) error { return os.WriteFile(filepath.Join(dir, "internal", "x.go"), nil, 0o644) },
		"added":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "y.go"), nil, 0o644) },
		"deleted": func(dir string) error { return os.Remove(filepath.Join(dir, "internal", "x.go")) },
		"gone":    os.RemoveAll,
	} {
		t.Run(what, func(t *testing.T) {
			p := newProject(t)
			if err := change(p.modules[1].Dir); err != nil {
				t.Fatal(err)
			}
			err := p.base().update()
			if what == "gone" {
				p.wantError(err, "gomatrixserverlib@v1.2.3")
				return
			}
			p.wantError(err, "gomatrixserverlib v1.2.3", "go clean -modcache")
		})
	}
}

// Edits in .base are not lost.
func TestEditsAreKept(t *testing.T) {
	edit := func(p *project, name, text string) { p.write(p.made(name), text) }
	for what, do := range map[string]func(p *project) string{
		"changed": func(p *project) string { edit(p, "dendrite/lib.go", "package edited\n"); return "dendrite/lib.go" },
		"added":   func(p *project) string { edit(p, "dendrite/n.go", ""); return "dendrite/n.go" },
		"deleted": func(p *project) string {
			if err := os.Remove(p.made("gomatrixserverlib/new/file.go")); err != nil {
				p.Fatal(err)
			}
			return "gomatrixserverlib/new/file.go"
		},
	} {
		t.Run(what, func(t *testing.T) {
			p := newProject(t)
			p.make()
			file := do(p)
			p.make() // the input has not changed, so the base with the edits stays
			p.patch("dendrite/20-a.patch", patched("2", "A", "1", "5"))
			edited := tree(t, p.made(""))
			p.wantError(p.base().update(), "edits that are in no patch", "docs/base.md", ": "+file)
			if !maps.Equal(edited, tree(t, p.made(""))) {
				t.Error("the edits are gone")
			}
			if err := os.RemoveAll(p.made("")); err != nil {
				t.Fatal(err)
			}
			p.make()
		})
	}
}

// A base of an earlier version, whose stamp has no hashes, is replaced.
func TestOldStamp(t *testing.T) {
	p := newProject(t)
	p.write(p.made("stamp"), "0123")
	p.write(p.made("dendrite/lib.go"), "package edited\n")
	p.make()
}

func TestRecord(t *testing.T) {
	const name = "gomatrixserverlib/20-b-again.patch"
	p := newProject(t)
	path := filepath.Join(p.root, "setup", "base", name)
	before := p.read(path)
	p.make()
	if err := p.base().record(name); err != nil {
		t.Fatal(err)
	}
	if after := p.read(path); after != before {
		t.Errorf("unchanged, it is recorded as\n%s", after)
	}
	p.write(p.made("gomatrixserverlib/lib.go"), strings.NewReplacer("B = 1", "B = 33", "A = 1", "A = 11", "C = 1", "C = 2").Replace(library))
	p.write(p.made("gomatrixserverlib/new/file.go"), "package new // better\n")
	if err := p.base().record(name); err != nil {
		t.Fatal(err)
	}
	if got := p.read(filepath.Join(p.root, "setup", "base", "gomatrixserverlib/_files/new/file.go")); got != "package new // better\n" {
		t.Errorf("the file is recorded as %s", got)
	}
	p.make() // the edits are recorded, so this replaces the base
	want := strings.NewReplacer("A = 1", "A = 11", "B = 1", "B = 33", "C = 1", "C = 2").Replace(library)
	if got := p.read(p.made("gomatrixserverlib/lib.go")); got != want {
		t.Errorf("made from what was recorded: %s", got)
	}
}

func TestRecordNewPatch(t *testing.T) {
	p := newProject(t)
	p.make()
	p.write(p.made("dendrite/lib.go"), strings.NewReplacer("C = 1", "C = 9", "A = 1", "A = 7").Replace(library))
	p.write(p.made("dendrite/n.go"), "package lib\n")
	p.wantError(p.base().record("dendrite/30-a.patch"), "_files")
	if err := os.Remove(p.made("dendrite/n.go")); err != nil {
		t.Fatal(err)
	}
	if err := p.base().record("dendrite/30-a.patch"); err != nil {
		t.Fatal(err)
	}
	if got := p.read(filepath.Join(p.root, "setup/base/dendrite/30-a.patch")); got != strings.Replace(patched("2", "A", "1", "7"), "a test.", "", 1) &&
		!strings.HasPrefix(got, "What: \nWhy: \nSince: \nCan go: \n\ndiff --git a/lib.go b/lib.go\n") {
		t.Errorf("recorded as\n%s", got)
	}
	p.make()
	p.wantError(p.base().record("dendrite/40-nothing.patch"), "nothing differs")
	for _, bad := range []string{"x.patch", "dendrite/x.diff", "dendrite/x/y.patch", "../x"} {
		p.wantError(p.base().record(bad), "not of the form")
	}
}

// A patch of one module does not record edits of the other.
func TestRecordLeavesNothingOut(t *testing.T) {
	p := newProject(t)
	p.make()
	p.write(p.made("dendrite/lib.go"), "package lib\n")
	p.wantError(p.base().record("gomatrixserverlib/30-c.patch"), "these edits are not in it: dendrite/lib.go")
	p.patch("dendrite/20-a.patch", patched("2", "A", "1", "5"))
	p.wantError(p.base().update(), "dendrite/lib.go")
}

// realBase is this project's base, to be made in another folder.
func realBase(t *testing.T) *base {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	b, err := readBase(root)
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	if err := os.CopyFS(filepath.Join(temp, "setup", "base"), os.DirFS(b.source)); err != nil {
		t.Fatal(err)
	}
	if b, err = newBase(temp, b.modules); err != nil {
		t.Fatal(err)
	}
	return b
}

// positions matches the line numbers of a patch's fragments. Other patches change them.
var positions = regexp.MustCompile(`(?m)^@@ .*`)

// Each of the project's patches has the four lines at its top, and recording it gives the same patch, except for line
// numbers.
func TestOurPatches(t *testing.T) {
	b := realBase(t)
	for _, m := range b.modules {
		without, with := filepath.Join(t.TempDir(), m.name()), filepath.Join(t.TempDir(), m.name())
		for _, dir := range []string{without, with} {
			if err := m.copy(dir); err != nil {
				t.Fatal(err)
			}
		}
		for _, patch := range m.patches {
			path := filepath.Join(b.source, patch)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			head, body, _ := bytes.Cut(data, []byte("diff --git "))
			for _, part := range []string{"What: ", "Why: ", "Since: ", "Can go: "} {
				if at := bytes.Index(head, []byte(part)); at < 0 || bytes.HasPrefix(head[at+len(part):], []byte("\n")) {
					t.Errorf("%s does not say %q", patch, part)
				}
			}
			if err := apply(path, with); err != nil {
				t.Fatalf("%s: %v", patch, err)
			}
			diff, err := difference(without, with)
			if got, want := positions.ReplaceAll(diff, nil), positions.ReplaceAll(append([]byte("diff --git "), body...), nil); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is recorded as\n%s%v", patch, diff, err)
			}
			if err := apply(path, without); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Making the real base twice gives the same files, and recording a patch without edits does not change it.
func TestOurBase(t *testing.T) {
	b := realBase(t)
	if err := b.update(); err != nil {
		t.Fatal(err)
	}
	made := tree(t, filepath.Join(b.root, baseDir))
	last := b.modules[len(b.modules)-1].patches
	patch := last[len(last)-1]
	before, err := os.ReadFile(filepath.Join(b.source, patch))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.record(patch); err != nil {
		t.Fatal(err)
	}
	once, err := os.ReadFile(filepath.Join(b.source, patch))
	if err != nil || !bytes.Equal(positions.ReplaceAll(before, nil), positions.ReplaceAll(once, nil)) {
		t.Errorf("%s is recorded as\n%s", patch, once)
	}
	if b, err = newBase(b.root, b.modules); err != nil {
		t.Fatal(err)
	}
	if err := b.record(patch); err != nil {
		t.Fatal(err)
	}
	if twice, err := os.ReadFile(filepath.Join(b.source, patch)); err != nil || !bytes.Equal(once, twice) {
		t.Errorf("%s is recorded the second time as\n%s", patch, twice)
	}
	if b, err = newBase(b.root, b.modules); err != nil {
		t.Fatal(err)
	}
	if err := b.update(); err != nil {
		t.Fatal(err)
	}
	again := tree(t, filepath.Join(b.root, baseDir))
	for _, all := range []map[string]string{made, again} { // the patch's line numbers may change the hash of the input
		delete(all, stampFile)
		delete(all, "dendrite/"+description)
	}
	if !maps.Equal(made, again) {
		t.Error("made twice, it differs")
	}
}
