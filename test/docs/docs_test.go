// Package docs_test checks the documents: links have targets, the tables of requirements are complete and name existing
// tests, and settings, metrics, paths and steps are spelt as in the code.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// documents lists the project's pages, by their paths from the root.
func documents(t *testing.T) []string {
	t.Helper()
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range found {
			name, err := filepath.Rel(root, page)
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, name)
		}
	}
	if len(pages) < 4 {
		t.Fatalf("only %v were found", pages)
	}
	return pages
}

var (
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// anchors lists the anchors of the page, as code forges derive them from headings.
func anchors(page string) []string {
	var found []string
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', r >= '0' && r <= '9', r >= 'a' && r <= 'z':
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		found = append(found, name)
	}
	return found
}

// TestLinks checks every link inside the repository.
func TestLinks(t *testing.T) {
	for _, page := range documents(t) {
		text := read(t, page)
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := text
			if path != "" {
				to := filepath.Join(filepath.Dir(page), path)
				if _, err := os.Stat(filepath.Join(root, to)); err != nil {
					t.Errorf("%s links to %s, which is not there", page, m[1])
					continue
				}
				if anchor != "" {
					target = read(t, to)
				}
			}
			if anchor != "" && !slices.Contains(anchors(target), anchor) {
				t.Errorf("%s links to %s, but no heading there is called so", page, m[1])
			}
		}
	}
}

// TestExamplesAreComplete: a fence that is not closed would swallow the rest of its page.
func TestExamplesAreComplete(t *testing.T) {
	for _, page := range documents(t) {
		if n := strings.Count("\n"+read(t, page), "\n```"); n%2 != 0 {
			t.Errorf("%s has %d fences", page, n)
		}
	}
}

// TestNames: names that operators and authors of clients look up are spelt as in the code, and none is missing.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		what, source string
		name         *regexp.Regexp // its last group is the name
		page, format string         // how the page spells it
	}{
		{"setting", "setup/config/load.go", regexp.MustCompile(`(?m)^\t{2,3}"([a-z_]+)": +r\.`), "docs/operations.md", "$"},
		{"setting", "setup/config/matrixrtc.go", regexp.MustCompile(`(?m)^\t{2}"([a-z_]+)": +(?:r\.|address|func)`), "docs/operations.md", "`$`"},
		{"path", "clientapi/rtc/rtc.go", regexp.MustCompile(`= "(/(?:v1|unstable)/[a-z0-9./]+)"`), "docs/api.md", "$"},
		{"metric", "futureserver/internal/metrics.go", regexp.MustCompile(`(?:counter\(|histogram\(|Name: )"([a-z_]+)"`), "docs/operations.md", "dendrite_futureserver_$"},
		{"metric", "setup/metrics.go", regexp.MustCompile(`gauge\("([a-z_]+)"`), "docs/operations.md", "dendrite_futureserver_$"},
		{"endpoint", "clientapi/metrics.go", regexp.MustCompile(`= "([a-z_]+)"\n`), "docs/operations.md", "`$`"},
		{"refusal", "futureserver/api/errors.go", regexp.MustCompile(`case \w+:\n\t\treturn "([a-z_]+)"`), "docs/operations.md", "`$`"},
		{"flag", "cmd/dendrite/main.go", regexp.MustCompile(`flag\.\w+\("([a-z-]+)"`), "docs/operations.md", "`-$`"},
		{"flag", "cmd/dendrite-admin/main.go", regexp.MustCompile(`flags\.\w+\("([a-z-]+)"`), "docs/operations.md", "`-$`"},
		{"path", "clientapi/routes.go", regexp.MustCompile(`/(send_future|state_future|send|state|admin/futures|admin/ghosts|delayed_events?)\b`), "docs/api.md", "/$"},
		{"parameter", "clientapi/send_state_future.go", regexp.MustCompile(`= "(future_[a-z_]+)"`), "docs/api.md", "`$`"},
		{"key", "clientapi/send_state_future.go", regexp.MustCompile(`json:"([a-z_]+)`), "docs/api.md", `"$"`},
		{"key", "clientapi/admin_futures.go", regexp.MustCompile(`json:"([a-z_]+)`), "docs/api.md", `"$"`},
		{"key", "clientapi/admin_ghosts.go", regexp.MustCompile(`json:"([a-z_]+)`), "docs/api.md", `"$"`},
		{"key", "clientapi/admin_futures_statistics.go", regexp.MustCompile(`json:"([a-z_]+)`), "docs/api.md", `"$"`},
		{"key", "clientapi/delayed_events_lookup.go", regexp.MustCompile(`json:"([a-z_]+)`), "docs/api.md", `"$"`},
		{"key", "clientapi/delayed_events_list.go", regexp.MustCompile(`json:"([a-z_]+)`), "docs/api.md", "$"},
		{"key", "clientapi/delayed_event.go", regexp.MustCompile(`fields\["([a-z_]+)"`), "docs/api.md", "`$`"},
		{"action", "clientapi/delayed_events_action.go", regexp.MustCompile(`case "([a-z]+)"`), "docs/api.md", "`$`"},
		{"status", "clientapi/delayed_events_list.go", regexp.MustCompile(`case "([a-z]{2,})"`), "docs/api.md", "`$`"},
		{"error", "clientapi/errors.go", regexp.MustCompile(`"((?:M_|ORG\.)[A-Z0-9._]+)"`), "docs/api.md", "`$`"},
		{"step", "test/crash/crash_test.go", regexp.MustCompile(`(?m)^\t"([a-z]+)",`), "docs/testing.md", "`$`"},
		{"flag", "test/crash/crash_test.go", regexp.MustCompile(`flag\.\w+\("([a-z.]+)"`), "docs/testing.md", "`-$"},
		{"flag", "test/soak/soak_test.go", regexp.MustCompile(`flag\.\w+\("([a-z.]+)"`), "docs/testing.md", "`-$"},
	} {
		page := read(t, c.page)
		names := c.name.FindAllStringSubmatch(read(t, c.source), -1)
		if len(names) < 2 {
			t.Errorf("%s names only %d of these: %s", c.source, len(names), c.what)
		}
		for _, m := range names {
			if spelt := strings.ReplaceAll(c.format, "$", m[1]); !strings.Contains(page, spelt) {
				t.Errorf("%s does not speak of the %s %s", c.page, c.what, spelt)
			}
		}
	}
}

// TestIndexIsComplete: docs/README.md leads to every page.
func TestIndexIsComplete(t *testing.T) {
	index := read(t, "docs/README.md")
	for _, page := range documents(t) {
		if name, ok := strings.CutPrefix(page, "docs/"); ok && name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/README.md does not lead to %s", name)
		}
	}
}

// TestPackagesAreNamed: every folder of test has a row in docs/testing.md.
func TestPackagesAreNamed(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join(root, "test"))
	if err != nil {
		t.Fatal(err)
	}
	page := read(t, "docs/testing.md")
	for _, e := range entries {
		if e.IsDir() && !strings.Contains(page, "`test/"+e.Name()+"`") {
			t.Errorf("docs/testing.md does not name test/%s", e.Name())
		}
	}
}

// TestPatchesAreNamed checks that docs/base.md has a row for every patch, and none for others.
func TestPatchesAreNamed(t *testing.T) {
	sections := strings.Split(read(t, "docs/base.md"), "\n### ")
	row := regexp.MustCompile("(?m)^\\| `([0-9]+-[a-z0-9-]+)` \\|")
	for _, module := range []string{"gomatrixserverlib", "dendrite"} {
		found, err := filepath.Glob(filepath.Join(root, "setup", "base", module, "*.patch"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no patches for %s: %v", module, err)
		}
		var want, named []string
		for _, path := range found {
			want = append(want, strings.TrimSuffix(filepath.Base(path), ".patch"))
		}
		for _, section := range sections {
			if strings.HasPrefix(section, module+"\n") {
				for _, m := range row.FindAllStringSubmatch(section, -1) {
					named = append(named, m[1])
				}
			}
		}
		if !slices.Equal(want, named) {
			t.Errorf("docs/base.md names of %s the patches %v; there are %v", module, named, want)
		}
	}
}
