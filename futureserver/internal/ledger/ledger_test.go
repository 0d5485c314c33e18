package ledger

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// restored returns a ledger that is restored from these rows, and the changes that the restart makes.
func restored(timers ...*storage.Timer) (*Ledger, *Changes) {
	now := Time{Now: 1000, Ceil: 1000, Age: 1}
	l, c := New(testConfig(), now), new(Changes)
	for i, t := range timers {
		t.NID, t.UserID, t.RoomID, t.GroupID = api.NID(i+1), []byte("@a:test"), []byte("!a:test"), []byte("g")
		t.Secret = api.Secret{byte(i)}
		f := l.Find(t, now)
		l.Restore(&f)
	}
	l.Restored(9, now, c)
	return l, c
}

// A restart settles groups that an older version or a fault has left unsettled on disk.
func TestRestoreSettles(t *testing.T) {
	_, c := restored(&storage.Timer{State: api.Scheduled}) // an action future without a timeout future
	if len(c.Ends) != 1 || c.Ends[0].State != api.Discarded {
		t.Errorf("an action future without a timeout future has not ended: %+v", c.Ends)
	}
	l, c := restored(
		&storage.Timer{State: api.Sending, Timeout: time.Second, Deadline: 900},
		&storage.Timer{State: api.Scheduled, Timeout: time.Second, Deadline: 1900})
	if len(c.Ends) != 1 || c.Ends[0].NID != 2 {
		t.Errorf("the other future of a claimed group has not ended: %+v", c.Ends)
	}
	if n := l.Counts(); n.Sending != 1 || n.Scheduled != 0 {
		t.Errorf("%+v", n)
	}
}

// A look at the disk that is out of date is not used: the name may have been used since.
func TestALookThatIsOutOfDate(t *testing.T) {
	now := Time{Now: 1000, Ceil: 1000, Age: 1}
	l, c := New(testConfig(), now), new(Changes)
	member := func() *api.Future {
		return &api.Future{UserID: "@a:test", RoomID: "!a:test", GroupID: "g", Timeout: time.Second, Secret: api.NewSecret()}
	}
	var first, second Look
	for _, look := range []*Look{&first, &second} {
		if _, err := l.Reserve(member(), look, now); err != ErrLook {
			t.Fatal(err)
		}
	}
	a, err := l.Reserve(member(), &first, now) // it was never used
	if err != nil {
		t.Fatal(err)
	}
	if err = l.Insert(a, c, now); err != nil {
		t.Fatal(err)
	}
	next := new(Changes)
	l.Written(c, storage.Result{}, nil, now, next)
	l.End(Ref{a.slot, a.Future.NID}, api.Cancelled, now, next)
	if _, err = l.Reserve(member(), &second, now); err != api.ErrUnknownGroup {
		t.Errorf("while the end of the group is being written: %v", err)
	}
	l.Written(next, storage.Result{}, nil, now, new(Changes))
	if _, err = l.Reserve(member(), &second, now); err != ErrLook {
		t.Errorf("with a look that is older than the end of the group: %v", err)
	}
}

// A removed account or room takes no new futures for a while. A creation that is not finished is undone.
func TestRemoval(t *testing.T) {
	now := Time{Now: 1000, Ceil: 1000, Age: 1}
	l, c := New(testConfig(), now), new(Changes)
	member := func() *api.Future {
		return &api.Future{UserID: "@a:test", RoomID: "!a:test", Timeout: time.Second, Secret: api.NewSecret()}
	}
	a, err := l.Reserve(member(), new(Look), now)
	if err != nil {
		t.Fatal(err)
	}
	if err = l.Insert(a, c, now); err != nil {
		t.Fatal(err)
	}
	next := new(Changes)
	l.RemoveUser("@a:test", now, next)
	if a.Err == nil || len(next.Undos) != 1 {
		t.Errorf("%v, %v", a.Err, next.Undos)
	}
	if _, err = l.Reserve(member(), new(Look), now); err == nil {
		t.Error("a late request created a future of a removed account")
	}
	now.Now += 2 * removedFor
	if _, err = l.Reserve(member(), new(Look), now); err != nil {
		t.Error(err)
	}
}

// While a raised bound is being written, the next refresh must wait too.
func TestARefreshOnItsWay(t *testing.T) {
	l, _ := restored(&storage.Timer{State: api.Scheduled, Timeout: time.Second, Deadline: 1900})
	ref, _, ok := l.ByToken(api.Secret{0}.Token(api.RefreshToken))
	if !ok {
		t.Fatal("the refresh token is not found")
	}
	now, c, next := Time{Now: 1500, Ceil: 1500}, new(Changes), new(Changes)
	if got := l.Refresh(ref, true, now, c); got != Waits {
		t.Errorf("the first refresh: %v", got)
	}
	if got := l.Refresh(ref, true, now, next); got != Waits {
		t.Errorf("a refresh in the same millisecond: %v", got)
	}
	l.Confirm(c, 0, len(c.Extends))
	now.Ceil += 100
	if got := l.Refresh(ref, true, now, next); got == Waits {
		t.Error("a refresh below the bound on disk has to wait")
	}
	if got := l.Refresh(ref, false, now, next); got != Waits {
		t.Errorf("a refresh while another server may own the database: %v", got)
	}
}
