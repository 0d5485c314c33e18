// Package unsigned tests, on a whole server and from outside, that the sender of a delayed event sees its ID on the
// sent event, that nobody else does, and that everything else is Dendrite's answer (generation 1, 6.8; generation 2,
// 4.8 and 4.9).
package unsigned

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	needle   = "quinquennial"
	rootText = "the root of a thread"
	within   = 20 * time.Second
)

// home is a server with a room: alice, who schedules, on two devices; bob and a bridge watch.
type home struct {
	*testing.T
	*rig.Server
	alice, laptop, bob, bridged *rig.User
	room, root                  string
	pushed                      pushes
}

// pushes is the bridge, with everything that the server has pushed to it.
type pushes struct {
	mu   sync.Mutex
	text strings.Builder
	came chan struct{}
}

func (p *pushes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	io.Copy(&p.text, r.Body)
	p.mu.Unlock()
	io.WriteString(w, "{}")
	select {
	case p.came <- struct{}{}:
	default:
	}
}

func (p *pushes) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func newHome(t *testing.T) *home {
	h := &home{T: t, pushed: pushes{came: make(chan struct{}, 1)}}
	bridge := httptest.NewServer(&h.pushed)
	t.Cleanup(bridge.Close)
	h.Server = rig.New(t, rig.Config{Set: map[string]any{
		"app_service_api.config_files": []any{rig.BridgeRegistration(t, bridge.URL)},
		"sync_api.search.enabled":      true,
		"sync_api.search.index_path":   filepath.Join(t.TempDir(), "search"),
	}})
	h.alice, h.bob, h.bridged = h.Register(t, "alice"), h.Register(t, "bob"), h.Register(t, "bridged_one")
	h.laptop = h.Login(t, h.alice)
	h.room = h.alice.CreateRoom(nil)
	h.bob.Join(h.room)
	h.bridged.Join(h.room)
	h.bridged.Token = rig.BridgeToken // from here on the bridge acts for it
	h.root = h.bob.Send(h.room, "m.room.message", map[string]any{"msgtype": "m.text", "body": rootText})
	h.alice.WaitFor(h.room, rig.HasBody(rootText), within) // later events come after this one
	return h
}

// A road is one way to see events.
type road struct {
	name  string
	path  string
	query url.Values
	body  any      // of a POST; nil: it is a GET
	shows []string // events that must be visible there
}

// roads are all requests that show a message of the thread and a membership; "" stands for none.
func (h *home) roads(message, member string) []road {
	v1 := func(path string) string { return strings.Replace(path, "/v3/", "/v1/", 1) }
	in := func(segments ...string) string { return rig.Path(append([]string{"rooms", h.room}, segments...)...) }
	limit := url.Values{"limit": {"50"}}
	search := map[string]any{"search_categories": map[string]any{"room_events": map[string]any{
		"search_term": needle, "event_context": map[string]any{"before_limit": 2, "after_limit": 2},
	}}}
	all := []road{
		{"sync", rig.Path("sync"), url.Values{"timeout": {"0"}, "filter": {`{"room":{"timeline":{"limit":50}}}`}}, nil, []string{message, member}},
		{"sync, r0", strings.Replace(rig.Path("sync"), "/v3/", "/r0/", 1), url.Values{"timeout": {"0"}}, nil, []string{message, member}},
		{"sync with state_after", rig.Path("sync"), url.Values{"timeout": {"0"}, "use_state_after": {"true"}}, nil, []string{message, member}},
		{"messages", in("messages"), url.Values{"dir": {"b"}, "limit": {"50"}}, nil, []string{message, member}},
		{"context", in("context", message), limit, nil, []string{message}},
		{"event", in("event", message), nil, nil, []string{message}},
		{"relations", v1(in("relations", h.root)), limit, nil, []string{message}},
		{"relations by type", v1(in("relations", h.root, "m.thread")), limit, nil, []string{message}},
		{"search", rig.Path("search"), nil, search, []string{message}},
		{"state", in("state"), nil, nil, []string{member}},
		{"one state event", in("state", "m.room.member", h.alice.ID), url.Values{"format": {"event"}}, nil, []string{member}},
		{"members", in("members"), nil, nil, []string{member}},
	}
	for i := range all {
		all[i].shows = slices.DeleteFunc(all[i].shows, func(id string) bool { return id == "" })
	}
	return all
}

// take sends the request of a road; the bridge does it for its user.
func (h *home) take(u *rig.User, r road) (rig.Response, error) {
	method := http.MethodGet
	if r.body != nil {
		method = http.MethodPost
	}
	return u.Client.Do(h.Context(), method, r.path, h.as(u, r.query), r.body)
}

func (h *home) as(u *rig.User, query url.Values) url.Values {
	if u != h.bridged {
		return query
	}
	query = maps.Clone(query)
	if query == nil {
		query = url.Values{}
	}
	query.Set("user_id", u.ID)
	return query
}

// must is take for a request that must succeed.
func (h *home) must(u *rig.User, r road) rig.Response {
	h.Helper()
	res, err := h.take(u, r)
	if err != nil || res.Status != http.StatusOK {
		h.Fatalf("%s, %s: %d %s %v", u.ID, r.name, res.Status, res.Body, err)
	}
	return res
}

// schedule creates a delayed event and returns its ID.
func (h *home) schedule(u *rig.User, content any, path ...string) string {
	h.Helper()
	query := h.as(u, url.Values{"org.matrix.msc4140.delay": {"300"}})
	r := u.Do(http.MethodPut, rig.Path(append([]string{"rooms", h.room}, path...)...), query, content)
	id := r.JSON.Get("delay_id").String()
	if r.Status != http.StatusOK || id == "" {
		h.Fatalf("scheduling: %d %s", r.Status, r.Body)
	}
	return id
}

// sent schedules an event and returns its event ID when the user sees it. A client that waits for it must find the
// delay ID on it the first time.
func (h *home) sent(u *rig.User, content any, path ...string) (eventID, delayID string) {
	h.Helper()
	sync := road{name: "sync", path: rig.Path("sync"), query: url.Values{"timeout": {"0"}}}
	sync.query = url.Values{"timeout": {"20000"}, "since": {h.must(u, sync).JSON.Get("next_batch").String()}}
	type sight struct {
		rig.Response
		error
	}
	first := make(chan sight, 1)
	go func() {
		for {
			r, err := h.take(u, sync)
			if sync.query.Set("since", r.JSON.Get("next_batch").String()); err != nil || r.Status != http.StatusOK || len(eventsIn(h.T, r.Body)) > 0 {
				first <- sight{r, err}
				return
			}
		}
	}()
	delayID = h.schedule(u, content, path...)
	s := <-first
	events := eventsIn(h.T, s.Body)
	if s.error != nil || len(events) == 0 {
		h.Fatalf("sync: %d %s %v", s.Status, s.Body, s.error)
	}
	h.expect("the first sight", s.Body, map[string]string{events[0].id: delayID})
	return events[0].id, delayID
}

// message creates a delayed message in the thread.
func (h *home) message(u *rig.User, text string) (eventID, delayID string) {
	h.Helper()
	return h.sent(u, map[string]any{
		"msgtype": "m.text", "body": text, "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": h.root},
	}, "send", "m.room.message", u.NextTxn())
}

// expect checks that those events have those delay IDs, and no other event has any.
func (h *home) expect(where string, body []byte, ids map[string]string) {
	h.Helper()
	for _, e := range eventsIn(h.T, body) {
		if e.unstable != ids[e.id] || e.stable != ids[e.id] {
			h.Errorf("%s: event %s has the delay IDs %q and %q, want %q in %s", where, e.id, e.unstable, e.stable, ids[e.id], body)
		}
	}
}

// event is an event in a response.
type event struct{ id, unstable, stable string }

// eventsIn finds all events in a body, wherever they are.
func eventsIn(t testing.TB, body []byte) (found []event) {
	var search func(value any)
	search = func(value any) {
		switch v := value.(type) {
		case []any:
			for _, member := range v {
				search(member)
			}
		case map[string]any:
			id, isEvent := v["event_id"].(string)
			if _, hasSender := v["sender"]; isEvent && hasSender {
				e := event{id: id}
				unsigned, _ := v["unsigned"].(map[string]any)
				e.unstable, _ = unsigned["org.matrix.msc4140.delay_id"].(string)
				e.stable, _ = unsigned["delay_id"].(string)
				found = append(found, e)
			}
			for _, member := range v {
				search(member)
			}
		}
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		t.Errorf("%s: %v", body, err)
	}
	search(value)
	return found
}

func TestDelayIDsAreTheSendersAlone(t *testing.T) {
	h := newHome(t)
	mine := map[string]string{}
	mark := func(event, id string) string { mine[event] = id; return event }
	message := mark(h.message(h.alice, needle))
	member := mark(h.sent(h.laptop, map[string]any{"membership": "join", "displayname": "Alice, later"}, "state", "m.room.member", h.alice.ID))
	theirEvent, theirID := h.message(h.bridged, "of the bridge's user")
	theirs := map[string]string{theirEvent: theirID}
	h.alice.Send(h.room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "at once"})

	roads := h.roads(message, member)
	h.indexed(roads)
	look := func() {
		for _, r := range roads {
			for u, ids := range map[*rig.User]map[string]string{h.alice: mine, h.laptop: mine, h.bob: nil, h.bridged: theirs} {
				res := h.must(u, r)
				h.expect(u.ID+", "+r.name, res.Body, ids)
				for _, id := range r.shows {
					if !slices.ContainsFunc(eventsIn(t, res.Body), func(e event) bool { return e.id == id }) {
						t.Errorf("%s, %s: event %s is not to be seen in %s", u.ID, r.name, id, res.Body)
					}
				}
			}
		}
	}
	look()
	h.Kill()
	h.Start()
	look()

	// The bridge gets all events of the room, but no ID.
	for !strings.Contains(h.pushed.all(), theirEvent) || !strings.Contains(h.pushed.all(), message) {
		select {
		case <-h.pushed.came:
		case <-time.After(within):
			t.Fatal("the bridge was not told")
		}
	}
	if strings.Contains(h.pushed.all(), "delay_id") {
		t.Errorf("the bridge was told of a delay ID: %s", h.pushed.all())
	}
	h.Stop()
	h.nowhereElse(slices.Concat(slices.Collect(maps.Values(mine)), []string{theirID}))
}

// indexed waits until the search, which is late, finds the events.
func (h *home) indexed(roads []road) {
	h.Helper()
	i := slices.IndexFunc(roads, func(r road) bool { return r.name == "search" })
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		if len(eventsIn(h.T, h.must(h.bob, roads[i]).Body)) > 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	h.Fatal("the search finds nothing")
}

// nowhereElse checks everything that the server has written. An ID that is only in the futures' own database can get
// neither into an event for other servers nor into the log.
func (h *home) nowhereElse(ids []string) {
	h.Helper()
	files := 0
	err := filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "futureserver.db") {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		for _, id := range ids {
			if strings.Contains(string(data), id) {
				h.Errorf("a delay ID is in %s", d.Name())
			}
		}
		return err
	})
	if err != nil || files < 10 {
		h.Errorf("%d files, %v", files, err)
	}
}

// For everybody except users with delayed events the answers are Dendrite's: the same server is asked once with futures
// and once without, when nothing is in front of Dendrite's handlers.
func TestAllElseIsDendrites(t *testing.T) {
	h := newHome(t)
	message, messageID := h.message(h.alice, needle)
	member, memberID := h.sent(h.alice, map[string]any{"membership": "join", "displayname": "Alice, later"}, "state", "m.room.member", h.alice.ID)
	roads := h.roads(message, member)
	h.indexed(roads)
	quiet := h.alice.CreateRoom(nil)
	plain := h.alice.Send(quiet, "m.room.message", map[string]any{"body": "<at once> & for all"})
	marked := len(roads) // how many may differ for alice
	roads = append(roads,
		road{name: "another room", path: rig.Path("rooms", quiet, "messages"), query: url.Values{"dir": {"b"}}},
		road{name: "an event there", path: rig.Path("rooms", quiet, "event", plain)},
		road{name: "an event before", path: rig.Path("rooms", h.room, "event", h.root)},
		road{name: "a content", path: rig.Path("rooms", h.room, "state", "m.room.member", h.alice.ID)},
		road{name: "no event", path: rig.Path("rooms", h.room, "event", "$none")},
		road{name: "no room", path: rig.Path("rooms", "!none:localhost", "messages"), query: url.Values{"dir": {"b"}}},
		road{name: "no such path", path: rig.Path("rooms", h.room, "threads")},
		road{name: "no JSON", path: rig.Path("search"), body: "{"},
	)
	nobody := &rig.User{Client: h.Client(), ID: "nobody"}
	users := []*rig.User{h.alice, h.laptop, h.bob, h.bridged, nobody}
	ask := func() (answers []rig.Response) {
		h.Stop()
		h.Start() // both times just started
		for _, u := range users {
			for _, r := range roads {
				res, err := h.take(u, r)
				if err != nil {
					t.Fatal(err)
				}
				res.Header.Del("Date")
				res.Header.Del("Content-Length") // net/http's own
				answers = append(answers, res)
			}
		}
		return answers
	}
	ours := ask()
	h.switchOff()
	for i, want := range ask() {
		got := ours[i]
		name := users[i/len(roads)].ID + ", " + roads[i%len(roads)].name
		body := string(got.Body)
		if i%len(roads) < marked && users[i/len(roads)].ID == h.alice.ID {
			if body = without(without(body, messageID), memberID); body == string(got.Body) {
				t.Errorf("%s: there was nothing to take out of %s", name, body)
			}
		}
		if got.Status != want.Status || body != string(want.Body) || !reflect.DeepEqual(got.Header, want.Header) {
			t.Errorf("%s: with futures\n%d %v %s\nwithout\n%d %v %s", name, got.Status, got.Header, body, want.Status, want.Header, want.Body)
		}
	}
}

// without removes what was added for that delay ID from a body.
func without(body, delayID string) string {
	text := fmt.Sprintf(`"org.matrix.msc4140.delay_id":%q,"delay_id":%[1]q`, delayID)
	return strings.NewReplacer(`"unsigned":{`+text+`},`, "", text+",", "", text, "").Replace(body)
}

// switchOff switches futures off from the next start on.
func (h *home) switchOff() {
	h.Helper()
	path := filepath.Join(h.Dir, "dendrite.yaml")
	data, err := os.ReadFile(path)
	var root map[string]any
	if err == nil {
		err = yaml.Unmarshal(data, &root)
	}
	if err != nil {
		h.Fatal(err)
	}
	root["future_server"].(map[string]any)["enabled"] = false
	if data, err = yaml.Marshal(root); err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		h.Fatal(err)
	}
}
