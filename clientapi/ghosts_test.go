package clientapi

import (
	"testing"
	"time"
)

func TestCallEnd(t *testing.T) {
	const sent, hour = 1_000_000_000, 3_600_000
	for content, want := range map[string]int64{ // 0: in no call
		`{}`:                                    0,
		`{"memberships":[]}`:                    0,
		`{"slot_id":"m.call#ROOM"}`:             0,
		`null`:                                  0,
		`{"application":"m.call","call_id":""}`: sent + 4*hour,
		`{"application":{"type":"m.call"},"slot_id":"m.call#ROOM"}`:                                           sent + 4*hour,
		`{"application":"m.call","expires":1000}`:                                                             sent + 1000,
		`{"application":"m.call","expires":1000,"created_ts":500}`:                                            1500,
		`{"application":"m.call","created_ts":500}`:                                                           500 + 4*hour,
		`{"application":"m.call","expires":"soon"}`:                                                           sent + 4*hour,
		`{"application":"m.call","expires":-1,"created_ts":null}`:                                             sent + 4*hour,
		`{"application":"m.call","expires":1e300}`:                                                            sent + 1<<53,
		`{"memberships":[{"application":"m.call","expires_ts":700},{"application":"m.call","expires":10},7]}`: sent + 10,
		`{"memberships":[{"application":"m.call","expires_ts":700}]}`:                                         700,
	} {
		if end, member := callEnd([]byte(content), sent, 4*time.Hour); end != want || member != (want != 0) {
			t.Errorf("%s: %d, %v; want %d", content, end, member, want)
		}
	}
}
