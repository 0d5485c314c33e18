package page

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(method, path string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, req)
	return w
}

func TestHandler(t *testing.T) {
	index := get("GET", Path)
	if index.Code != 200 || !strings.Contains(index.Body.String(), "<title>Futures</title>") {
		t.Fatalf("the page is answered %d: %.80s", index.Code, index.Body)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
		"X-Frame-Options": "DENY", "Cache-Control": "no-cache",
	} {
		if got := index.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} {
		if got := index.Header().Get("Content-Security-Policy"); !strings.Contains(got, want) || strings.Contains(got, "unsafe") {
			t.Errorf("the policy %q lacks %q", got, want)
		}
	}
	for name, want := range map[string]string{"main.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"} {
		if w := get("GET", Path+name); w.Code != 200 || w.Header().Get("Content-Type") != want || w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s is answered %d as %q", name, w.Code, w.Header().Get("Content-Type"))
		}
	}
	if w := get("GET", Path, "If-None-Match", index.Header().Get("ETag")); w.Code != 304 || w.Body.Len() > 0 {
		t.Errorf("what the browser has is answered %d with %d bytes", w.Code, w.Body.Len())
	}
	for _, c := range []struct {
		method, name string
		want         int
	}{{"POST", "", 405}, {"HEAD", "", 200}, {"GET", "page.go", 404}, {"GET", "../page.go", 404}, {"GET", "site/index.html", 404}} {
		if w := get(c.method, Path+c.name); w.Code != c.want {
			t.Errorf("%s %q is answered %d, want %d", c.method, c.name, w.Code, c.want)
		}
	}
}

// TestFilesStandAlone: what the policy would stop is not in the files in the first place.
func TestFilesStandAlone(t *testing.T) {
	outside := regexp.MustCompile(`(?:https?:)?//[a-z0-9-]+\.[a-z]`)
	inline := regexp.MustCompile(`(?i)<style|<script>|\sstyle=|\son[a-z]+="|javascript:|innerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage|document\.cookie`)
	for name, f := range read() {
		text := strings.ReplaceAll(string(f.content), "http://www.w3.org/2000/svg", "") // a name, not a place
		for _, wrong := range []*regexp.Regexp{outside, inline} {
			if found := wrong.FindString(text); found != "" {
				t.Errorf("%s has %q", name, found)
			}
		}
	}
}
