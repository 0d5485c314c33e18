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

// A table is the page of one generation or proposal: which tests check which requirement.
type table struct {
	page     string
	folder   string   // of the tests on a whole server
	tests    []string // their functions
	least    int      // numbers in the names of these tests
	sections []section
	more     []string // numbers outside of the sections
}

// A section is the number of requirements with a prefix.
type section struct {
	prefix string
	last   int
}

var tables = []table{
	{"docs/gen0-requirements.md", "test/gen0", []string{"TestGen0"}, 50, []section{
		{"2.1.", 4}, {"2.2.", 4}, {"2.3.", 7}, {"2.4.", 5}, {"2.5.", 3}, {"3.", 8}, {"4.", 12}, {"5.", 21}, {"6.", 6}, {"7.", 4}, {"10.", 25},
	}, []string{"8", "9"}},
	{"docs/gen1-requirements.md", "test/gen1", []string{"TestGen1"}, 50, []section{
		{"1.", 3}, {"2.", 4}, {"3.", 12}, {"4.", 12}, {"5.", 5}, {"6.", 10}, {"7.", 9},
	}, []string{"8"}},
	{"docs/gen2-requirements.md", "test/gen2", []string{"TestGen2"}, 50, []section{
		{"1.", 6}, {"2.", 5}, {"3.", 11}, {"4.", 9}, {"5.", 8}, {"6.", 4}, {"7.", 2}, {"8.", 3}, {"11.", 23},
	}, []string{"9", "10"}},
	{"docs/rtc-requirements.md", "test/rtc", []string{"TestTransports", "TestLiveKit", "TestDelegation", "TestClientNeeds"}, 17, []section{{"8.", 7}},
		[]string{"5.3", "5.4", "5.5", "6.3", "7.1", "7.2", "13.1", "13.2", "13.3", "13.4", "13.5", "13.6", "13.7", "13.8", "13.9", "13.10"}}, // the implemented ones
}

var (
	row       = regexp.MustCompile(`(?m)^\| ([0-9.]+) \|(.*)\|$`)
	code      = regexp.MustCompile("`([^`]+)`")
	reference = regexp.MustCompile(`^([a-z0-9/]+) (Test\w+)(?:/(.+))?$`)
	number    = regexp.MustCompile(`^\d{1,2}(\.\d+)*$`)
)

// rows returns the references to tests in the table's row of each number.
func (tab table) rows(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(read(t, tab.page), -1) {
		if found[m[1]] != nil {
			t.Errorf("%s has two rows of number %s", tab.page, m[1])
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

// source is the package that a reference names.
type source struct {
	tests    []string // the functions
	literals []string // all strings in the package, trimmed
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

// numbers lists all numbers that must have a row.
func (tab table) numbers() []string {
	all := slices.Clone(tab.more)
	for _, s := range tab.sections {
		for i := range s.last {
			all = append(all, fmt.Sprint(s.prefix, i+1))
		}
	}
	return all
}

// TestRequirementsHaveTests: each number has a row, and each row names existing tests.
func TestRequirementsHaveTests(t *testing.T) {
	sources := map[string]source{}
	for _, tab := range tables {
		found, want := tab.rows(t), tab.numbers()
		for _, n := range want {
			if found[n] == nil {
				t.Errorf("%s has no row of number %s", tab.page, n)
			}
		}
		for n, references := range found {
			if !slices.Contains(want, n) {
				t.Errorf("%s has a row of number %s, which does not exist", tab.page, n)
			}
			for _, text := range references {
				checkReference(t, sources, tab.page+" "+n, text)
			}
		}
	}
}

func checkReference(t *testing.T, sources map[string]source, at, text string) {
	r := reference.FindStringSubmatch(text)
	if r == nil {
		t.Errorf("%s: %q is no reference to a test", at, text)
		return
	}
	s, ok := sources[r[1]]
	if !ok {
		s = parse(t, r[1])
		sources[r[1]] = s
	}
	if !slices.Contains(s.tests, r[2]) {
		t.Errorf("%s: %s has no test %s", at, r[1], r[2])
	}
	if r[3] != "" && !slices.Contains(s.literals, r[3]) {
		t.Errorf("%s: no subtest of %s is called %q", at, r[1], r[3])
	}
}

// TestTestsHaveRequirements: if the name of a generation's test has a number, the test is in the row of that number.
func TestTestsHaveRequirements(t *testing.T) {
	for _, tab := range tables {
		found := tab.rows(t)
		named := 0
		for _, name := range parse(t, tab.folder).literals {
			for part := range strings.SplitSeq(name, ",") {
				n, _, _ := strings.Cut(part, " ")
				if !number.MatchString(n) || found[n] == nil && !strings.Contains(n, ".") {
					continue // a string that only resembles the name of a test
				}
				named++
				if !slices.ContainsFunc(tab.tests, func(test string) bool {
					return slices.Contains(found[n], tab.folder+" "+test+"/"+name)
				}) {
					t.Errorf("%s: the row of number %s does not name the test %q of %s", tab.page, n, name, tab.folder)
				}
			}
		}
		if named < tab.least {
			t.Errorf("only %d numbers were found in the names of the tests of %s", named, tab.folder)
		}
	}
}
