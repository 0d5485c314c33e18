package roomserver

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// FuzzReadNewEvent encodes an output as the roomserver does, and reads it. It also reads arbitrary bytes.
func FuzzReadNewEvent(f *testing.F) {
	f.Add("$e", "m.room.member", "@a:b", true, false, "$e,$a", "$b", []byte(`{"new_room_event":{"event":{"_event_id":1,"type":[]}}}`))
	f.Add("\"\\", "\u2028", "", false, true, "", ",,", []byte(`{`))
	f.Fuzz(func(t *testing.T, id, kind, key string, isState, rewrites bool, added, removed string, other []byte) {
		readNewEvent(other)
		for _, s := range []string{id, kind, key, added, removed} {
			if !utf8.ValidString(s) {
				return // JSON cannot have it
			}
		}
		event := map[string]any{"_event_id": id, "type": kind, "content": map[string]any{"type": "another", "_event_id": "$x"}}
		want := newEvent{id: id, rewrites: rewrites, removed: strings.Split(removed, ",")}
		if isState {
			event["state_key"] = key
			want.key = []api.StateKeyTuple{{Type: kind, StateKey: key}}
		}
		want.added = slices.DeleteFunc(strings.Split(added, ","), func(other string) bool { return other == id })
		data, err := json.Marshal(map[string]any{"type": "new_room_event", "new_room_event": map[string]any{
			"event": event, "rewrites_state": rewrites,
			"adds_state_event_ids": strings.Split(added, ","), "removes_state_event_ids": strings.Split(removed, ","),
		}})
		if err != nil {
			t.Fatal(err)
		}
		if len(want.added) == 0 {
			want.added = nil
		}
		if got, ok := readNewEvent(data); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nis read as %+v, %v\nwant %+v", data, got, ok, want)
		}
	})
}
