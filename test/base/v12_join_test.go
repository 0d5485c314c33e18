package base

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// rooms12 answers the library's questions about a room of version 12 with some state.
type rooms12 struct {
	t      *testing.T
	state  room12
	joined []string // the users of this server in the room
	other  *gomatrixserverlib.RestrictedRoomJoinInfo
}

func (r rooms12) CurrentStateEvent(_ context.Context, _ spec.RoomID, eventType, stateKey string) (gomatrixserverlib.PDU, error) {
	provider := r.state.provider(r.t)
	switch eventType {
	case spec.MRoomCreate:
		return provider.Create()
	case spec.MRoomPowerLevels:
		return provider.PowerLevels()
	case spec.MRoomJoinRules:
		return provider.JoinRules()
	}
	return provider.Member(spec.SenderID(stateKey))
}

func (r rooms12) InvitePending(ctx context.Context, roomID spec.RoomID, sender spec.SenderID) (bool, error) {
	return r.state["m.room.member "+string(sender)] == invited, nil
}

func (r rooms12) RestrictedRoomJoinInfo(_ context.Context, roomID spec.RoomID, _ spec.SenderID, _ spec.ServerName) (*gomatrixserverlib.RestrictedRoomJoinInfo, error) {
	if roomID.String() != roomVector {
		return r.other, nil
	}
	info := &gomatrixserverlib.RestrictedRoomJoinInfo{LocalServerInRoom: true}
	for _, user := range r.joined {
		info.JoinedUsers = append(info.JoinedUsers, received(r.t, member12(user, user, join).hashed().String()))
	}
	return info, nil
}

func TestRestrictedJoin(t *testing.T) {
	allow := func(id string) string {
		return fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"x"},{"type":"m.room_membership","room_id":"x"},{"type":"m.room_membership","room_id":%q}]}`, id)
	}
	restricted := func(changes ...string) room12 {
		return ordinary(append([]string{"m.room.join_rules ", allow("!space:hs1")}, changes...)...)
	}
	in := &gomatrixserverlib.RestrictedRoomJoinInfo{LocalServerInRoom: true, UserJoinedToRoom: true}
	out := &gomatrixserverlib.RestrictedRoomJoinInfo{LocalServerInRoom: true}
	const eve = "@eve:hs3"
	for _, c := range []struct {
		what string
		room rooms12
		want string
		code spec.MatrixErrorCode
	}{
		{"a creator is preferred", rooms12{state: restricted(), joined: []string{carol, dave, bob}, other: in}, bob, ""},
		{"who can invite", rooms12{state: restricted(), joined: []string{dave, carol}, other: in}, carol, ""},
		{"without power levels, all can", rooms12{state: restricted("m.room.power_levels ", ""), joined: []string{dave}, other: in}, dave, ""},
		{"a room of version 12 is allowed", rooms12{state: ordinary("m.room.join_rules ", allow(originRoomVector)), joined: []string{carol}, other: in}, carol, ""},
		{"nobody can invite", rooms12{state: restricted(), joined: []string{dave}, other: in}, "", "M_UNABLE_TO_GRANT_JOIN"},
		{"nobody is here", rooms12{state: restricted(), other: in}, "", "M_UNABLE_TO_GRANT_JOIN"},
		{"not in the allowed room", rooms12{state: restricted(), joined: []string{bob}, other: out}, "", "M_FORBIDDEN"},
		{"the allowed room is not ours", rooms12{state: restricted(), joined: []string{bob}, other: &gomatrixserverlib.RestrictedRoomJoinInfo{}}, "", "M_UNABLE_TO_AUTHORISE_JOIN"},
		{"the allowed room is unknown", rooms12{state: restricted(), joined: []string{bob}}, "", "M_UNABLE_TO_AUTHORISE_JOIN"},
		{"invited", rooms12{state: restricted("m.room.member "+eve, invited), other: out}, "", ""},
		{"another rule", rooms12{state: ordinary(), other: out}, "", ""},
		{"no rule", rooms12{state: ordinary("m.room.join_rules ", ""), other: out}, "", ""},
	} {
		c.room.t = t
		room, err := spec.NewRoomID(roomVector)
		if err != nil {
			t.Fatal(err)
		}
		got, err := v12.CheckRestrictedJoin(t.Context(), "hs1", c.room, *room, eve)
		var code spec.MatrixErrorCode
		if e, ok := errors.AsType[spec.MatrixError](err); ok {
			code = e.ErrCode
		} else if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if got != c.want || code != c.code {
			t.Errorf("%s: %q, %q", c.what, got, code)
		}
	}
}

// serverKey is the key that a server signs with.
func serverKey(server string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte(server)[:3], 11)[:32])
}

// keyring has the keys of all servers.
type keyring struct{}

func (keyring) VerifyJSONs(_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, r := range requests {
		public := serverKey(string(r.ServerName)).Public().(ed25519.PublicKey)
		results[i].Error = gomatrixserverlib.VerifyJSON(string(r.ServerName), "ed25519:1", public, r.Message)
	}
	return results, nil
}

func (rooms12) IsKnownRoom(context.Context, spec.RoomID) (bool, error) { return false, nil }

func (rooms12) CurrentMembership(context.Context, spec.RoomID, spec.SenderID) (string, error) {
	return "", nil
}

func (rooms12) GetAuthEvents(context.Context, gomatrixserverlib.PDU) (gomatrixserverlib.AuthEventProvider, error) {
	return nil, errors.New("not asked for")
}

func (rooms12) GetState(context.Context, spec.RoomID, []gomatrixserverlib.StateKeyTuple) ([]gomatrixserverlib.PDU, error) {
	return nil, errors.New("not asked for")
}

// An invited server gets the create event whole and other events with four fields, in both directions.
func TestInviteStrippedState(t *testing.T) {
	marshalled := func(v any) string {
		t.Helper()
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	create := gomatrixserverlib.NewInviteStrippedState(received(t, createVector))
	if got := marshalled(create); got != createVector {
		t.Errorf("create: %s", got)
	}
	var again gomatrixserverlib.InviteStrippedState
	if err := json.Unmarshal([]byte(createVector), &again); err != nil || marshalled(again) != createVector || again.Sender() != alice {
		t.Errorf("received: %s, %v", marshalled(again), err)
	}
	name := gomatrixserverlib.NewInviteStrippedState(received(t, event12("m.room.name", "", alice, `{"name":"x"}`).hashed().String()))
	const four = `{"content":{"name":"x"},"state_key":"","type":"m.room.name","sender":"@alice:hs1"}`
	if got := marshalled(name); got != four {
		t.Errorf("name: %s", got)
	}
	old := event12("m.room.create", "", alice, `{}`).set("room_id", `"!room:hs1"`).hashed()
	pdu, err := gomatrixserverlib.MustGetRoomVersion("11").NewEventFromUntrustedJSON([]byte(old.String()))
	if err != nil {
		t.Fatal(err)
	}
	if got := marshalled(gomatrixserverlib.NewInviteStrippedState(pdu)); strings.Contains(got, "hashes") {
		t.Errorf("a create event of version 11: %s", got)
	}
	if err := json.Unmarshal([]byte(old.String()), &again); err != nil || strings.Contains(marshalled(again), "hashes") {
		t.Errorf("a received one of version 11: %s", marshalled(again))
	}
}

func TestHandleInviteOfVersion12(t *testing.T) {
	sign := func(raw, server string) string {
		return string(received(t, raw).Sign(server, "ed25519:1", serverKey(server)).JSON())
	}
	create, other := sign(createVector, "hs1"), sign(originVector, "hs1")
	name := event12("m.room.name", "", alice, `{}`).hashed().String()
	invite := sign(member12("@eve:hs3", alice, invited).hashed().String(), "hs1")
	for _, c := range []struct {
		what  string
		state []string
		code  spec.MatrixErrorCode
	}{
		{"the create event", []string{create}, ""},
		{"the create event and an event of the room", []string{create, name}, ""},
		{"stripped state", []string{`{"type":"m.room.create","state_key":"","sender":"@alice:hs1","content":{"room_version":"12"}}`, `{"type":"m.room.name","state_key":"","sender":"@alice:hs1","content":{}}`}, ""},
		{"the create event of another room", []string{other}, "M_INVALID_PARAM"},
		{"a create event that was changed", []string{strings.Replace(create, "@bob:hs2", "@eve:hs3", 1)}, "M_INVALID_PARAM"},
		{"a create event without a signature", []string{createVector}, "M_INVALID_PARAM"},
		{"a create event signed by another server", []string{sign(createVector, "hs2")}, "M_INVALID_PARAM"},
		{"a create event with a bad signature", []string{strings.Replace(create, `"ed25519:1":"`, `"ed25519:1":"AAAA`, 1)}, "M_INVALID_PARAM"},
		{"an event of another room", []string{create, strings.Replace(name, roomVector, originRoomVector, 1)}, "M_INVALID_PARAM"},
		{"an event of a room of an older version", []string{create, strings.Replace(name, roomVector, "!room:hs1", 1)}, "M_INVALID_PARAM"},
		{"an event with a room ID that is no string", []string{create, strings.Replace(name, quote(roomVector), "1", 1)}, "M_INVALID_PARAM"},
		{"a create event that is invalid", []string{strings.Replace(create, `"auth_events":[]`, `"auth_events":null`, 1)}, "M_INVALID_PARAM"},
	} {
		event := received(t, invite)
		entries := make([]gomatrixserverlib.InviteStrippedState, len(c.state))
		for i, raw := range c.state {
			if err := json.Unmarshal([]byte(raw), &entries[i]); err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
		}
		rooms := rooms12{t: t, state: ordinary()}
		got, err := gomatrixserverlib.HandleInvite(t.Context(), gomatrixserverlib.HandleInviteInput{
			RoomID: event.RoomID(), RoomVersion: "12", InvitedUser: spec.NewUserIDOrPanic("@eve:hs3", true), InvitedSenderID: "@eve:hs3",
			InviteEvent: event, StrippedState: entries, KeyID: "ed25519:1", PrivateKey: serverKey("hs3"), Verifier: keyring{},
			RoomQuerier: rooms, MembershipQuerier: rooms, StateQuerier: rooms, UserIDQuerier: users,
		})
		var code spec.MatrixErrorCode
		if e, ok := errors.AsType[spec.MatrixError](err); ok {
			code = e.ErrCode
		} else if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if code != c.code {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil && got.EventID() != event.EventID() {
			t.Errorf("%s: another event came back", c.what)
		}
	}
}
