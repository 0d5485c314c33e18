package ledger

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// FuzzRestore: rows of any content are restored without a panic, and every future that is scheduled after that can be ended.
func FuzzRestore(f *testing.F) {
	f.Add(int64(1), uint8(1), uint8(0), int64(1e12), int64(1e12), int64(8000), uint32(7), true, "@alice:test", "!room:test", "group")
	f.Add(int64(9), uint8(2), uint8(4), int64(0), int64(0), int64(0), uint32(0), false, "", "", "")
	f.Add(int64(-1), uint8(9), uint8(255), int64(-1<<63), int64(1<<62), int64(-5), uint32(1), true, "\xff", "\x00", "g")
	f.Fuzz(func(t *testing.T, nid int64, state, policy uint8, deadline, graced, timeout int64, key uint32, refreshed bool, user, room, group string) {
		now := Time{Now: 2e12, Ceil: 2e12, Age: 1}
		l := New(Config{
			Futures: Limits{MaxTimeout: time.Hour, MaxPerUser: 10}, Delayed: Limits{MaxTimeout: time.Hour, MaxPerUser: 10},
			Slack: time.Minute, Grace: 10 * time.Second, MaxBytes: 1 << 20,
		}, now)
		var refs []Ref
		for i := range int64(3) { // several in one group
			row := storage.Timer{
				NID: api.NID(nid + i), State: api.State(state), Policy: api.Policy(policy), Secret: api.Secret{byte(i)},
				Deadline: deadline, Graced: graced, Timeout: time.Duration(timeout) * time.Millisecond, KeyHash: key, Refreshed: refreshed,
				UserID: []byte(user), RoomID: []byte(room), GroupID: []byte(group),
			}
			found := l.Find(&row, now)
			ref, _, _ := l.Restore(&found)
			refs = append(refs, ref)
		}
		var c Changes
		l.Restored(api.NID(nid+2), now, &c)
		l.Due(now, 100, func(Ref, int64, uint64) {})
		for _, ref := range refs {
			l.End(ref, api.Cancelled, now, &c)
			if v, ok := l.At(ref); ok && v.State == api.Scheduled {
				t.Errorf("%+v is still scheduled", v)
			}
		}
	})
}
