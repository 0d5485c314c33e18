package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	shell    = regexp.MustCompile("(?s)```sh\n(.*?)```")
	makeLine = regexp.MustCompile(`^make ([a-z-]+)`)
	testLine = regexp.MustCompile(`^go test (?:-\w+(?:=\S+)? )*(\./\S+)(?:.* -run '?\^?(Test\w+))?`)
	runLine  = regexp.MustCompile(`^(?:exec )?go run (\./\S+)`)
	program  = regexp.MustCompile(`^(?:eval "\$\()?((?:bin|test|setup)/[\w./-]+)`)
)

// TestCommands: what the pages tell readers to run is there: targets, packages, tests, programs and scripts. test/examples
// runs what a test can run.
func TestCommands(t *testing.T) {
	data, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(data), -1)
	known := 0
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range shell.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.SplitSeq(b[1], "\n") {
				line = strings.TrimSpace(line)
				switch {
				case makeLine.MatchString(line):
					known++
					target := makeLine.FindStringSubmatch(line)[1]
					if !slices.ContainsFunc(targets, func(m []string) bool { return m[1] == target }) {
						t.Errorf("%s: there is no %q", page, line)
					}
				case testLine.MatchString(line):
					known++
					m := testLine.FindStringSubmatch(line)
					if !hasTest(m[1], m[2]) {
						t.Errorf("%s: %q names no test", page, line)
					}
				case runLine.MatchString(line):
					known++
					if !hasFiles(filepath.Join("../..", runLine.FindStringSubmatch(line)[1])) {
						t.Errorf("%s: %q names no program", page, line)
					}
				case program.MatchString(line):
					known++
					path := program.FindStringSubmatch(line)[1]
					if name, built := strings.CutPrefix(path, "bin/"); built {
						path = "cmd/" + name
					}
					if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
						t.Errorf("%s: %q: %v", page, line, err)
					}
				}
			}
		}
	}
	if known < 50 {
		t.Errorf("only %d commands were understood", known)
	}
}

func hasFiles(dir string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	return err == nil && len(files) > 0
}

// hasTest reports whether the package, or one below it, has a test whose name begins so.
func hasTest(pattern, name string) bool {
	dir := filepath.Join("../..", strings.TrimSuffix(pattern, "/..."))
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || name == "" {
		return hasFiles(dir) || strings.HasSuffix(pattern, "/...")
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "func "+name) {
			return true
		}
	}
	return false
}
