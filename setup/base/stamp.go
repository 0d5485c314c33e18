package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const stampFile = "stamp"

// stamp is stored in the patched base. It holds the hash of the input and the hash of each file, so that later edits are
// noticed.
type stamp struct {
	input string
	files map[string]string
}

func (b *base) readStamp() (stamp, error) {
	data, err := os.ReadFile(filepath.Join(b.root, baseDir, stampFile))
	if err != nil {
		return stamp{}, err
	}
	input, rest, _ := strings.Cut(string(data), "\n")
	s := stamp{input: input}
	for line := range strings.Lines(rest) {
		if sum, file, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			if s.files == nil {
				s.files = make(map[string]string)
			}
			s.files[file] = sum
		}
	}
	return s, nil
}

// writeStamp writes the stamp of the patched base in dir.
func writeStamp(dir, input string) error {
	sums, err := hashFiles(dir)
	if err != nil {
		return err
	}
	var data bytes.Buffer
	fmt.Fprintln(&data, input)
	for _, file := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintln(&data, sums[file], file)
	}
	return os.WriteFile(filepath.Join(dir, stampFile), data.Bytes(), 0o644)
}

// hashFiles hashes the files of a patched base, except the stamp and the description.
func hashFiles(dir string) (map[string]string, error) {
	files, err := listFiles(dir, ".")
	if err != nil {
		return nil, err
	}
	sums := make(map[string]string, len(files))
	for _, file := range files {
		name := filepath.ToSlash(file)
		if name == stampFile || name == "dendrite/"+description {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		sums[name] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return sums, nil
}

// edits lists the files of the patched base that have changed since it was made. Without a stamp the list is empty.
func (b *base) edits() ([]string, error) {
	made, err := b.readStamp()
	if os.IsNotExist(err) || err == nil && made.files == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now, err := hashFiles(filepath.Join(b.root, baseDir))
	if err != nil {
		return nil, err
	}
	return differing(made.files, now), nil
}

func differing(a, b map[string]string) (files []string) {
	for file, sum := range a {
		if b[file] != sum {
			files = append(files, file)
		}
	}
	for file := range b {
		if _, ok := a[file]; !ok {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

// restamp writes a new stamp after a patch was recorded. It returns an error if .base has edits that are still in no patch.
func (b *base) restamp(patch string) error {
	dir, err := os.MkdirTemp("", "base-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.build(dir, everyPatch); err != nil {
		return err
	}
	made, err := hashFiles(dir)
	if err != nil {
		return err
	}
	target := filepath.Join(b.root, baseDir)
	now, err := hashFiles(target)
	if err != nil {
		return err
	}
	if left := differing(made, now); len(left) > 0 {
		return fmt.Errorf("%s is written, but these edits are not in it: %s", patch, strings.Join(left, ", "))
	}
	return writeStamp(target, "recorded "+patch) // is no input's hash, so the next "make base" renews the description
}
