package internal

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

func delegationOf(f *api.Future, key string) api.Delegation {
	return api.Delegation{DelayID: f.GroupID, UserID: f.UserID, RoomID: f.RoomID, Key: key, Job: []byte(`{"a":1}`)}
}

func (b *bench) delegate(f *api.Future, key string) *api.Delegated {
	b.Helper()
	d, err := b.PerformDelegation(b.Context(), delegationOf(f, key))
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// over fails unless that is so. Without a wait: what ended it is durable.
func (b *bench) over(d *api.Delegated, want bool) {
	b.Helper()
	select {
	case <-d.Done:
		if !want {
			b.Error("the delegation is over")
		}
	default:
		if want {
			b.Error("the delegation is not over")
		}
	}
}

// stored returns the delegations on disk.
func (b *bench) stored() (found []string) {
	b.Helper()
	err := b.db.SelectDelegations(b.Context(), func(d storage.Delegation) error {
		found = append(found, string(d.Body))
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return found
}

// A delegation lives as long as its delayed event is scheduled, whatever ends it, and the disk forgets both together.
func TestDelegationEnds(t *testing.T) {
	for name, end := range map[string]func(b *bench, f *api.Future) error{
		"send": func(b *bench, f *api.Future) error {
			return b.PerformDelayedEventAction(b.Context(), f.GroupID, "", api.Send)
		},
		"cancel": func(b *bench, f *api.Future) error {
			return b.PerformDelayedEventAction(b.Context(), f.GroupID, "", api.Cancel)
		},
		"timer":      func(b *bench, f *api.Future) error { b.after(2*time.Minute, 1); return nil },
		"newer room": func(b *bench, f *api.Future) error { return b.PerformRoomPurge(b.Context(), f.RoomID) },
		"account":    func(b *bench, f *api.Future) error { return b.PerformUserRemoval(b.Context(), f.UserID) },
		"replaced": func(b *bench, f *api.Future) error {
			b.delegate(b.create(delayed(time.Hour)), "call")
			if got := b.stored(); len(got) != 1 {
				b.Errorf("on disk: %v", got)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				f := b.create(delayed(time.Minute))
				d := b.delegate(f, "call")
				b.over(d, false)
				if got := b.QueryDelegations(); len(got) != 1 || got[0].Timeout != time.Minute || string(got[0].Job) != `{"a":1}` || len(b.stored()) != 1 {
					t.Fatalf("in force: %+v", got)
				}
				if err := end(b, f); err != nil {
					t.Fatal(err)
				}
				b.over(d, true)
				if name != "replaced" && len(b.QueryDelegations())+len(b.stored()) != 0 {
					t.Errorf("left: %v %v", b.QueryDelegations(), b.stored())
				}
			})
		})
	}
}

// The same delayed event again changes nothing; under another key it is another delegation.
func TestDelegationTwice(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(delayed(time.Minute))
		first := b.delegate(f, "call")
		if again := b.delegate(f, "call"); again.Done != first.Done {
			t.Error("the repeat is another delegation")
		}
		b.over(first, false)
		b.delegate(f, "another call")
		b.over(first, true)
		if n := len(b.stored()); n != 1 || len(b.QueryDelegations()) != 1 {
			t.Errorf("%d on disk", n)
		}
	})
}

// What cannot be delegated.
func TestDelegationRefused(t *testing.T) {
	inBubble(t, func(b *bench) {
		f, short, ended := b.create(delayed(time.Minute)), b.create(delayed(9*time.Second)), b.create(delayed(time.Minute))
		if err := b.PerformDelayedEventAction(b.Context(), ended.GroupID, "", api.Cancel); err != nil {
			t.Fatal(err)
		}
		token := b.create(message(time.Minute))
		with := func(f *api.Future, change func(*api.Delegation)) api.Delegation {
			d := delegationOf(f, "call")
			change(&d)
			return d
		}
		same := func(*api.Delegation) {}
		for i, c := range []struct {
			d    api.Delegation
			want error
		}{
			{with(f, func(d *api.Delegation) { d.UserID = "@eve:test" }), api.ErrGone},
			{with(f, func(d *api.Delegation) { d.RoomID = "!other:test" }), api.ErrGone},
			{with(f, func(d *api.Delegation) { d.DelayID = "unknown" }), api.ErrGone},
			{with(f, func(d *api.Delegation) { d.DelayID = token.Token(api.SendToken).String() }), api.ErrGone},
			{with(ended, same), api.ErrGone},
			{with(short, same), api.ErrShortDelay},
		} {
			if _, err := b.PerformDelegation(b.Context(), c.d); !errors.Is(err, c.want) {
				t.Errorf("%d: %v, want %v", i, err, c.want)
			}
		}
		if len(b.stored()) != 0 {
			t.Errorf("on disk: %v", b.stored())
		}
	})
}

// A server that was down for longer than the delay does not send delegated leaves when it starts. A crash loop does not keep
// them for ever, unless somebody confirms them.
func TestDelegationRestart(t *testing.T) {
	for name, c := range map[string]struct {
		starts  int
		confirm bool
		sent    bool
	}{
		"once": {1, false, false}, "at most": {api.MaxStarts, false, false}, "too often": {api.MaxStarts + 1, false, true}, "confirmed": {3 * api.MaxStarts, true, false},
	} {
		for how, end := range map[string]func(b *bench) error{
			"crash": func(b *bench) error { b.die(); return nil },
			"stop":  func(b *bench) error { return b.Stop(b.Context()) },
		} {
			t.Run(fmt.Sprint(name, " ", how), func(t *testing.T) {
				inBubble(t, func(b *bench) {
					f := b.create(delayed(20 * time.Second))
					b.delegate(f, "call")
					for i := range c.starts {
						if err := end(b); err != nil {
							t.Fatal(err)
						}
						time.Sleep(2 * time.Hour) // longer than the slack of the stored deadline
						b.start(testConfig())
						if c.confirm {
							b.delegate(f, "call")
						}
						if i+1 == c.starts && c.sent {
							break
						}
						b.after(time.Millisecond, 0) // in which the first batch is written
					}
					if c.sent {
						b.after(time.Second, 1)
						if len(b.stored()) != 0 {
							t.Errorf("on disk: %v", b.stored())
						}
						return
					}
					b.after(19*time.Second, 0)
					if n := len(b.QueryDelegations()); n != 1 {
						t.Errorf("%d delegations", n)
					}
					b.after(2*time.Second, 1)
				})
			})
		}
	}
}

// A late confirmation of the replaced delegation takes the place of its successor.
func TestLateConfirmation(t *testing.T) {
	inBubble(t, func(b *bench) {
		old := b.create(delayed(time.Hour))
		b.delegate(old, "call")
		b.die()
		b.start(testConfig())
		job := b.QueryDelegations()[0] // what resume reads; its first question to the SFU is under way
		newer := b.create(delayed(time.Hour))
		d := b.delegate(newer, "call") // the client delegates again
		b.over(job, true)
		// The answer comes, and is a confirmation.
		if _, err := b.PerformDelegation(b.Context(), job.Delegation); !errors.Is(err, api.ErrGone) {
			t.Error(err)
		}
		b.over(d, false)
	})
}

// The same event and key, but another SFU: the old job stays.
func TestDelegationToAnotherSFU(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(delayed(time.Hour))
		b.delegate(f, "call")
		d := delegationOf(f, "call")
		d.Job = []byte(`{"a":2}`)
		got, err := b.PerformDelegation(b.Context(), d)
		if err != nil || string(got.Job) != `{"a":2}` {
			t.Errorf("%v %s", err, got.Job)
		}
	})
}

// The repeat of a request that is still being written.
func TestRepeatedDelegationWaits(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(delayed(time.Hour))
		_, first, err := b.Server.delegate(delegationOf(f, "call"))
		if err != nil || first == nil {
			t.Fatal(err)
		}
		_, second, err := b.Server.delegate(delegationOf(f, "call"))
		select {
		case <-first.done:
			t.Skip("written already")
		default:
		}
		if second == nil {
			t.Error("the repeat is answered before the first is on disk", err)
		}
	})
}
