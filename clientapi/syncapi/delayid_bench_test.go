package syncapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// noIDs has no delay IDs.
type noIDs struct{ api.SyncAPI }

func (noIDs) QueryDelayIDs(context.Context, string) (map[string]string, error) { return nil, nil }

// quiet is a writer that discards everything.
type quiet struct{ header http.Header }

func (q quiet) Header() http.Header         { return q.header }
func (q quiet) WriteHeader(int)             {}
func (q quiet) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkShowDelayIDs measures a sync without delayed events, compared with the handler alone and with another
// request.
func BenchmarkShowDelayIDs(b *testing.B) {
	body := []byte(`{"next_batch":"s1","rooms":{}}`)
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if caller, ok := r.Context().Value(callerKey{}).(*string); ok {
			*caller = "@bob:test" // as callerNotes does
		}
		w.Header()["Content-Type"] = []string{"application/json"}
		w.WriteHeader(http.StatusOK)
		w.Write(body) //nolint:errcheck // it never fails
	})
	for _, c := range []struct {
		name   string
		h      http.Handler
		target string
	}{
		{"handler alone", inner, syncing},
		{"other request", ShowDelayIDs(noIDs{}, inner), client + "/v3/rooms/!r:test/send/m/1"},
		{"nobody has any", ShowDelayIDs(noIDs{}, inner), syncing},
	} {
		b.Run(c.name, func(b *testing.B) {
			req := httptest.NewRequest("GET", c.target, nil)
			w := quiet{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				c.h.ServeHTTP(w, req)
			}
		})
	}
}

// BenchmarkMarkEvents measures a sync of 1 MB in which one of a thousand events is marked.
func BenchmarkMarkEvents(b *testing.B) {
	var events strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&events, `{"content":{"msgtype":"m.text","body":%q},"event_id":"$%d","origin_server_ts":1700000000000,"sender":"@alice:test","type":"m.room.message","unsigned":{"age":1}},`,
			strings.Repeat("a word ", 120), i)
	}
	body := `{"rooms":{"join":{"!r:test":{"timeline":{"events":[` + strings.TrimSuffix(events.String(), ",") + `]}}}}}`
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		writeMarked(io.Discard, body, markEvents(body, alice, map[string]string{"$1": "d1"}))
	}
}
