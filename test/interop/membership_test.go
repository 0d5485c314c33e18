package interop_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func membershipScenarios() []scenario {
	return []scenario{
		{"join by alias", every, joinByAlias},
		{"join by ID", every, joinByID},
		{"invite and accept", every, inviteAndAccept},
		{"invite and reject", every, inviteAndReject},
		{"direct chat", append([]string{"default"}, every...), directChat},
		{"leave and return", every, leaveAndReturn},
		{"kick and ban", every, kickAndBan},
		{"ban meets return", late, banMeetsReturn},
		{"refusals are told as text", late, refusals},
	}
}

func joinByAlias(s *scene) {
	owner, guest := s.register(s.home, "owner"), s.register(s.away, "guest")
	name := fmt.Sprintf("room%d", s.users.Add(1))
	room := s.create(owner, map[string]any{"room_alias_name": name})
	alias := "#" + name + ":" + s.home.server

	r := s.wants(guest.Do(http.MethodGet, rig.Path("directory", "room", alias), nil, nil), 200, "")
	if got := r.JSON.Get("room_id").String(); got != room || len(r.JSON.Get("servers").Array()) == 0 {
		s.Errorf("the alias of %s leads to %s", room, r.Body)
	}
	r = s.wants(guest.Do(http.MethodPost, rig.Path("join", alias), nil, map[string]any{}), 200, "")
	if got := r.JSON.Get("room_id").String(); got != room {
		s.Errorf("joining %s led to %s", room, got)
	}
	s.member(owner, room, guest, "join")
	s.agree(room, owner, guest)
}

func joinByID(s *scene) {
	owner, guest, room := s.meet(nil)
	second := s.register(s.away, "second")
	second.Join(room) // without help, because her server is in the room
	s.member(owner, room, second, "join")
	id := owner.SendState(room, "m.room.topic", "", map[string]any{"topic": "of the owner"})
	guest.WaitFor(room, is(id), patience)
	s.agree(room, owner, guest, second)

	// The room's first event, from before the join, is available too.
	for _, u := range []*rig.User{owner, guest} {
		timeline := s.timeline(u, room)
		create := timeline[len(timeline)-1]
		if sender := create.Get("sender").String(); create.Get("type").String() != "m.room.create" || sender != owner.ID {
			s.Errorf("to %s the room begins with %s", u.ID, create.Raw)
		}
		r := s.wants(u.Do(http.MethodGet, rig.Path("rooms", room, "event", create.Get("event_id").String()), nil, nil), 200, "")
		if got := r.JSON.Get("room_id").String(); got != room {
			s.Errorf("%s sees the create event in the room %q", u.ID, got)
		}
	}
}

func inviteAndAccept(s *scene) {
	owner, guest := s.register(s.home, "owner"), s.register(s.away, "guest")
	room := s.create(owner, map[string]any{"preset": "private_chat", "name": "of the owner"})
	owner.Invite(room, guest.ID)
	state := s.invited(guest, room)
	s.strippedState(state, room, owner, guest)
	guest.Join(room)
	s.member(owner, room, guest, "join")
	s.agree(room, owner, guest)
}

// strippedState checks the state in an invitation. Invitations to rooms of version 12 contain the whole create event
// (MSC4311), with which the room's ID can be checked. Our server passes it on to users, Synapse strips it.
func (s *scene) strippedState(state []gjson.Result, room string, owner, guest *rig.User) {
	s.Helper()
	if !slices.ContainsFunc(state, isMember(guest, "invite")) {
		s.Errorf("the invitation is not in its stripped state %v", state)
	}
	i := slices.IndexFunc(state, isType("m.room.create"))
	if i < 0 {
		s.Fatalf("the stripped state of %s has no m.room.create: %v", room, state)
	}
	if s.version == "12" && s.away.name == "ours" && (!state[i].Get("origin_server_ts").Exists() || state[i].Get("sender").String() != owner.ID) {
		s.Errorf("the stripped state has no whole m.room.create: %s", state[i].Raw)
	}
}

func inviteAndReject(s *scene) {
	owner, guest := s.register(s.home, "owner"), s.register(s.away, "guest")
	room := s.create(owner, map[string]any{"preset": "private_chat"})
	owner.Invite(room, guest.ID)
	s.invited(guest, room)
	guest.Leave(room)
	s.member(owner, room, guest, "leave")
	s.wants(s.tryJoin(guest, room, s.home), 403, "M_FORBIDDEN")

	// Afterwards the guest can be invited again and join.
	owner.Invite(room, guest.ID)
	s.invited(guest, room)
	guest.Join(room)
	s.member(owner, room, guest, "join")
	s.agree(room, owner, guest)
}

// directChat starts a chat as clients do: encrypted, trusted, with the invitation in the request.
func directChat(s *scene) {
	owner, guest := s.register(s.home, "owner"), s.register(s.away, "guest")
	opts := map[string]any{
		"preset": "trusted_private_chat", "visibility": "private", "is_direct": true, "invite": []string{guest.ID},
		"initial_state": []any{map[string]any{
			"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"},
		}},
	}
	if s.version != "default" {
		opts["room_version"] = s.version
	}
	room := owner.CreateRoom(opts)
	state := s.invited(guest, room)
	i := slices.IndexFunc(state, isMember(guest, "invite"))
	if i < 0 || !state[i].Get("content.is_direct").Bool() {
		s.Errorf("the invitation does not say that it is direct: %v", state)
	}
	guest.Join(room)
	s.member(owner, room, guest, "join")
	// Both have all power in such a room.
	id := guest.SendState(room, "m.room.name", "", map[string]any{"name": "of the guest"})
	owner.WaitFor(room, is(id), patience)
	s.agree(room, owner, guest)
}

func leaveAndReturn(s *scene) {
	owner, guest, room := s.meet(nil)
	guest.Leave(room) // the last member on her server
	s.member(owner, room, guest, "leave")
	id := owner.SendState(room, "m.room.topic", "", map[string]any{"topic": "while she was away"})
	s.join(guest, room, s.home)
	s.member(owner, room, guest, "join")
	guest.WaitFor(room, isMember(guest, "join"), patience)
	if got := s.stateEvent(guest, room, isType("m.room.topic")).Get("event_id").String(); got != id {
		s.Errorf("after her return the guest sees the topic %s, want %s", got, id)
	}
	s.agree(room, owner, guest)
}

func kickAndBan(s *scene) {
	owner, guest, room := s.meet(nil)
	witness := s.register(s.away, "witness")
	s.join(witness, room, s.home)
	for _, step := range []struct {
		action, membership string
		join               int
	}{{"kick", "leave", 200}, {"ban", "ban", 403}, {"unban", "leave", 200}} {
		s.wants(membership(owner, room, step.action, guest), 200, "")
		s.told(owner, witness, room, isMember(guest, step.membership))
		if r := s.tryJoin(guest, room, s.home); r.Status != step.join {
			s.Fatalf("joining after the %s is answered %d %s", step.action, r.Status, r.Body)
		}
		if step.join == 200 {
			s.told(guest, owner, room, isMember(guest, "join"))
		}
	}
	s.member(owner, room, guest, "join")
	s.agree(room, owner, witness, guest)
}

// banMeetsReturn: a kicked guest returns by her own server while the owner bans her on the other. In any order, in the
// end she is banned on both.
func banMeetsReturn(s *scene) {
	owner, witness, room := s.meet(nil)
	for range 3 {
		guest := s.register(s.away, "guest")
		s.join(guest, room, s.home)
		s.member(owner, room, guest, "join")
		s.wants(membership(owner, room, "kick", guest), 200, "")
		s.told(owner, witness, room, isMember(guest, "leave"))

		var both sync.WaitGroup
		both.Go(func() {
			if r := s.tryJoin(guest, room, s.home); r.Status != http.StatusOK && r.Status != http.StatusForbidden {
				s.Errorf("joining during the ban is answered %d %s", r.Status, r.Body)
			}
		})
		both.Go(func() { s.wants(membership(owner, room, "ban", guest), 200, "") })
		both.Wait()
		s.agree(room, owner, witness)
		for _, u := range []*rig.User{owner, witness} {
			if got := u.GetState(room, "m.room.member", guest.ID).Get("membership").String(); got != "ban" {
				s.Errorf("to %s the guest is %q, want ban", u.ID, got)
			}
		}
		s.told(owner, witness, room, isMember(guest, "ban"))
	}
}
