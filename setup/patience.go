package setup

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/base"
)

// patience has the time limits of the HTTP server. Each waiting connection costs a file descriptor and a goroutine.
// Without free descriptors no heartbeat arrives.
type patience struct {
	header time.Duration // for a whole header, and for a TLS handshake
	body   time.Duration // for a body to make progress
	idle   time.Duration // for the next request on a connection
}

func usualPatience() patience {
	return patience{header: 10 * time.Second, body: 20 * time.Second, idle: 3 * time.Minute}
}

// slowBodies lets a body take as long as it needs while it makes progress. The server's own ReadTimeout, which ends
// bodies that stall before anybody reads them, would end long uploads too.
func slowBodies(patience time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			slow := *r // a copy, because the server looks at the body of its own request afterwards
			slow.Body = &slowBody{ReadCloser: r.Body, patience: patience, deadlines: http.NewResponseController(w)}
			r = &slow
		}
		next.ServeHTTP(w, r)
	})
}

// slowBody extends the connection's deadlines when it is read, but not for each of many small reads.
type slowBody struct {
	io.ReadCloser
	patience  time.Duration
	deadlines *http.ResponseController
	moved     time.Time
	ended     bool
}

// Read implements io.Reader. After the end of the body it leaves the deadline alone: the server then reads on to notice
// that the client goes away.
func (b *slowBody) Read(p []byte) (int, error) {
	if now := time.Now(); !b.ended && now.Sub(b.moved) > b.patience/8 {
		b.moved = now
		b.deadlines.SetReadDeadline(now.Add(b.patience))              //nolint:errcheck // then the server's own holds
		b.deadlines.SetWriteDeadline(now.Add(base.HTTPServerTimeout)) //nolint:errcheck // likewise
	}
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || err != nil
	return n, err
}

// uncached forbids browsers and proxies to cache answers that can contain tokens, which are nearly all of the client
// API. Media contain none, and are worth caching.
func uncached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if holdsTokens(r.URL.Path) {
			w.Header().Set("Cache-Control", "no-store")
		}
		next.ServeHTTP(w, r)
	})
}

func holdsTokens(path string) bool {
	if strings.HasPrefix(path, httputil.PublicClientPathPrefix) {
		return !strings.HasPrefix(path, httputil.PublicClientPathPrefix+"v1/media/")
	}
	return strings.HasPrefix(path, httputil.SynapseAdminPathPrefix) || strings.HasPrefix(path, httputil.DendriteAdminPathPrefix)
}
