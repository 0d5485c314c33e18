package roomv12

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// malformed are malformed room IDs.
var malformed = []string{
	"!", "!:", "!a", "a", "!a:", "!:localhost", "#a:localhost", "@a:localhost",
	"!" + strings.Repeat("a", 42), "!" + strings.Repeat("a", 44), "!" + strings.Repeat("a", 42) + "+", "!" + strings.Repeat("a", 42) + "=",
	"!" + strings.Repeat("é", 43), "!a\x00:localhost ", "$" + strings.Repeat("a", 43),
	"!a:" + strings.Repeat("b", 300), "!a:b c", "%", "%21",
}

// routes returns all routes of the client API whose path has a room ID, read from Dendrite's source: "METHOD PATH".
func routes(t *testing.T) (found []string) {
	t.Helper()
	handle := regexp.MustCompile(`(?s)\.Handle\("(/[^"]*\{room[^"]*)"(.*?)\.Methods\(([^)]*)\)`)
	for _, file := range []string{"clientapi/routing/routing.go", "syncapi/routing/routing.go", "userapi/userapi.go"} {
		source, err := os.ReadFile(filepath.Join("../../.base/dendrite", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range handle.FindAllStringSubmatch(string(source), -1) {
			if strings.Contains(m[1], "room_keys") || strings.HasPrefix(m[1], "/admin") || strings.Contains(m[1], "{roomAlias}") {
				continue
			}
			for _, method := range regexp.MustCompile(`http\.Method(\w+)`).FindAllStringSubmatch(m[3], -1) {
				if method[1] != "Options" {
					found = append(found, strings.ToUpper(method[1])+" "+m[1])
				}
			}
		}
	}
	if len(found) < 30 {
		t.Fatalf("there are only %d routes: %q", len(found), found)
	}
	return found
}

// call sends a request whose path has this room ID, under the version of the API that has the route.
func call(u *rig.User, route, room string) rig.Response {
	method, path, _ := strings.Cut(route, " ")
	path = variable.ReplaceAllStringFunc(path, func(v string) string {
		switch name := strings.ToLower(strings.Trim(v, "{}")); {
		case strings.HasPrefix(name, "roomid"):
			return url.PathEscape(room)
		case name == "userid":
			return url.PathEscape(u.ID)
		}
		return "m.x"
	})
	r := u.Do(method, "/_matrix/client/v3"+path, nil, object{})
	if r.ErrCode() == "M_UNRECOGNIZED" {
		r = u.Do(method, "/_matrix/client/v1"+path, nil, object{})
	}
	return r
}

var variable = regexp.MustCompile(`\{[^}]*\}`)

// TestMalformedRoomIDs sends malformed room IDs to every route with a room ID: it is the client's error, and the server
// goes on.
func TestMalformedRoomIDs(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	for _, route := range routes(t) {
		for _, id := range malformed {
			if isAlias := strings.Contains(route, "OrAlias") && id[0] == '#'; isAlias {
				continue
			}
			r := call(alice, route, id)
			if r.ErrCode() == "M_UNRECOGNIZED" { // peeking, which is disabled
				continue
			}
			expect(t, route+" with "+id, r, http.StatusBadRequest, "M_INVALID_PARAM")
		}
	}
	if strings.Contains(s.Log(), "panic") {
		t.Error("there was a panic")
	}
}

// TestUnknownRooms sends IDs of unknown rooms, of both forms, to the same routes.
func TestUnknownRooms(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	for _, route := range routes(t) {
		status := make(map[int]bool)
		for _, id := range []string{"!" + strings.Repeat("a", 43), "!unknown:localhost"} {
			status[call(alice, route, id).Status] = true
		}
		if len(status) != 1 {
			t.Errorf("%s: the form of the ID decides about the status: %v", route, status)
		}
	}
	if strings.Contains(s.Log(), "panic") {
		t.Error("there was a panic")
	}
}
