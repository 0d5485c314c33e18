package setup

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/gorilla/mux"
)

// examplePath fills in the variables of a route's path: "{name}" and "{name:expression}".
func examplePath(t *testing.T, template string) string {
	t.Helper()
	var path strings.Builder
	for template != "" {
		before, rest, found := strings.Cut(template, "{")
		path.WriteString(before)
		if !found {
			break
		}
		end := strings.Index(rest, "}")
		for strings.Count(rest[:end], "{") > strings.Count(rest[:end], "}") {
			end += 1 + strings.Index(rest[end+1:], "}")
		}
		_, expression, _ := strings.Cut(rest[:end], ":")
		path.WriteString(exampleOf(t, expression))
		template = rest[end+1:]
	}
	return path.String()
}

func exampleOf(t *testing.T, expression string) string {
	t.Helper()
	alternatives := strings.Split(strings.TrimSuffix(strings.TrimPrefix(expression, "(?:"), ")"), "|")
	for _, word := range append([]string{"x", "unstable/org.matrix.msc4140", "future"}, alternatives...) {
		if expression == "" || regexp.MustCompile("^(?:"+expression+")$").MatchString(word) {
			return word
		}
	}
	t.Fatalf("the test knows no word like %s", expression)
	return ""
}

// A browser sends OPTIONS, without the access token, before a request with one. Every client route answers.
func TestPreflights(t *testing.T) {
	s := start(t, options(t, t.TempDir()))
	asked := 0
	for _, router := range []*mux.Router{s.routers.Client, s.routers.Media, s.routers.DendriteAdmin, s.routers.SynapseAdmin} {
		err := router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
			template, err := route.GetPathTemplate()
			if err != nil || route.GetHandler() == nil || strings.HasPrefix(template, "/_dendrite/monitor/") {
				return nil // monitoring is not done by browsers
			}
			path := examplePath(t, template)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, "http://"+s.Addr().String()+path, nil)
			if err != nil {
				return err
			}
			r.Header.Set("Origin", "https://app.element.io")
			r.Header.Set("Access-Control-Request-Method", http.MethodGet)
			r.Header.Set("Access-Control-Request-Headers", "authorization")
			res, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				return err
			}
			res.Body.Close()
			asked++
			if res.StatusCode != http.StatusOK || res.Header.Get("Access-Control-Allow-Origin") != "*" ||
				!strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("%s: %d %v", template, res.StatusCode, res.Header)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if asked < 150 {
		t.Errorf("only %d routes were found", asked)
	}
}
