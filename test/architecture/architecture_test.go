// Package architecture checks what docs/architecture.md says about the code: the imports, and the size limits.
package architecture

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/matrix-org/dendrite/futures/"

// mayImport lists, for each package of the product, which of our packages it may import. Tests are not checked.
var mayImport = map[string][]string{
	"cmd/dendrite":                  {"setup", "setup/config"},
	"cmd/dendrite-admin":            {},
	"cmd/generate-config":           {"setup", "setup/config"},
	"clientapi/page":                {},
	"clientapi/rtc":                 {"futureserver/api", "setup/config"},
	"clientapi/syncapi":             {"futureserver/api"},
	"setup":                         {"setup/config", "setup/base/patched", "setup/guard", "clientapi", "clientapi/page", "clientapi/rtc", "clientapi/syncapi", "futureserver", "futureserver/api", "roomserver"},
	"setup/base":                    {},
	"setup/base/patched":            {},
	"setup/config":                  {},
	"setup/guard":                   {},
	"clientapi":                     {"futureserver/api", "setup/config"},
	"roomserver":                    {"futureserver/api", "roomserver/stateres", "setup/base/patched", "setup/config"},
	"roomserver/stateres":           {},
	"futureserver":                  {"futureserver/api", "futureserver/internal", "futureserver/storage", "futureserver/storage/sqlite3", "futureserver/storage/postgres", "setup/config"},
	"futureserver/api":              {},
	"futureserver/internal":         {"futureserver/api", "futureserver/storage", "futureserver/internal/ledger"},
	"futureserver/internal/ledger":  {"futureserver/api", "futureserver/storage", "futureserver/internal/wheel"},
	"futureserver/internal/wheel":   {},
	"futureserver/storage":          {"futureserver/api"},
	"futureserver/storage/shared":   {"futureserver/api", "futureserver/storage"},
	"futureserver/storage/sqlite3":  {"futureserver/api", "futureserver/storage", "futureserver/storage/shared"},
	"futureserver/storage/postgres": {"futureserver/api", "futureserver/storage", "futureserver/storage/shared"},
}

// mustNotReach lists what a package must not depend on, directly or indirectly.
var mustNotReach = map[string][]string{
	"futureserver/internal/wheel":  {"net/http", "time", "sync"},
	"futureserver/internal/ledger": {"net/http", "database/sql", "github.com/sirupsen/logrus"},
	"futureserver/api":             {"net/http", "database/sql"},
	"roomserver/stateres":          {"net", "database/sql", "github.com/matrix-org/gomatrixserverlib"},
	"futureserver/internal":        {"github.com/nats-io/nats.go", "github.com/matrix-org/dendrite/roomserver/api", "github.com/gorilla/mux"},
}

type pkg struct {
	ImportPath    string
	Imports, Deps []string
	GoFiles       []string
	Dir           string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,GoFiles,Dir", "./...")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "test/") {
			continue
		}
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("%s is not in docs/architecture.md; give it a place there and here", name)
		}
		for _, i := range p.Imports {
			if of, ours := strings.CutPrefix(i, module); ours && !slices.Contains(allowed, of) {
				t.Errorf("%s must not import %s", name, of)
			}
		}
		if !slices.Contains([]string{"clientapi", "clientapi/page", "clientapi/rtc", "clientapi/syncapi", "setup", "setup/guard", "cmd/dendrite-admin"}, name) && slices.Contains(p.Imports, "net/http") {
			t.Errorf("%s must not import net/http", name)
		}
		for _, far := range mustNotReach[name] {
			if slices.Contains(p.Deps, far) {
				t.Errorf("%s must not depend on %s", name, far)
			}
		}
	}
}

const (
	maxFunction = 70 // lines
	maxFile     = 500
)

func TestBudgets(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return fs.SkipDir // not in the repository: the patched base, caches
		}
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		test := strings.HasSuffix(path, "_test.go")
		if n := files.Position(f.FileEnd).Line; n > maxFile && !test {
			t.Errorf("%s has %d lines", path, n)
		}
		for _, decl := range f.Decls {
			checkDecl(t, files, path, decl, test)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkDecl(t *testing.T, files *token.FileSet, path string, decl ast.Decl, test bool) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		lines := files.Position(d.End()).Line - files.Position(d.Pos()).Line + 1
		if lines > maxFunction {
			t.Errorf("%s: %s has %d lines", path, d.Name.Name, lines)
		}
		if d.Name.IsExported() && d.Doc == nil && !test && exportedReceiver(d) {
			t.Errorf("%s: %s is exported and not documented", path, d.Name.Name)
		}
	case *ast.GenDecl:
		if d.Tok != token.TYPE || test {
			return
		}
		for _, s := range d.Specs {
			if s := s.(*ast.TypeSpec); s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
				t.Errorf("%s: %s is exported and not documented", path, s.Name.Name)
			}
		}
	}
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	expr := d.Recv.List[0].Type
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if index, ok := expr.(*ast.IndexExpr); ok {
		expr = index.X
	}
	id, ok := expr.(*ast.Ident)
	return ok && id.IsExported()
}
