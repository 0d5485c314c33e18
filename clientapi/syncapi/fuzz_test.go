package syncapi

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzMarkEvents adds delay IDs to bodies. Valid JSON must stay valid.
func FuzzMarkEvents(f *testing.F) {
	for _, body := range []string{
		`{"event_id":"$e","sender":"@a:b","unsigned":{}}`, `[{"event_id":"$e","sender":"@a:b","unsigned":{"age":1}},1]`,
		`{"x":{"event_id":"$e","sender":"@a:b","content":{"event_id":"$e","sender":"@a:b"}}}`, `{"event_id":"$e"`,
	} {
		f.Add(body)
	}
	ids := map[string]string{"$e": "delay"}
	f.Fuzz(func(t *testing.T, body string) {
		marked := new(strings.Builder)
		writeMarked(marked, body, markEvents(body, "@a:b", ids))
		if json.Valid([]byte(body)) && !json.Valid([]byte(marked.String())) {
			t.Errorf("%s became %s", body, marked)
		}
	})
}
