package rig

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/matrix-org/gomatrixserverlib"
)

// FakeRoom is a room as a Fake sees it: the state at the end of the branch on which it builds. It does not resolve
// state.
type FakeRoom struct {
	ID      string
	Version string
	State   map[[2]string]FakeEvent // by type and state key
	Last    []string                // the ends of the branch
	Depth   int64                   // of Last

	fake *Fake
	mu   *sync.Mutex  // guards the branch, because requests are answered while the test goes on
	all  *[]FakeEvent // all known events of the room, shared by all branches
}

// Domainless reports whether the room's ID is derived from its create event.
func (r *FakeRoom) Domainless() bool {
	return gomatrixserverlib.RoomVersion(r.Version).IsDomainless()
}

// Event returns a piece of the branch's state, or an empty event.
func (r *FakeRoom) Event(eventType, stateKey string) FakeEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.State[[2]string{eventType, stateKey}]
}

// Fork returns a branch that starts here.
func (r *FakeRoom) Fork() *FakeRoom {
	r.mu.Lock()
	defer r.mu.Unlock()
	branch := *r
	branch.mu = new(sync.Mutex)
	branch.State, branch.Last = maps.Clone(r.State), slices.Clone(r.Last)
	return &branch
}

// Draft returns the next event of the branch, with the right auth events and prev events. With a state key it is a
// state event.
func (r *FakeRoom) Draft(sender, eventType string, content map[string]any, stateKey ...string) Draft {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := Draft{
		"type": eventType, "sender": sender, "room_id": r.ID, "content": content, "depth": r.Depth + 1,
		"prev_events": slices.Clone(r.Last), "auth_events": r.authEvents(sender, eventType, content, stateKey...),
	}
	if len(stateKey) > 0 {
		d["state_key"] = stateKey[0]
	}
	if eventType == "m.room.create" && r.Domainless() {
		delete(d, "room_id")
	}
	return d
}

func (r *FakeRoom) authEvents(sender, eventType string, content map[string]any, stateKey ...string) []string {
	keys := [][2]string{{"m.room.power_levels", ""}, {"m.room.member", sender}}
	if !r.Domainless() {
		keys = append(keys, [2]string{"m.room.create", ""})
	}
	if eventType == "m.room.member" && len(stateKey) > 0 {
		if stateKey[0] != sender {
			keys = append(keys, [2]string{"m.room.member", stateKey[0]})
		}
		if content["membership"] == "join" || content["membership"] == "invite" {
			keys = append(keys, [2]string{"m.room.join_rules", ""})
		}
	}
	ids := []string{}
	if eventType == "m.room.create" {
		return ids
	}
	for _, key := range keys {
		if e, ok := r.State[key]; ok {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// Add signs the draft and appends it to the branch.
func (r *FakeRoom) Add(d Draft) FakeEvent {
	r.fake.t.Helper()
	e := r.fake.Sign(r.Version, d)
	r.Append(e)
	return e
}

// Append appends an event to the branch.
func (r *FakeRoom) Append(e FakeEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Last, r.Depth = []string{e.ID}, e.Get("depth").Int()
	if e.isState() {
		r.State[e.key()] = e
	}
	r.Learn(e)
}

// Receive appends an event of another server to the branch.
func (r *FakeRoom) Receive(raw string) FakeEvent {
	e := ReadEvent(r.Version, raw)
	r.Append(e)
	return e
}

// Learn makes the fake serve these events of the room.
func (r *FakeRoom) Learn(events ...FakeEvent) {
	r.fake.mu.Lock()
	defer r.fake.mu.Unlock()
	*r.all = append(*r.all, events...)
}

// Message appends a message to the branch.
func (r *FakeRoom) Message(sender, text string) FakeEvent {
	r.fake.t.Helper()
	return r.Add(r.Draft(sender, "m.room.message", map[string]any{"msgtype": "m.text", "body": text}))
}

// SetState appends a state event to the branch.
func (r *FakeRoom) SetState(sender, eventType, stateKey string, content map[string]any) FakeEvent {
	r.fake.t.Helper()
	return r.Add(r.Draft(sender, eventType, content, stateKey))
}

// StateEvents returns the branch's state.
func (r *FakeRoom) StateEvents() []FakeEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.State))
}

// AuthChain returns all events that the events' auth events lead to, and the create event.
func (r *FakeRoom) AuthChain(events ...FakeEvent) []FakeEvent {
	r.fake.mu.Lock()
	byID := map[string]FakeEvent{}
	for _, e := range *r.all {
		byID[e.ID] = e
	}
	r.fake.mu.Unlock()
	chain := map[string]FakeEvent{}
	var walk func(id string)
	walk = func(id string) {
		e, known := byID[id]
		if _, seen := chain[id]; seen || !known {
			return
		}
		chain[id] = e
		for _, auth := range e.Get("auth_events").Array() {
			walk(auth.Str)
		}
	}
	for _, e := range events {
		for _, auth := range e.Get("auth_events").Array() {
			walk(auth.Str)
		}
	}
	if create := r.Event("m.room.create", ""); create.ID != "" {
		chain[create.ID] = create
	}
	return slices.Collect(maps.Values(chain))
}

// IDs returns the IDs of events.
func IDs(events []FakeEvent) []string {
	ids := []string{}
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

// NewRoom creates a public room with one member on the fake server, and serves it.
func (f *Fake) NewRoom(version, creator string, createContent map[string]any) *FakeRoom {
	f.t.Helper()
	r := &FakeRoom{Version: version, State: map[[2]string]FakeEvent{}, Last: []string{}, fake: f, mu: new(sync.Mutex), all: new([]FakeEvent)}
	content := map[string]any{"room_version": version}
	if version < "11" && len(version) > 1 || len(version) == 1 {
		content["creator"] = creator
	}
	maps.Copy(content, createContent)
	if !r.Domainless() {
		r.ID = "!" + strings.ToLower(strings.TrimPrefix(f.Sign("10", Draft{"type": "x", "content": map[string]any{}}).ID, "$")) + ":" + f.Name
	}
	create := r.Add(r.Draft(creator, "m.room.create", content, ""))
	if r.Domainless() {
		r.ID = "!" + create.ID[1:]
	}
	f.mu.Lock()
	f.rooms[r.ID] = r
	f.mu.Unlock()
	users := map[string]any{creator: 100}
	if r.Domainless() {
		users = map[string]any{}
	}
	r.SetState(creator, "m.room.member", creator, map[string]any{"membership": "join"})
	r.SetState(creator, "m.room.power_levels", "", map[string]any{"users": users})
	r.SetState(creator, "m.room.join_rules", "", map[string]any{"join_rule": "public"})
	r.SetState(creator, "m.room.history_visibility", "", map[string]any{"history_visibility": "shared"})
	return r
}

// Join joins a user of the fake server to a room of the server, and returns the room as the server describes it.
func (f *Fake) Join(s *Server, room, user, version string) *FakeRoom {
	f.t.Helper()
	r := f.Ask(s, http.MethodGet, FederationPath("v1", "make_join", room, user)+"?ver="+url.QueryEscape(version), nil)
	if r.Status != http.StatusOK {
		f.t.Fatalf("make_join: %d %s", r.Status, r.Body)
	}
	var d Draft
	if err := json.Unmarshal([]byte(r.JSON.Get("event").Raw), &d); err != nil {
		f.t.Fatal(err)
	}
	for _, field := range []string{"hashes", "signatures", "event_id", "unsigned", "origin_server_ts"} {
		delete(d, field)
	}
	join := f.Sign(version, d)
	r = f.Ask(s, http.MethodPut, FederationPath("v2", "send_join", room, join.ID), join)
	if r.Status != http.StatusOK {
		f.t.Fatalf("send_join: %d %s", r.Status, r.Body)
	}
	joined := &FakeRoom{ID: room, Version: version, State: map[[2]string]FakeEvent{}, fake: f, mu: new(sync.Mutex), all: new([]FakeEvent)}
	for _, raw := range r.JSON.Get("auth_chain").Array() {
		joined.Learn(ReadEvent(version, raw.Raw))
	}
	for _, raw := range r.JSON.Get("state").Array() {
		e := ReadEvent(version, raw.Raw)
		joined.State[e.key()] = e
		joined.Learn(e)
	}
	joined.Append(join)
	f.mu.Lock()
	f.rooms[room] = joined
	f.mu.Unlock()
	return joined
}

// Standard is the fake's standard answer: its key, and the events of its rooms.
func (f *Fake) Standard(r FakeRequest) (int, any) {
	parts := strings.Split(strings.TrimPrefix(r.Path, "/_matrix/"), "/")
	switch {
	case r.Path == "/_matrix/key/v2/server":
		return http.StatusOK, f.keys()
	case len(parts) < 4 || parts[0] != "federation":
	case parts[2] == "send":
		return http.StatusOK, map[string]any{"pdus": map[string]any{}}
	case parts[2] == "event":
		return f.event(parts[3])
	case parts[2] == "query":
	default:
		f.mu.Lock()
		room := f.rooms[parts[3]]
		f.mu.Unlock()
		if room != nil {
			return room.answer(parts[2], r)
		}
	}
	return http.StatusNotFound, map[string]any{"errcode": "M_NOT_FOUND", "error": "the fake knows nothing of it"}
}

func (f *Fake) event(id string) (int, any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, room := range f.rooms {
		for _, e := range *room.all {
			if e.ID == id {
				return http.StatusOK, map[string]any{"origin": f.Name, "origin_server_ts": 1, "pdus": []any{e}}
			}
		}
	}
	return http.StatusNotFound, map[string]any{"errcode": "M_NOT_FOUND", "error": "the fake has no such event"}
}

// answer answers a request about one of the fake's rooms.
func (r *FakeRoom) answer(what string, req FakeRequest) (int, any) {
	state := r.StateEvents()
	switch what {
	case "make_join":
		user := req.Last()
		return http.StatusOK, map[string]any{
			"room_version": r.Version,
			"event":        r.Draft(user, "m.room.member", map[string]any{"membership": "join"}, user).With("origin", r.fake.Name).With("origin_server_ts", 1),
		}
	case "send_join":
		answer := r.SendJoin(state, r.AuthChain(state...), req)
		r.Append(ReadEvent(r.Version, req.Body.Raw))
		return http.StatusOK, answer
	case "state_ids":
		return http.StatusOK, map[string]any{"pdu_ids": IDs(state), "auth_chain_ids": IDs(r.AuthChain(state...))}
	case "state":
		return http.StatusOK, map[string]any{"pdus": state, "auth_chain": r.AuthChain(state...)}
	case "event_auth":
		return http.StatusOK, map[string]any{"auth_chain": r.AuthChain(state...)}
	case "backfill":
		r.fake.mu.Lock()
		events := slices.Clone(*r.all)
		r.fake.mu.Unlock()
		slices.Reverse(events)
		return http.StatusOK, map[string]any{"origin": r.fake.Name, "origin_server_ts": 1, "pdus": events}
	case "get_missing_events":
		return http.StatusOK, map[string]any{"events": r.between(req)}
	}
	return http.StatusNotFound, map[string]any{"errcode": "M_NOT_FOUND", "error": "the fake does not do that"}
}

// between returns the events for a request to get_missing_events: those before the latest ones, back to the earliest
// ones.
func (r *FakeRoom) between(req FakeRequest) []FakeEvent {
	stop := map[string]bool{}
	for _, id := range req.Body.Get("earliest_events").Array() {
		stop[id.Str] = true
	}
	latest := map[string]bool{}
	for _, id := range req.Body.Get("latest_events").Array() {
		latest[id.Str] = true
	}
	r.fake.mu.Lock()
	defer r.fake.mu.Unlock()
	events := []FakeEvent{}
	for found := true; found; {
		found = false
		for _, e := range *r.all {
			if !latest[e.ID] {
				continue
			}
			for _, prev := range e.Get("prev_events").Array() {
				if id := prev.Str; !stop[id] && !latest[id] {
					latest[id], found = true, true
					if i := slices.IndexFunc(*r.all, func(e FakeEvent) bool { return e.ID == id }); i >= 0 {
						events = append(events, (*r.all)[i])
					}
				}
			}
		}
	}
	if limit := int(req.Body.Get("limit").Int()); limit > 0 && len(events) > limit {
		events = events[:limit]
	}
	slices.Reverse(events)
	return events
}

// SendJoin is an answer to send_join with the given state.
func (r *FakeRoom) SendJoin(state, chain []FakeEvent, req FakeRequest) map[string]any {
	return map[string]any{
		"origin": r.fake.Name, "state": state, "auth_chain": chain, "event": json.RawMessage(req.Body.Raw), "members_omitted": false,
	}
}
