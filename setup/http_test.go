package setup

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/base"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/process"

	"github.com/matrix-org/dendrite/futures/clientapi/page"
	"github.com/matrix-org/dendrite/futures/clientapi/rtc"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// addMarkers adds routes to each router that show where a request has ended up.
func addMarkers(r httputil.Routers) {
	for name, router := range map[string]*mux.Router{
		"client": r.Client, "federation": r.Federation, "keys": r.Keys, "media": r.Media,
		"wellknown": r.WellKnown, "static": r.Static, "admin": r.DendriteAdmin, "synapse": r.SynapseAdmin,
	} {
		router.HandleFunc("/marker/{var}", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s %s %v", name, r.URL.Path, r.URL.RawPath, mux.Vars(r))
		}).Methods(http.MethodGet, http.MethodPost)
	}
}

type answer struct {
	status int
	header http.Header
	body   string
}

func ask(t *testing.T, method, url, user string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, user)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Header.Del("Date")
	if strings.HasSuffix(url, "/metrics") && resp.StatusCode == http.StatusOK {
		body = nil // the counts change
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// Our front answers every request as Dendrite's own does.
func TestFrontIsDendrites(t *testing.T) {
	var requests [][2]string
	for _, prefix := range []string{
		"", "/_matrix", "/_matrix/client", "/_matrix/federation", "/_matrix/key", "/_matrix/media", "/_matrix/static",
		"/.well-known/matrix", "/_dendrite", "/_synapse", "/other",
	} {
		for _, path := range []string{"", "/", "/marker/a", "/marker/a%2Fb", "/marker/a%2fb%20c", "/marker/a/", "//marker/a", "/../marker/a", "/marker/a?b=c", "/nothing"} {
			for _, method := range []string{"GET", "PUT", "OPTIONS", "HEAD"} {
				requests = append(requests, [2]string{method, prefix + path})
			}
		}
	}
	for _, path := range []string{
		"/metrics", "/_dendrite/monitor/up", "/_dendrite/monitor/health", "/_matrix/static/client/login/",
		"/_matrix/static/client/login/index.html", "/_matrix/static/client/login/nothing", "/_matrix/static/client/login",
		"/_matrix/client/versions", "/_matrix/client", "/_matrix/clientele",
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "HEAD"} {
			requests = append(requests, [2]string{method, path})
		}
	}
	for name, change := range map[string]func(*config.Dendrite){
		"defaults": func(*config.Dendrite) {},
		"metrics":  func(c *config.Dendrite) { c.Global.Metrics.Enabled = true },
		"closed": func(c *config.Dendrite) {
			c.Global.Metrics.Enabled = true
			c.Global.Metrics.BasicAuth.Username = "u"
			c.Global.Metrics.BasicAuth.Password = "u"
		},
		"no servers":  func(c *config.Dendrite) { c.Global.DisableFederation = true },
		"with sentry": func(c *config.Dendrite) { c.Global.Sentry.Enabled = true },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &config.Dendrite{}
			cfg.Defaults(config.DefaultOpts{Generate: true})
			change(cfg)
			stock, ours := stockFront(t, cfg), ourFront(t, cfg)
			for _, user := range []string{"", "u", "stranger"} {
				for _, r := range requests {
					want, got := ask(t, r[0], stock+r[1], user), ask(t, r[0], ours+r[1], user)
					if !reflect.DeepEqual(want, got) {
						t.Errorf("%s %s as %q:\n got %v\nwant %v", r[0], r[1], user, got, want)
					}
				}
				if name != "closed" {
					break
				}
			}
		})
	}
}

func stockFront(t *testing.T, cfg *config.Dendrite) string {
	routers := httputil.NewRouters()
	addMarkers(routers)
	listener, err := net.Listen("tcp", "127.0.0.1:0") // to find a free port
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	ctx := process.NewProcessContext()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		base.SetupAndServeHTTP(ctx, cfg, routers, config.ServerAddress{Address: address, Scheme: "http"}, nil, nil)
	}()
	t.Cleanup(func() { ctx.ShutdownDendrite(); <-stopped })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return "http://" + address
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func ourFront(t *testing.T, cfg *config.Dendrite) string {
	ctx := process.NewProcessContext()
	routers := newRouters(ctx, cfg)
	addMarkers(routers)
	o := Options{HTTP: config.ServerAddress{Address: "127.0.0.1:0", Scheme: "http"}, Dendrite: cfg, Futures: new(fconfig.FutureServer)}
	f, err := listen(o)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(ctx.Context(), o, newHandler(o, routers, rtc.New(rtc.Options{Config: new(fconfig.MatrixRTC)})), func(err error) { t.Error(err) })
	t.Cleanup(f.close)
	return "http://" + f.http.Addr().String()
}

// The page is there unless it, or all of futures, is switched off. Then Dendrite's static pages answer in its place.
func TestPageIsServed(t *testing.T) {
	for _, c := range []struct{ enabled, page, want bool }{{true, true, true}, {true, false, false}, {false, true, false}} {
		cfg := new(config.Dendrite)
		cfg.Defaults(config.DefaultOpts{})
		o := Options{Dendrite: cfg, Futures: &fconfig.FutureServer{Enabled: c.enabled, Page: c.page}}
		server := httptest.NewServer(newHandler(o, newRouters(process.NewProcessContext(), cfg), rtc.New(rtc.Options{Config: new(fconfig.MatrixRTC)})))
		defer server.Close()
		for path, want := range map[string]int{page.Path: http.StatusOK, page.Path + "main.js": http.StatusOK, strings.TrimSuffix(page.Path, "/"): http.StatusMovedPermanently} {
			if !c.want {
				want = http.StatusNotFound
			}
			if a := ask(t, "GET", server.URL+path, ""); a.status != want {
				t.Errorf("enabled %v, page %v: %s is answered %d, want %d", c.enabled, c.page, path, a.status, want)
			}
		}
	}
}

// A long poll is ended after the grace; a request in progress is waited for.
func TestShutdownEndsLongPolls(t *testing.T) {
	release, started := make(chan struct{}), make(chan string, 2)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- r.URL.Path
		select {
		case <-r.Context().Done():
			fmt.Fprint(w, "ended")
		case <-release:
			fmt.Fprint(w, "released")
		}
	})
	o := Options{HTTP: config.ServerAddress{Address: "127.0.0.1:0", Scheme: "http"}}
	f, err := listen(o)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(context.Background(), o, handler, func(err error) { t.Error(err) })
	bodies := make(map[string]chan string)
	for _, path := range []string{"/_matrix/client/v3/sync", "/_matrix/client/v3/rooms/x/send/y/z"} {
		body := make(chan string, 1)
		bodies[path] = body
		go func() {
			defer close(body) // ask does not return if it fails
			body <- ask(t, "GET", "http://"+f.http.Addr().String()+path, "").body
		}()
		<-started
	}
	done := make(chan error)
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 5*pollGrace)
	defer cancel()
	go func() { done <- f.shutdown(ctx) }()
	if got := <-bodies["/_matrix/client/v3/sync"]; got != "ended" || time.Since(start) < pollGrace || ctx.Err() != nil {
		t.Errorf("the long poll answered %q after %s", got, time.Since(start))
	}
	select {
	case err := <-done:
		t.Fatalf("the shutdown did not wait for the other request: %v", err)
	default:
	}
	close(release)
	if got := <-bodies["/_matrix/client/v3/rooms/x/send/y/z"]; got != "released" {
		t.Errorf("the request answered %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	o := Options{HTTP: config.ServerAddress{Address: "127.0.0.1:0", Scheme: "http"}}
	f, err := listen(o)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(context.Background(), o, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		close(ended)
	}), func(err error) { t.Error(err) })
	go http.Get("http://" + f.http.Addr().String())
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.shutdown(ctx); err == nil {
		t.Error("no error although a request was cut off")
	}
	<-ended
}

func TestUnixSocketReplacesALeftover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	at, err := config.UnixSocketAddress(path, "700")
	if err != nil {
		t.Fatal(err)
	}
	f, err := listen(Options{HTTP: at})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestListenFailsAtOnce(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := listen(Options{HTTP: config.ServerAddress{Address: taken.Addr().String(), Scheme: "http"}}); err == nil {
		t.Error("no error for an address in use")
	}
}
