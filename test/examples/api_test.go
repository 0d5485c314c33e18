package examples_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var (
	placeholder = regexp.MustCompile(`^(?:(?:SEND|CANCEL|REFRESH|GROUP|DELAY)[0-9]+|\$[a-z]+)$`)
	assignment  = regexp.MustCompile(`(?m)^[A-Z]+=.*$`)
	timestamp   = regexp.MustCompile(`^(?:.*_ts|running_since|scheduled_at)$`)
)

// A reader of the page runs one example after the other, and writes the tokens of earlier answers where the page has their
// names.
type reader struct {
	*testing.T
	server          *rig.Server
	bob, root       *rig.User
	room, variables string
	names           map[string]string // what the page's names stand for
}

// TestEachAnswer runs all examples of the page on the API that come after its first screens. Each request must succeed, and
// an answer that the page shows must have the same members, with the same texts.
func TestEachAnswer(t *testing.T) {
	needCurl(t)
	t.Parallel()
	server := rig.New(t, rig.Config{})
	r := &reader{T: t, server: server, bob: server.Register(t, "bob"), root: server.RegisterAdmin(t, "root")}
	r.room = r.bob.CreateRoom(nil)
	r.bob.SendState(r.room, "org.matrix.msc3401.call.member", "_"+r.bob.ID+"_DEVICE", map[string]any{
		"application": "m.call", "created_ts": time.Now().Add(-10 * time.Hour).UnixMilli(), "expires": time.Hour.Milliseconds(),
	})
	r.names = map[string]string{
		"!room:localhost": r.room, "%21room:localhost": url.PathEscape(r.room), "%21room%3Alocalhost": url.QueryEscape(r.room),
		"@alice:localhost": r.bob.ID,
	}
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, page, found := strings.Cut(string(data), "\n## Contents\n")
	examples := fenced.FindAllStringSubmatch(page, -1)
	if !found || len(examples) < 15 {
		t.Fatalf("only %d examples were found", len(examples))
	}
	for _, m := range examples {
		r.follow(block{m[1], m[2]})
	}
}

func (r *reader) follow(b block) {
	token := r.bob.Token
	if strings.Contains(b.commands, "/_dendrite/admin/") {
		token = r.root.Token
	}
	setting := fmt.Sprintf(`curl() { command curl -sS --fail-with-body "$@"; echo; }
HS=%s/_matrix/client/v3
AUTH='Authorization: Bearer %s'
ROOM='%s'
%s
`, address, token, r.room, r.variables)
	for _, line := range assignment.FindAllString(b.commands, -1) {
		r.variables += line + "\n"
	}
	answers := values(r.T, run(r.T, r.server, setting+r.named(b.commands)))
	for i, want := range values(r.T, b.prints) {
		if i >= len(answers) {
			r.Fatalf("%s\nhas %d answers", b.commands, len(answers))
		}
		if err := r.compare("", want, answers[i]); err != nil {
			r.Errorf("%s\nanswers otherwise: %v", b.commands, err)
		}
	}
}

// named puts what the names stand for in their place.
func (r *reader) named(text string) string {
	// A name may begin as another one does.
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(r.names))) {
		text = strings.ReplaceAll(text, name, r.names[name])
	}
	return text
}

func values(t *testing.T, text string) (all []any) {
	for d := json.NewDecoder(strings.NewReader(text)); ; {
		var v any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		all = append(all, v)
	}
}

// compare finds out whether an answer is as the page has it. It learns what new names stand for.
func (r *reader) compare(key string, want, got any) error {
	switch want := want.(type) {
	case map[string]any:
		return r.compareObjects(want, got)
	case []any:
		list, _ := got.([]any)
		for _, w := range want {
			if !slices.ContainsFunc(list, func(g any) bool { return r.compare(key, w, g) == nil }) {
				return fmt.Errorf("%s: nothing like %v in %v", key, w, got)
			}
		}
		return nil
	case string:
		text, _ := got.(string)
		if _, known := r.names[want]; placeholder.MatchString(want) && !known {
			r.names[want] = text
		}
		if r.named(want) != text {
			return fmt.Errorf("%s: %v, not %s", key, got, want)
		}
	case float64: // counts and times differ
		if n, ok := got.(float64); !ok || timestamp.MatchString(key) != (n > 1e12) {
			return fmt.Errorf("%s: %v, not %v", key, got, want)
		}
	}
	return nil
}

func (r *reader) compareObjects(want map[string]any, got any) error {
	object, _ := got.(map[string]any)
	names := func(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
	if !slices.Equal(names(want), names(object)) {
		return fmt.Errorf("members %v, not %v", names(object), names(want))
	}
	before := maps.Clone(r.names)
	for _, name := range names(want) {
		if err := r.compare(name, want[name], object[name]); err != nil {
			r.names = before // learnt from another one
			return err
		}
	}
	return nil
}
