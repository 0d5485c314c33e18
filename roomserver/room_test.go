package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/test"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// wantRefusal fails unless err is a refusal of that kind; 0 stands for no error.
func wantRefusal(t *testing.T, what string, err error, want api.RefusalKind) {
	t.Helper()
	refusal, ok := errors.AsType[*api.Refusal](err)
	switch {
	case want == 0 && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != 0 && (!ok || refusal.Kind != want):
		t.Errorf("%s: got error %v, want a refusal: %v", what, err, want)
	case want != 0 && refusal.Message == "":
		t.Errorf("%s: the refusal says nothing", what)
	case want != 0 && (strings.Contains(refusal.Message, "<nil>") || strings.Contains(refusal.Message, "%!")):
		t.Errorf("%s: the refusal is no sentence: %s", what, refusal.Message)
	}
}

func TestAdmit(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob, eve := test.NewUser(r.T), test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		r.levels(alice, roomID, "50")
		stranger := &test.User{ID: "@stranger:elsewhere"}
		if taken, err := r.rsAPI.SetRoomAlias(r.Context(), spec.SenderID(alice.ID), mustRoomID(r.T, roomID), "#ours:test"); err != nil || taken {
			r.Fatal(taken, err)
		}
		member := func(sender *test.User, target, content string) *api.Future {
			return state(sender, roomID, "m.room.member", target, content)
		}
		for _, c := range []struct {
			what string
			f    *api.Future
			want api.RefusalKind
		}{
			{"message", text(alice, roomID), 0},
			{"message without the power for it", text(bob, roomID), 0},
			{"state without the power for it", state(bob, roomID, "m.room.power_levels", "", `{}`), 0},
			{"state key of another user", state(bob, roomID, "x", alice.ID, `{}`), 0},
			{"unknown room", text(alice, "!unknown:test"), api.RoomNotFound},
			{"no room ID", text(alice, "nonsense"), api.RoomNotFound},
			{"not in the room", text(eve, roomID), api.Forbidden},
			{"user of another server", text(stranger, roomID), api.Forbidden},
			{"create", state(alice, roomID, "m.room.create", "", `{}`), api.BadEvent},
			{"tombstone", state(alice, roomID, "m.room.tombstone", "", `{"replacement_room":"!other:test"}`), 0},
			{"tombstone to itself", state(alice, roomID, "m.room.tombstone", "", `{"replacement_room":"`+roomID+`"}`), api.BadEvent},
			{"leave", member(bob, bob.ID, `{"membership":"leave"}`), 0},
			{"kick", member(alice, bob.ID, `{"membership":"leave"}`), 0},
			{"ban", member(alice, bob.ID, `{"membership":"ban"}`), 0},
			{"profile", member(bob, bob.ID, `{"membership":"join","displayname":"B"}`), 0},
			{"local invite", member(alice, eve.ID, `{"membership":"invite"}`), 0},
			{"remote invite", member(alice, stranger.ID, `{"membership":"invite"}`), api.BadEvent},
			{"invite of nobody", member(alice, "nobody", `{"membership":"invite"}`), api.BadEvent},
			{"join for another", member(alice, bob.ID, `{"membership":"join"}`), api.BadEvent},
			{"knock", member(bob, bob.ID, `{"membership":"knock"}`), api.BadEvent},
			{"no membership", member(bob, bob.ID, `{"Membership":"join"}`), api.BadEvent},
			{"membership of another type", member(bob, bob.ID, `{"membership":1}`), api.BadEvent},
			{"membership without state key", message(bob, roomID, "m.room.member", `{"membership":"join"}`), api.BadEvent},
			{"alias", state(alice, roomID, "m.room.canonical_alias", "", `{"alias":"#ours:test"}`), 0},
			{"no alias", state(alice, roomID, "m.room.canonical_alias", "", `{}`), 0},
			{"alias that leads nowhere", state(alice, roomID, "m.room.canonical_alias", "", `{"alias":"#ours:test","alt_aliases":["#other:test"]}`), api.BadEvent},
			{"aliases that are none", state(alice, roomID, "m.room.canonical_alias", "", `{"alt_aliases":{}}`), api.BadEvent},
			{"redaction", message(alice, roomID, "m.room.redaction", `{"redacts":"$gone"}`), 0},
			{"redaction of nothing", message(alice, roomID, "m.room.redaction", `{"reason":"?"}`), api.BadEvent},
			{"60 KiB", message(alice, roomID, "x", `{"x":"`+strings.Repeat("x", 60<<10)+`"}`), 0},
			{"too large", message(alice, roomID, "x", `{"x":"`+strings.Repeat("x", 65<<10)+`"}`), api.TooLarge},
			{"type too long", message(alice, roomID, strings.Repeat("x", 256), `{}`), api.TooLarge},
			{"fraction", message(alice, roomID, "x", `{"x":0.5}`), api.BadEvent},
			{"whole number with a point", message(alice, roomID, "x", `{"x":2.0}`), 0},
			{"number out of range", message(alice, roomID, "x", `{"x":90071992547409930}`), api.BadEvent},
			{"array", message(alice, roomID, "x", `[]`), api.BadEvent},
			{"null", message(alice, roomID, "x", `null`), api.BadEvent},
			{"not JSON", message(alice, roomID, "x", `{`), api.BadEvent},
		} {
			_, err := r.room.Admit(r.Context(), c.f)
			wantRefusal(r.T, c.what, err, c.want)
		}

		room := &Room{cfg: r.cfg, rsAPI: pseudoIDs{r.rsAPI}, db: r.db, gates: new(Gates)}
		_, err := room.Admit(r.Context(), state(alice, roomID, "m.room.name", "", `{}`))
		wantRefusal(r.T, "pseudo-ID room", err, api.BadEvent)
		r.exec("UPDATE roomserver_rooms SET room_version = $1 WHERE room_id = $2", string(gomatrixserverlib.RoomVersionPseudoIDs), roomID)
		_, err = r.room.Admit(r.Context(), text(alice, roomID))
		wantRefusal(r.T, "pseudo-ID room", err, api.BadEvent)
	})
}

// pseudoIDs is a roomserver whose rooms have pseudo-IDs.
type pseudoIDs struct{ rsapi.RoomserverInternalAPI }

func (p pseudoIDs) QueryLatestEventsAndState(ctx context.Context, req *rsapi.QueryLatestEventsAndStateRequest, res *rsapi.QueryLatestEventsAndStateResponse) error {
	err := p.RoomserverInternalAPI.QueryLatestEventsAndState(ctx, req, res)
	res.RoomVersion = gomatrixserverlib.RoomVersionPseudoIDs
	return err
}

// TestStanding compares the single SQL query with the roomserver's own answer.
func TestStanding(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob, eve, kicked := test.NewUser(r.T), test.NewUser(r.T), test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob, kicked)
		other := r.create("11", alice, eve)
		keys := []string{"", "a", "b", alice.ID}
		compare := func() {
			r.Helper()
			for _, room := range []string{roomID, other} {
				for _, user := range []*test.User{alice, bob, eve, kicked} {
					for _, kind := range []string{"com.example.seat", "com.example.other", "m.room.name", "m.room.member"} {
						for _, key := range keys {
							d, err := r.room.draft(state(user, room, kind, key, `{"membership":"join"}`))
							if err != nil {
								r.Fatal(err)
							}
							long, err := r.room.snapshot(r.Context(), room, d.tuples())
							if err != nil {
								r.Fatal(err)
							}
							want := standing{long.RoomVersion, long.hasSender(d) == nil, long.current(d).ID}
							if got, err := r.room.standing(r.Context(), d); err != nil || got != want {
								r.Fatalf("%s in %s, %s %q: %+v, %v; want %+v", user.ID, room, kind, key, got, err, want)
							}
						}
					}
				}
			}
		}
		compare()
		for i := range 40 { // enough for a snapshot of several blocks
			for _, key := range keys[:3] {
				r.send(state(alice, roomID, "com.example.seat", key, fmt.Sprintf(`{"i":%d}`, i)))
			}
		}
		r.send(state(alice, roomID, "m.room.member", kicked.ID, `{"membership":"leave"}`))
		r.send(state(alice, roomID, "m.room.member", eve.ID, `{"membership":"invite"}`))
		r.send(state(bob, roomID, "m.room.member", bob.ID, `{"membership":"join","displayname":"Bob"}`))
		compare()
	})
}

func TestBaseAndCurrent(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice := test.NewUser(r.T)
		roomID := r.create("10", alice)
		base := func(f *api.Future) string {
			id, err := r.room.Admit(r.Context(), f)
			if err != nil {
				r.Fatal(err)
			}
			return id
		}
		if got := base(text(alice, roomID)); got != "" {
			r.Errorf("base of a message: %q", got)
		}
		if got := base(state(alice, roomID, "x", "a", `{}`)); got != "" {
			r.Errorf("base of unset state: %q", got)
		}
		a := r.send(state(alice, roomID, "x", "a", `{"n":1}`))
		b := r.send(state(alice, roomID, "x", "b", `{"n":2}`))
		if got := base(state(alice, roomID, "x", "a", `{}`)); got != a {
			r.Errorf("base = %q, want %q", got, a)
		}
		keys := []api.StateKeyTuple{{Type: "x", StateKey: "b"}, {Type: "y", StateKey: "a"}, {Type: "x", StateKey: "a"}, {Type: "x", StateKey: "b"}}
		got, err := r.room.Current(r.Context(), roomID, keys)
		by := func(id string) api.StateEvent { return api.StateEvent{ID: id, Sender: alice.ID} }
		if want := [4]api.StateEvent{by(b), {}, by(a), by(b)}; err != nil || [4]api.StateEvent(got) != want {
			r.Errorf("Current = %q, %v; want %q", got, err, want)
		}
		if got, err := r.room.Current(r.Context(), roomID, nil); err != nil || len(got) != 0 {
			r.Errorf("Current of nothing = %q, %v", got, err)
		}
		if got, err := r.room.Current(r.Context(), "!unknown:test", keys); err != nil || [4]api.StateEvent(got) != [4]api.StateEvent{} {
			r.Errorf("Current in an unknown room = %q, %v", got, err)
		}
	})
}

func TestSend(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice := test.NewUser(r.T)
		roomID := r.create("10", alice)
		f := message(alice, roomID, "m.room.message", `{"body":"<b>&</b> ☎","body":"<b>&</b> ☎","n":2.0}`)
		f.TxnID, f.SessionID = "txn", 7
		before := time.Now().UnixMilli()
		r.verdict(r.build(f), api.Unknown)
		r.submit(f)
		r.verdict(f, api.Confirmed)
		r.submit(f) // submitting twice does no harm
		r.verdict(f, api.Confirmed)

		out := r.published(f.Event.ID)
		if len(out) != 1 {
			r.Fatalf("the event was published %d times", len(out))
		}
		if txn := out[0].TransactionID; txn == nil || *txn != (rsapi.TransactionID{SessionID: 7, TransactionID: "txn"}) {
			r.Errorf("local echo for %+v", txn)
		}
		if out[0].SendAsServer != "test" {
			r.Errorf("sent as server %q", out[0].SendAsServer)
		}
		e := r.event(roomID, f.Event.ID)
		// Dendrite's own events also have their angle brackets escaped by JetStream's JSON.
		if got := string(e.Content()); got != `{"body":"\u003cb\u003e\u0026\u003c/b\u003e ☎","n":2}` {
			r.Errorf("content %s", got)
		}
		if ts := int64(e.OriginServerTS()); ts < before || ts > time.Now().UnixMilli() {
			r.Errorf("origin_server_ts %d, sent at %d", ts, before)
		}

		plain := text(alice, roomID)
		if out := r.published(r.send(plain)); len(out) != 1 || out[0].TransactionID != nil {
			r.Errorf("outputs of an event without transaction: %+v", out)
		}
		key := state(alice, roomID, "x", "", `{"n":1}`)
		id := r.send(key)
		if got, err := r.room.Current(r.Context(), roomID, []api.StateKeyTuple{{Type: "x"}}); err != nil || got[0].ID != id {
			r.Errorf("the state is %q, %v; want %q", got, err, id)
		}
		member := r.send(state(alice, roomID, "m.room.member", alice.ID, `{"membership":"join","join_authorised_via_users_server":"@x:test"}`))
		if got := string(r.event(roomID, member).Content()); got != `{"membership":"join"}` {
			r.Errorf("member content %s", got)
		}
	})
}

func TestRedaction(t *testing.T) {
	withDatabases(t, func(r *rig) {
		for _, version := range []gomatrixserverlib.RoomVersion{"10", "11"} {
			alice, bob := test.NewUser(r.T), test.NewUser(r.T)
			roomID := r.create(version, alice, bob)
			redaction := func(by *test.User, target string) *api.Future {
				return message(by, roomID, "m.room.redaction", `{"reason":"spent","redacts":"`+target+`"}`)
			}
			gone := func(id string) bool { return string(r.event(roomID, id).Content()) == `{}` }

			own := r.send(text(bob, roomID))
			if gone(own) {
				r.Fatal("redacted too early")
			}
			id := r.send(redaction(bob, own))
			if !gone(own) {
				r.Errorf("v%s: the target is not redacted", version)
			}
			want := `{"reason":"spent"}` // on the wire the target is in one place only
			if version == "11" {
				want = `{"reason":"spent","redacts":"` + own + `"}`
			}
			if e := r.event(roomID, id); string(e.Content()) != want || e.Redacts() != own ||
				gjson.GetBytes(e.JSON(), "redacts").Exists() == (version == "11") {
				r.Errorf("v%s: the redaction is %s", version, e.JSON())
			}
			foreign := r.send(text(alice, roomID))
			_, err := buildOne(r.Context(), r.room, redaction(bob, foreign))
			wantRefusal(r.T, "redaction of another's event", err, api.Forbidden)
			byBob := r.send(text(bob, roomID))
			r.send(redaction(alice, byBob))
			if !gone(byBob) {
				r.Errorf("v%s: the moderator's redaction has no effect", version)
			}
			elsewhere := r.send(text(alice, r.create(version, alice)))
			_, err = buildOne(r.Context(), r.room, redaction(alice, elsewhere))
			wantRefusal(r.T, "redaction across rooms", err, api.Forbidden)
			r.send(redaction(bob, "$gone"))
		}
	})
}

// TestRedactionFirst: a redaction that arrives before its target is kept, and so are others of the same target, because
// the one that counts may not be the first.
func TestRedactionFirst(t *testing.T) {
	withDatabases(t, func(r *rig) {
		for _, version := range []gomatrixserverlib.RoomVersion{"10", "11"} {
			alice, bob := test.NewUser(r.T), test.NewUser(r.T)
			mallory := test.NewUser(r.T, test.WithSigningServer("elsewhere", "ed25519:1", ed25519.NewKeyFromSeed(make([]byte, 32))))
			room := test.NewRoom(r.T, alice, test.RoomVersion(version))
			for _, u := range []*test.User{bob, mallory} {
				room.CreateAndInsert(r.T, u, spec.MRoomMember, map[string]any{"membership": "join"}, test.WithStateKey(u.ID))
			}
			r.input(room.Events()...)
			for _, senders := range [][]*test.User{{alice}, {bob}, {mallory}, {mallory, alice}, {alice, mallory}} {
				target := room.CreateEvent(r.T, alice, "m.room.message", map[string]any{"body": len(senders)})
				for _, by := range senders {
					r.input(room.CreateEvent(r.T, by, spec.MRoomRedaction, map[string]any{"redacts": target.EventID()}))
				}
				r.input(target)
				redacted := string(r.event(room.ID, target.EventID()).Content()) == `{}`
				if redacted == slices.Equal(senders, []*test.User{mallory}) {
					r.Errorf("v%s: %d redactions, the first by %s: redacted: %t", version, len(senders), senders[0].ID, redacted)
				}
			}
		}
	})
}

func TestBuild(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)

		// Newer state.
		f := state(alice, roomID, "x", "", `{"n":1}`)
		f.Policy = api.CancelOnNewerState
		r.build(f)
		f.Base = r.send(state(alice, roomID, "x", "", `{"n":2}`))
		r.build(f)
		r.send(state(alice, roomID, "x", "", `{"n":3}`))
		if _, err := buildOne(r.Context(), r.room, f); !errors.Is(err, api.ErrNewerState) {
			r.Errorf("newer state: %v", err)
		}
		f.Policy = 0
		r.build(f)

		// The current power levels count.
		b := text(bob, roomID)
		r.build(b)
		r.levels(alice, roomID, "50")
		_, err := buildOne(r.Context(), r.room, b)
		wantRefusal(r.T, "power lowered", err, api.Forbidden)
		r.levels(alice, roomID, "0")
		r.build(b)

		// A user who is not in the room sends nothing and does not join again.
		leave := state(bob, roomID, "m.room.member", bob.ID, `{"membership":"leave"}`)
		join := state(bob, roomID, "m.room.member", bob.ID, `{"membership":"join"}`)
		r.build(join)
		leave.Base, leave.Policy = mustAdmit(r, leave), api.CancelOnNewerState
		r.send(leave)
		for what, f := range map[string]*api.Future{"message": b, "join": join} {
			_, err := buildOne(r.Context(), r.room, f)
			wantRefusal(r.T, what+" after leaving", err, api.Forbidden)
		}
		if _, err := buildOne(r.Context(), r.room, leave); !errors.Is(err, api.ErrNewerState) {
			r.Errorf("leaving twice: %v", err)
		}

		// An error that the event has not caused is no refusal.
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		for what, call := range map[string]func() error{
			"Admit":   func() error { _, err := r.room.Admit(ctx, text(alice, roomID)); return err },
			"Build":   func() error { _, err := buildOne(ctx, r.room, text(alice, roomID)); return err },
			"Current": func() error { _, err := r.room.Current(ctx, roomID, []api.StateKeyTuple{{}}); return err },
			"Submit":  func() error { return r.room.Submit(ctx, []*api.Future{r.build(text(alice, roomID))}) },
			"Verdict": func() error { _, err := r.room.Verdict(ctx, []*api.Future{r.build(text(alice, roomID))}); return err },
		} {
			err := call()
			if _, refused := errors.AsType[*api.Refusal](err); err == nil || refused {
				r.Errorf("%s with a cancelled context: %v", what, err)
			}
		}
	})
}

func mustAdmit(r *rig, f *api.Future) string {
	r.Helper()
	base, err := r.room.Admit(r.Context(), f)
	if err != nil {
		r.Fatal(err)
	}
	return base
}

func mustRoomID(t *testing.T, id string) spec.RoomID {
	t.Helper()
	roomID, err := spec.NewRoomID(id)
	if err != nil {
		t.Fatal(err)
	}
	return *roomID
}

func TestPDUSurvivesStorage(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	alice := test.NewUser(t)
	f := r.build(message(alice, r.create("11", alice), "x", `{"a":"<&>\u2028","b":[1,{"c":null}]}`))
	stored, err := json.Marshal(f.Event.PDU)
	if err != nil {
		t.Fatal(err)
	}
	f.Event.PDU = stored
	event, err := parse(f)
	if err != nil {
		t.Fatal(err)
	}
	if event.EventID() != f.Event.ID {
		t.Errorf("event ID %s after storage, %s before", event.EventID(), f.Event.ID)
	}
	public := r.cfg.Global.PrivateKey.Public().(ed25519.PublicKey)
	redacted, err := gomatrixserverlib.MustGetRoomVersion("11").RedactEventJSON(event.JSON())
	if err == nil {
		err = gomatrixserverlib.VerifyJSON("test", r.cfg.Global.KeyID, public, redacted)
	}
	if err != nil {
		t.Errorf("the signature does not hold: %v", err)
	}
}
