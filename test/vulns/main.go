// Command vulns looks up the known advisories of every Go module that this program is built from, and compares them
// with the table in docs/advisories.md. It fails if an advisory is missing there, or is there without need.
//
//	cd test/vulns && go run . [-db URL]
//
// It is a module of its own, so that the homeserver's go.mod contains neither the scanner nor the database.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
	"golang.org/x/vuln/scan"
	_ "golang.org/x/vulndb/cmd/vulnreport/color" // keeps the database in go.mod; this is its smallest package
)

const (
	database = "golang.org/x/vulndb"
	page     = "docs/advisories.md"
	stdlib   = "stdlib" // the scanner's name for Go itself
)

// reach is how close an advisory is to the program.
type reach int

const (
	required reach = iota // the module is in use, the affected package is not
	imported              // the package is in the program, but no call of the affected functions was found
	called
)

func (r reach) String() string { return [...]string{"required", "imported", "called"}[r] }

// advisory is the scanner's result for one entry of the database.
type advisory struct {
	id, module, version, fixed, summary string
	reach                               reach
}

func main() {
	db := flag.String("db", "", "`URL` of another database, as https://vuln.go.dev; otherwise the one in go.mod")
	flag.Parse()
	if err := run(*db); err != nil {
		fmt.Fprintln(os.Stderr, "vulns:", err)
		os.Exit(1)
	}
}

func run(db string) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return err
	}
	if db == "" {
		if db, err = pinned(); err != nil {
			return err
		}
	}
	found, err := look(root, db)
	if err != nil {
		return err
	}
	report, problems := judge(found, listed(string(text)))
	fmt.Println(strings.Join(report, "\n"))
	return errors.Join(problems...)
}

// pinned returns the URL of the database that go.mod names, and prints its date.
func pinned() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}\n{{.Version}}", database).Output()
	if err != nil {
		return "", fmt.Errorf("where is %s: %w", database, err)
	}
	dir, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	fmt.Println("Database:", database, version)
	path := filepath.ToSlash(filepath.Join(dir, "data", "osv"))
	return (&url.URL{Scheme: "file", Path: path}).String(), nil
}

// look runs govulncheck twice. With go.work it sees everything that "make build" builds and our tests' own programs,
// but the two patched modules are folders there, without a version to look up. Without go.work it sees their versions,
// but cannot compile anything and so does not know what is called.
func look(root, db string) ([]advisory, error) {
	const tools = "github.com/matrix-org/dendrite/cmd/"
	var out bytes.Buffer
	for _, run := range []struct {
		work, dir string
		args      []string
	}{
		{"off", filepath.Join(root, "setup", "config"), []string{"-scan", "module"}}, // a package that needs no patch
		{filepath.Join(root, "go.work"), root, []string{"./...", tools + "create-account", tools + "generate-keys"}},
	} {
		scanner := scan.Command(context.Background(), append([]string{"-C", run.dir, "-db", db, "-format", "json"}, run.args...)...)
		scanner.Env = append(os.Environ(), "GOWORK="+run.work)
		scanner.Stdout = &out
		if err := scanner.Start(); err != nil {
			return nil, err
		}
		if err := scanner.Wait(); err != nil {
			return nil, fmt.Errorf("govulncheck: %w", err)
		}
	}
	return parse(&out)
}

// parse reads govulncheck's stream of JSON messages. It has many messages for one advisory; the closest reach counts.
func parse(r io.Reader) ([]advisory, error) {
	byID := map[string]*advisory{}
	summaries := map[string]string{}
	for d := json.NewDecoder(r); ; {
		var m struct {
			OSV     *struct{ ID, Summary string }
			Finding *struct {
				OSV          string
				FixedVersion string `json:"fixed_version"`
				Trace        []struct{ Module, Version, Package, Function string }
			}
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if m.OSV != nil {
			summaries[m.OSV.ID] = m.OSV.Summary
		}
		f := m.Finding
		if f == nil || len(f.Trace) == 0 {
			continue
		}
		at := f.Trace[0]
		a := byID[f.OSV]
		if a == nil {
			a = &advisory{id: f.OSV, module: at.Module, version: at.Version, fixed: f.FixedVersion}
			byID[f.OSV] = a
		}
		switch {
		case at.Function != "":
			a.reach = called
		case at.Package != "":
			a.reach = max(a.reach, imported)
		}
	}
	var all []advisory
	for _, a := range byID {
		a.summary = summaries[a.id]
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b advisory) int { return cmp.Compare(a.id, b.id) })
	return all, nil
}

var row = regexp.MustCompile(`(?m)^\| (GO-\d{4}-\d+) \|`)

// listed returns the advisories in the page's table.
func listed(page string) []string {
	var ids []string
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		ids = append(ids, m[1])
	}
	return ids
}

// judge reports the advisories and the problems. Advisories of Go itself are no problem of this repository, because the
// person who builds the program chooses the Go.
func judge(found []advisory, listed []string) (report []string, problems []error) {
	var ofGo, unknown int
	var goFixed string
	seen := map[string]bool{}
	for _, a := range found {
		if a.module == stdlib {
			ofGo++
			if semver.Compare(a.fixed, goFixed) > 0 {
				goFixed = a.fixed
			}
			continue
		}
		seen[a.id] = true
		line := fmt.Sprintf("%s: %s %s, %s, fixed in %s: %s",
			a.id, a.module, a.version, a.reach, cmp.Or(a.fixed, "no version"), a.summary)
		if slices.Contains(listed, a.id) {
			report = append(report, "Known: "+line)
		} else {
			unknown++
			problems = append(problems, fmt.Errorf("%s\n\traise the module, or say in %s why it does not reach us", line, page))
		}
	}
	for _, id := range listed {
		if !seen[id] {
			problems = append(problems, fmt.Errorf("%s stands in %s, but does not concern us any more", id, page))
		}
	}
	if ofGo > 0 {
		report = append(report, fmt.Sprintf("Not judged: %d advisories of the Go that is installed here. "+
			"Go %s and newer have none of them.", ofGo, strings.TrimPrefix(goFixed, "v")))
	}
	return append(report, fmt.Sprintf("Advisories of our modules: %d, of which %d are not in %s.", len(seen), unknown, page)), problems
}
