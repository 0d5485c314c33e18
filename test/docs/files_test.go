package docs_test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// goFiles lists the project's Go files, by their paths from the root.
func goFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root:
			return fs.SkipDir // the patched base, caches
		case filepath.Ext(name) == ".go":
			files = append(files, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestFilesExist: a page names Go files of this project only if they exist.
func TestFilesExist(t *testing.T) {
	named := regexp.MustCompile("`([a-z0-9_/]+\\.go)`")
	files := goFiles(t)
	for _, page := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(read(t, page), -1) {
			exists := func(file string) bool { return file == m[1] || strings.HasSuffix(file, "/"+m[1]) }
			if !slices.ContainsFunc(files, exists) {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
}

// TestEndpointsAreMapped: the map from URLs to files in docs/architecture.md has every file of clientapi that is named
// after an endpoint.
func TestEndpointsAreMapped(t *testing.T) {
	shared := strings.Fields("answer bearer body dialect disabled errors extend limiter metrics params routes schedule sessions source transaction")
	_, mapped, _ := strings.Cut(read(t, "docs/architecture.md"), "\n## From a URL to its file\n")
	mapped, _, _ = strings.Cut(mapped, "\nWhat they share")
	for _, file := range goFiles(t) {
		name, ok := strings.CutPrefix(file, "clientapi/")
		if !ok || strings.Contains(name, "/") || strings.HasSuffix(name, "_test.go") || slices.Contains(shared, strings.TrimSuffix(name, ".go")) {
			continue
		}
		if !strings.Contains(mapped, "`"+name+"`") {
			t.Errorf("docs/architecture.md has no endpoint for clientapi/%s", name)
		}
	}
}
