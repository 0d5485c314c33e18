package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const table = "docs/gen0-requirements.md"

// sections says how many numbered requirements each section has.
var sections = []struct {
	prefix string
	last   int
}{
	{"2.1.", 4}, {"2.2.", 4}, {"2.3.", 7}, {"2.4.", 5}, {"2.5.", 3}, {"3.", 8}, {"4.", 12}, {"5.", 21}, {"6.", 6}, {"7.", 4}, {"10.", 25},
}

var (
	row       = regexp.MustCompile(`(?m)^\| ([0-9.]+) \|(.*)\|$`)
	code      = regexp.MustCompile("`([^`]+)`")
	reference = regexp.MustCompile(`^([a-z0-9/]+) (Test\w+)(?:/(.+))?$`)
	number    = regexp.MustCompile(`^\d{1,2}(\.\d+)*$`)
)

// rows returns the references to tests in the table's row of each number.
func rows(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(read(t, table), -1) {
		if found[m[1]] != nil {
			t.Errorf("%s has two rows of number %s", table, m[1])
		}
		cells := strings.Split(m[2], "|")
		for _, c := range code.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			found[m[1]] = append(found[m[1]], c[1])
		}
		if len(found[m[1]]) == 0 {
			t.Errorf("no test proves %s", m[1])
		}
	}
	return found
}

// source is what a reference is checked against.
type source struct {
	tests    []string // the functions
	literals []string // all strings in the package, without blanks at their ends
}

func parse(t *testing.T, folder string) (s source) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Errorf("there is no Go source in %s", folder)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && strings.HasSuffix(name, "_test.go") && strings.HasPrefix(n.Name.Name, "Test") {
					s.tests = append(s.tests, n.Name.Name)
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
					s.literals = append(s.literals, strings.TrimSpace(text))
				}
			}
			return true
		})
	}
	return s
}

// TestRequirementsHaveTests: each number has a row, and each row names tests that exist.
func TestRequirementsHaveTests(t *testing.T) {
	found := rows(t)
	want := []string{"8", "9"}
	for _, s := range sections {
		for i := range s.last {
			want = append(want, fmt.Sprint(s.prefix, i+1))
		}
	}
	for _, n := range want {
		if found[n] == nil {
			t.Errorf("%s has no row of number %s", table, n)
		}
	}
	sources := map[string]source{}
	for n, references := range found {
		if !slices.Contains(want, n) {
			t.Errorf("%s has a row of number %s, which does not exist", table, n)
		}
		for _, text := range references {
			r := reference.FindStringSubmatch(text)
			if r == nil {
				t.Errorf("%s: %q is no reference to a test", n, text)
				continue
			}
			s, ok := sources[r[1]]
			if !ok {
				s = parse(t, r[1])
				sources[r[1]] = s
			}
			if !slices.Contains(s.tests, r[2]) {
				t.Errorf("%s: %s has no test %s", n, r[1], r[2])
			}
			if r[3] != "" && !slices.Contains(s.literals, r[3]) {
				t.Errorf("%s: no subtest of %s is called %q", n, r[1], r[3])
			}
		}
	}
}

// TestTestsHaveRequirements: a test of gen0 whose name gives a number stands in the row of that number.
func TestTestsHaveRequirements(t *testing.T) {
	found := rows(t)
	named := 0
	for _, name := range parse(t, "test/gen0").literals {
		for part := range strings.SplitSeq(name, ",") {
			n, _, _ := strings.Cut(part, " ")
			if !number.MatchString(n) || found[n] == nil && !strings.Contains(n, ".") {
				continue // a string that only looks like the name of a test
			}
			named++
			if reference := "test/gen0 TestGen0/" + name; !slices.Contains(found[n], reference) {
				t.Errorf("%s: the row of number %s does not name %q", table, n, reference)
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d numbers were found in the names of tests", named)
	}
}
