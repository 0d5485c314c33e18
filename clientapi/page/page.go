// Package page is the web page for people who use futures, run the server, or try them out: static files that the program
// carries with it. The page has no powers of its own. It uses the API that every client can use, with the access token of
// whoever looks at it.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

// Path is where the page is.
const Path = "/_matrix/static/futures/"

//go:embed site
var site embed.FS

// policy lets the page load its own files and talk to its own server, and nothing else. Trusted types without a policy mean
// that no script can make markup of text, so what a room or a server says stays text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// file is one of the page's files, ready to be sent.
type file struct {
	content   []byte
	mediaType string
	tag       string
}

// Handler serves the page below Path.
func Handler() http.Handler {
	files := read()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name := strings.TrimPrefix(req.URL.Path, Path)
		if name == "" {
			name = "index.html"
		}
		f, ok := files[name]
		if !ok {
			http.NotFound(w, req)
			return
		}
		f.serve(w, req)
	})
}

func read() map[string]*file {
	files := make(map[string]*file)
	err := fs.WalkDir(site, "site", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := site.ReadFile(name)
		hash := sha256.Sum256(content)
		files[strings.TrimPrefix(name, "site/")] = &file{
			content, mediaType(name), `"` + base64.RawURLEncoding.EncodeToString(hash[:12]) + `"`,
		}
		return err
	})
	if err != nil {
		panic(err) // the files are in the program
	}
	return files
}

// mediaType does not ask the operating system for the types that matter, because it may know them wrong.
func mediaType(name string) string {
	switch extension := path.Ext(name); extension {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	default:
		return mime.TypeByExtension(extension)
	}
}

func (f *file) serve(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Only GET and HEAD are allowed.", http.StatusMethodNotAllowed)
		return
	}
	for name, value := range map[string]string{
		"Content-Type":                 f.mediaType,
		"Content-Security-Policy":      policy,
		"Referrer-Policy":              "no-referrer",
		"X-Content-Type-Options":       "nosniff",
		"X-Frame-Options":              "DENY",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control":                "no-cache", // ask, and get 304 unless the server is a newer one
		"ETag":                         f.tag,
	} {
		w.Header().Set(name, value)
	}
	if req.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Write(f.content) //nolint:errcheck // the reader may be gone
}
