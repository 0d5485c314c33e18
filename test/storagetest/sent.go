package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// sent looks up the managed futures of one user that were sent, newest first.
func sent(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	look := func(userID string, limit int) (found []string, err error) {
		err = db.SelectSent(t.Context(), userID, limit, func(eventID, groupID string) {
			found = append(found, eventID+" "+groupID)
		})
		return found, err
	}
	senders := func() (found []string, err error) {
		err = db.SelectSenders(t.Context(), func(userID string) { found = append(found, userID) })
		slices.Sort(found)
		return found, err
	}
	expect := func(userID string, limit int, want ...string) {
		t.Helper()
		got, err := look(userID, limit)
		check(t, fmt.Sprintf("SelectSent(%s, %d)", userID, limit), got, err, want)
	}
	expect(users[0], 10)

	futures := samples(1, 2, 3, 4, 5, 6, 7)
	for _, f := range futures {
		f.Policy |= api.Managed
	}
	futures[1].Policy, futures[2].UserID = api.CancelOnNewerState, users[1]
	line := func(i int) string { return "$" + fmt.Sprint(i) + " " + futures[i-1].GroupID }
	b := &storage.Batch{Inserts: futures}
	for _, i := range []api.NID{1, 2, 3, 4, 5, 7} {
		b.Claims = append(b.Claims, storage.Claim{NID: i, Event: event("$" + fmt.Sprint(i)), At: 1})
	}
	commit(t, db, b)     // the sixth is scheduled
	expect(users[0], 10) // futures that are being sent are live
	got, err := senders()
	check(t, "SelectSenders", got, err, []string(nil))

	b = &storage.Batch{}
	for i, state := range []api.State{api.Sent, api.Sent, api.Sent, api.Failed, api.Sending, api.Cancelled, api.Sent} {
		if !state.Live() {
			b.Ends = append(b.Ends, storage.End{NID: api.NID(i + 1), State: state, At: int64(i + 1)})
		}
	}
	commit(t, db, b)
	expect(users[0], 10, line(7), line(1))
	expect(users[0], 1, line(7))
	expect(users[1], 10, line(3))
	expect("@nobody:test", 10)
	got, err = senders()
	check(t, "SelectSenders", got, err, slices.Sorted(slices.Values([]string{users[0], users[1]})))

	commit(t, db, &storage.Batch{ForgetBefore: 3})
	expect(users[0], 10, line(7))
	commit(t, db, &storage.Batch{ForgetBefore: 8})
	expect(users[0], 10)
	got, err = senders()
	check(t, "SelectSenders", got, err, []string(nil))

	db.Close()
	_, lookErr := look(users[0], 1)
	_, sendersErr := senders()
	if err = errors.Join(lookErr, sendersErr); lookErr == nil || sendersErr == nil {
		t.Errorf("a closed database answers: %v", err)
	}
}
