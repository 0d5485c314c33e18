package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

// apply applies a patch to the tree. Other patches may have moved the lines that it changes.
func apply(patch, tree string) error {
	f, err := os.Open(patch)
	if err != nil {
		return err
	}
	defer f.Close()
	files, header, err := gitdiff.Parse(f)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("it changes nothing")
	}
	if strings.TrimSpace(header) == "" {
		return errors.New("it has no header with What, Why, Since and Can go")
	}
	for _, file := range files {
		if file.IsNew || file.IsDelete || file.IsRename || file.OldName != file.NewName {
			return fmt.Errorf("%s: a patch can only change files; put new files into %s", file.NewName, filesDir)
		}
		if len(file.TextFragments) == 0 {
			return fmt.Errorf("%s: it changes nothing", file.NewName)
		}
		name := filepath.Join(tree, filepath.FromSlash(file.NewName))
		old, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := place(file.TextFragments, old); err != nil {
			return fmt.Errorf("%s: %w", file.NewName, err)
		}
		var patched bytes.Buffer
		if err := gitdiff.Apply(&patched, bytes.NewReader(old), file); err != nil {
			return fmt.Errorf("%s: %w", file.NewName, err)
		}
		if err := os.WriteFile(name, patched.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// place finds the position of each fragment in the text and sets it: the position that the fragment names or, if the lines
// have moved, the only position at which the quoted lines occur.
func place(fragments []*gitdiff.TextFragment, text []byte) error {
	lines := bytes.SplitAfter(text, []byte("\n"))
	var moved int64
	for _, f := range fragments {
		var quoted [][]byte
		for _, line := range f.Lines {
			if line.Old() {
				quoted = append(quoted, []byte(line.Line))
			}
		}
		at, err := find(lines, quoted, int(f.OldPosition-1))
		if err != nil {
			return fmt.Errorf("line %d: %w", f.OldPosition, err)
		}
		f.OldPosition = int64(at + 1)
		f.NewPosition = f.OldPosition + moved
		moved += f.NewLines - f.OldLines
	}
	return nil
}

func find(lines, quoted [][]byte, expected int) (int, error) {
	matches := func(at int) bool {
		return at >= 0 && at+len(quoted) <= len(lines) && slices.EqualFunc(lines[at:at+len(quoted)], quoted, bytes.Equal)
	}
	if len(quoted) == 0 || matches(expected) {
		return expected, nil
	}
	found := -1
	for at := range lines {
		if matches(at) && found >= 0 {
			return 0, errors.New("the lines that it quotes are not there, but in several places")
		} else if matches(at) {
			found = at
		}
	}
	if found < 0 {
		return 0, errors.New("the lines that it quotes are not in the file")
	}
	return found, nil
}

// record writes into the patch the difference between .base and a base with all other patches. It keeps the header of the
// patch. It also copies edited files of _files back from .base.
func (b *base) record(file string) error {
	name, _, err := patchName(file)
	if err != nil {
		return err
	}
	without, err := os.MkdirTemp("", "base-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(without)
	if err := b.build(without, func(patch string) bool { return patch != file }); err != nil {
		return err
	}
	// The description of the base is not part of the difference.
	described := filepath.Join("dendrite", description)
	if err := copyFile(filepath.Join(b.root, baseDir, described), filepath.Join(without, described)); err != nil {
		return err
	}
	for _, m := range b.modules {
		for _, f := range m.files {
			rel, _ := filepath.Rel(filepath.Join(m.name(), filesDir), f)
			edited := filepath.Join(b.root, baseDir, m.name(), rel)
			if err := errors.Join(copyFile(edited, filepath.Join(b.source, f)),
				copyFile(edited, filepath.Join(without, m.name(), rel))); err != nil {
				return err
			}
		}
	}
	diff, err := difference(filepath.Join(without, name), filepath.Join(b.root, baseDir, name))
	if err != nil {
		return err
	}
	if len(diff) == 0 {
		return fmt.Errorf("nothing to record: nothing differs from the base without %s", file)
	}
	path := filepath.Join(b.source, filepath.FromSlash(file))
	header := []byte("What: \nWhy: \nSince: \nCan go: \n\n")
	if old, err := os.ReadFile(path); err == nil {
		header, _, _ = bytes.Cut(old, []byte("diff --git "))
	}
	if err := os.WriteFile(path, append(header, diff...), 0o644); err != nil {
		return err
	}
	again, err := newBase(b.root, b.modules) // the patch may be new
	if err != nil {
		return err
	}
	return again.restamp(file)
}

// difference returns the unified diff of two folders. It has one line of context: enough to find moved lines, and as
// little as possible of the module's text.
func difference(from, to string) ([]byte, error) {
	cmd := exec.Command("git", "diff", "--no-index", "--no-color", "--unified=1", "--no-renames", "--diff-algorithm=histogram", from, to)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) { // 1: there are differences
		return nil, fmt.Errorf("git diff: %w", err)
	}
	var diff bytes.Buffer
	for line := range bytes.Lines(out) {
		for _, prefix := range []string{"diff --git ", "--- ", "+++ "} {
			if bytes.HasPrefix(line, []byte(prefix)) {
				line = bytes.ReplaceAll(line, []byte(from+"/"), []byte("/"))
				line = bytes.ReplaceAll(line, []byte(to+"/"), []byte("/"))
				line = bytes.ReplaceAll(line, []byte("a//"), []byte("a/"))
				line = bytes.ReplaceAll(line, []byte("b//"), []byte("b/"))
			}
		}
		if !bytes.HasPrefix(line, []byte("index ")) {
			// The text after a hunk's position is only a quote from the module.
			if bytes.HasPrefix(line, []byte("@@ ")) {
				position, _, _ := bytes.Cut(line[3:], []byte(" @@"))
				line = fmt.Appendf(nil, "@@ %s @@\n", position)
			}
			diff.Write(line)
		}
	}
	return diff.Bytes(), nil
}
