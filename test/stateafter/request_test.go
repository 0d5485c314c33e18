package stateafter

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/matrix-org/dendrite/test"
	"github.com/tidwall/gjson"
)

// TestSpellings: state_after has the names that the request uses, and a client that does not ask for it gets Dendrite's
// own answer, byte for byte.
func TestSpellings(t *testing.T) {
	s := newServer(t, test.DBTypeSQLite)
	c := newScene(s)
	const stable, unstable = "use_state_after", "org.matrix.msc4222.use_state_after"
	path := "rooms.join." + gjson.Escape(c.room.ID) + "."
	for _, q := range []url.Values{
		{stable: {"true"}}, {unstable: {"true"}}, {stable: {"true"}, unstable: {"true"}}, {stable: {"false"}, unstable: {"true"}},
	} {
		room := s.get(s.ours, c.alice.ID, q)
		has := func(field string) bool { return room.Get(path + gjson.Escape(field) + ".events.0").Exists() }
		if has("state") || has("state_after") != (q.Get(stable) == "true") ||
			has("org.matrix.msc4222.state_after") != (q.Get(unstable) == "true") {
			t.Errorf("%v: %s", q, room.Get(path+"@keys"))
		}
	}
	since := s.get(s.stock, c.alice.ID, nil).Get("next_batch").String()
	c.setTopic("new")
	for _, q := range []url.Values{
		{}, {"since": {since}}, {"since": {since}, stable: {"false"}}, {"since": {"nonsense"}}, {"full_state": {"true"}, unstable: {""}},
		{"since": {"nonsense"}, stable: {"true"}}, // an error is not changed
	} {
		ours, stock := s.ask(s.ours, c.alice.ID, q), s.ask(s.stock, c.alice.ID, q)
		if ours.Code != stock.Code || ours.Body.String() != stock.Body.String() {
			t.Errorf("%v: %d %s\nbut Dendrite: %d %s", q, ours.Code, ours.Body, stock.Code, stock.Body)
		}
	}
	// A poll that ends because the server stops gets an answer.
	ctx, cancel := context.WithCancel(t.Context())
	s.after = cancel
	w := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/_matrix/client/v3/sync?use_state_after=true&since="+since, nil)
	req.Header.Set("Authorization", "Bearer "+c.alice.ID)
	if s.ours.ServeHTTP(w, req); w.Code != http.StatusOK || !gjson.Get(w.Body.String(), path+"state_after.events.0").Exists() {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// Without the sync API's database there is an error instead of a wrong answer.
	s.after = func() { s.exec("ALTER TABLE syncapi_output_room_events RENAME TO gone") }
	if w := s.ask(s.ours, c.alice.ID, url.Values{stable: {"true"}, "since": {since}}); w.Code != http.StatusInternalServerError ||
		gjson.Get(w.Body.String(), "errcode").String() != "M_UNKNOWN" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s.exec("ALTER TABLE gone RENAME TO syncapi_output_room_events")
}

func (s *server) exec(query string) {
	s.Helper()
	if _, err := s.db.Exec(query); err != nil {
		s.Fatal(err)
	}
}
