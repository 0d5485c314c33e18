package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// allowed checks whether the event Raw is allowed by the events Auth.
func allowed(q question, a answer) {
	a.ask("allowed", func() string {
		pdu := parseAll(q.Version, [][]byte{q.Raw})[0]
		auth := gomatrixserverlib.NewAuthEvents(parseAll(q.Version, q.Auth))
		return fmt.Sprintf("%v %s", auth.Valid(), text(gomatrixserverlib.Allowed(pdu, &auth, users)))
	})
}

// resolve returns the resolved state of Events; Auth has the events of their auth chains. The answer names events by
// their number, counted through both lists. For version 1 the library iterates over members in the random order of a
// map, and what one of them may do can depend on another. There the answer has all results of many runs.
func resolve(q question, a answer) {
	a.ask("resolved", func() string {
		runs, results := 1, make(map[string]bool)
		if q.Version == "1" {
			runs = 24
		}
		for range runs {
			results[resolveOnce(q)] = true
		}
		return fmt.Sprint(slices.Sorted(maps.Keys(results)))
	})
}

func resolveOnce(q question) string {
	events, auth := parseAll(q.Version, q.Events), parseAll(q.Version, q.Auth)
	number := make(map[string]int)
	for i, pdu := range slices.Concat(events, auth) {
		number[pdu.EventID()] = i
	}
	rejected := func(id string) bool { return q.Text != "" && number[id] == int(q.TS) }
	resolved, err := gomatrixserverlib.ResolveConflicts(q.Version, events, auth, users, rejected)
	numbers := make([]int, len(resolved))
	for i, pdu := range resolved {
		numbers[i] = number[pdu.EventID()]
	}
	slices.Sort(numbers)
	return fmt.Sprint(numbers, text(err))
}

// stripped checks Raw as an entry of invite_room_state.
func stripped(q question, a answer) {
	a.ask("received", func() string {
		var s gomatrixserverlib.InviteStrippedState
		if err := json.Unmarshal(q.Raw, &s); err != nil {
			return text(err)
		}
		out, err := json.Marshal(s)
		return fmt.Sprintf("%q %q %s %s %s", s.Type(), s.Sender(), s.Content(), out, text(err))
	})
	a.ask("sent", func() string {
		out, err := json.Marshal(gomatrixserverlib.NewInviteStrippedState(parseAll(q.Version, [][]byte{q.Raw})[0]))
		return string(out) + text(err)
	})
}

// room answers the library's questions about a room with the state Auth.
type room struct{ state []gomatrixserverlib.PDU }

func (r room) CurrentStateEvent(_ context.Context, _ spec.RoomID, eventType, stateKey string) (gomatrixserverlib.PDU, error) {
	for _, pdu := range r.state {
		if pdu.Type() == eventType && pdu.StateKeyEquals(stateKey) {
			return pdu, nil
		}
	}
	return nil, nil
}

func (r room) CurrentMembership(ctx context.Context, roomID spec.RoomID, sender spec.SenderID) (string, error) {
	pdu, err := r.CurrentStateEvent(ctx, roomID, spec.MRoomMember, string(sender))
	if pdu == nil {
		return "", err
	}
	return pdu.Membership()
}

func (r room) InvitePending(ctx context.Context, roomID spec.RoomID, sender spec.SenderID) (bool, error) {
	membership, err := r.CurrentMembership(ctx, roomID, sender)
	return membership == spec.Invite, err
}

func (r room) RestrictedRoomJoinInfo(ctx context.Context, roomID spec.RoomID, sender spec.SenderID, _ spec.ServerName) (*gomatrixserverlib.RestrictedRoomJoinInfo, error) {
	membership, err := r.CurrentMembership(ctx, roomID, sender)
	info := &gomatrixserverlib.RestrictedRoomJoinInfo{LocalServerInRoom: true, UserJoinedToRoom: membership != spec.Ban}
	for _, pdu := range r.state {
		if m, err := pdu.Membership(); err == nil && m == spec.Join {
			info.JoinedUsers = append(info.JoinedUsers, pdu)
		}
	}
	return info, err
}

func (r room) IsKnownRoom(context.Context, spec.RoomID) (bool, error) { return true, nil }

func (r room) GetAuthEvents(context.Context, gomatrixserverlib.PDU) (gomatrixserverlib.AuthEventProvider, error) {
	auth := gomatrixserverlib.NewAuthEvents(r.state)
	return &auth, nil
}

func (r room) GetState(_ context.Context, _ spec.RoomID, wanted []gomatrixserverlib.StateKeyTuple) (found []gomatrixserverlib.PDU, err error) {
	for _, pdu := range r.state {
		if slices.Contains(wanted, gomatrixserverlib.StateKeyTuple{EventType: pdu.Type(), StateKey: *pdu.StateKey()}) {
			found = append(found, pdu)
		}
	}
	return found, nil
}

// template asks for the templates of a join and of a leave of the user Text, for a room with the state Auth. Raw is the
// event that the server has built from the template.
func template(q question, a answer) {
	user, err := spec.NewUserID(q.Text, true)
	if err != nil {
		a["user"] = text(err)
		return
	}
	built := func(state []gomatrixserverlib.PDU) func(*gomatrixserverlib.ProtoEvent) (gomatrixserverlib.PDU, []gomatrixserverlib.PDU, error) {
		return func(proto *gomatrixserverlib.ProtoEvent) (gomatrixserverlib.PDU, []gomatrixserverlib.PDU, error) {
			pdu := parseAll(q.Version, [][]byte{q.Raw})[0]
			proto.AuthEvents, proto.PrevEvents, proto.Depth = pdu.AuthEventIDs(), pdu.PrevEventIDs(), pdu.Depth()
			return pdu, state, nil
		}
	}
	a.askJSON("join", func() ([]byte, error) {
		state := parseAll(q.Version, q.Auth)
		response, err := gomatrixserverlib.HandleMakeJoin(gomatrixserverlib.HandleMakeJoinInput{
			Context: context.Background(), UserID: *user, SenderID: spec.SenderID(q.Text), RoomID: state[0].RoomID(), RoomVersion: q.Version,
			RemoteVersions: known, RequestOrigin: user.Domain(), LocalServerName: "one", LocalServerInRoom: true,
			RoomQuerier: room{state}, UserIDQuerier: users, BuildEventTemplate: built(state),
		})
		if err != nil {
			return nil, err
		}
		return json.Marshal(response.JoinTemplateEvent)
	})
	a.askJSON("leave", func() ([]byte, error) {
		state := parseAll(q.Version, q.Auth)
		response, err := gomatrixserverlib.HandleMakeLeave(gomatrixserverlib.HandleMakeLeaveInput{
			UserID: *user, SenderID: spec.SenderID(q.Text), RoomID: state[0].RoomID(), RoomVersion: q.Version,
			RequestOrigin: user.Domain(), LocalServerName: "one", LocalServerInRoom: true, UserIDQuerier: users,
			BuildEventTemplate: built(state),
		})
		if err != nil {
			return nil, err
		}
		return json.Marshal(response.LeaveTemplateEvent)
	})
}

// invite receives the invite Raw to a room with the state Auth.
func invite(q question, a answer) {
	a.askJSON("received", func() ([]byte, error) {
		state, pdu := parseAll(q.Version, q.Auth), parseAll(q.Version, [][]byte{q.Raw})[0]
		invited, err := spec.NewUserID(q.Text, true)
		if err != nil {
			return nil, err
		}
		var entries []gomatrixserverlib.InviteStrippedState
		for _, s := range state {
			entries = append(entries, gomatrixserverlib.NewInviteStrippedState(s))
		}
		got, err := gomatrixserverlib.HandleInvite(context.Background(), gomatrixserverlib.HandleInviteInput{
			RoomID: state[0].RoomID(), RoomVersion: q.Version, InvitedUser: *invited, InvitedSenderID: spec.SenderID(q.Text),
			InviteEvent: pdu, StrippedState: entries, KeyID: "ed25519:1", PrivateKey: key, Verifier: new(verifier),
			RoomQuerier: room{state}, MembershipQuerier: room{state}, StateQuerier: room{state}, UserIDQuerier: users,
		})
		if err != nil {
			return nil, err
		}
		return got.JSON(), nil
	})
}
