package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestFaults: whoever relies on Faults to find nothing must know that it finds something.
func TestFaults(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'nonce-mine'")
		fmt.Fprint(w, `<!doctype html><title>Page</title><link rel="icon" href="data:,"><p>Hello</p>
			<script>document.title = "forbidden"</script>
			<script nonce="mine">console.error("a cry"); setTimeout(() => { throw new Error("not caught"); document.title = "on" })
			setTimeout(() => { document.title = "done" }, 1)</script>`)
	}))
	defer server.Close()
	browser := Start(t)
	tab, quiet := browser.Tab(t), browser.Tab(t)
	tab.Do(chromedp.Navigate(server.URL))
	tab.Await(`document.title === "done"`)
	if text := Get(tab, chromedp.Text(chromedp.CSS("p"))); text != "Hello" {
		t.Errorf("the paragraph reads %q", text)
	}
	faults := strings.Join(tab.Faults(), "\n")
	for _, want := range []string{"Content Security Policy", "a cry", "not caught"} {
		if !strings.Contains(faults, want) {
			t.Errorf("%q was not noticed; the faults are\n%s", want, faults)
		}
	}
	if got := quiet.Faults(); len(got) > 0 {
		t.Errorf("another tab has faults: %q", got)
	}
}
