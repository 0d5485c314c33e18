package gen1

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func listing() map[string]func(*rig.Scene) {
	return map[string]func(*rig.Scene){
		"5.1,5.5,7.1,7.2 own events alone": ownList,
		"5.1,5.2,1.3 elements":             elements,
		"7.3":                              threeMessages,
		"5.4 pages":                        pages,
		"1.3 filters":                      filters,
		"5.3 a body with GET":              bodyWithGet,
	}
}

func semantics() map[string]func(*rig.Scene) {
	return map[string]func(*rig.Scene){
		"6.1 power lost":                   powerLost,
		"6.1 power gained":                 powerGained,
		"6.3 nobody's newer state cancels": nothingCancels,
		"6.4":                              sameKeyAtOnce,
		"6.5":                              kick,
		"6.9":                              firingIsNotLimited,
		"8 administrators":                 administrators,
	}
}

func ownList(s *rig.Scene) {
	s.Wants(s.As("", "GET", rig.UnstableDelayed, nil), 401, "M_MISSING_TOKEN")
	if r := s.Wants(s.Alice.Do("GET", rig.UnstableDelayed, nil, nil), 200, ""); string(r.Body) != `{"delayed_events":[]}` {
		s.Errorf("an empty list is %s", r.Body)
	}
	second, first := s.Message("x", 2*later), s.Message("y", later)
	if got := s.Listed(s.Server.Login(s, s.Alice), ""); !slices.Equal(got, []string{first, second}) {
		s.Errorf("another device's list is not by send time: %v", got)
	}
	if got := s.Listed(s.Bob, ""); len(got) > 0 {
		s.Errorf("another user sees %v", got)
	}
	act(s, "", second, "restart")
	act(s, "", first, "cancel")
	if got := s.Listed(s.Alice, ""); !slices.Equal(got, []string{second}) {
		s.Errorf("after cancelling the list is %v", got)
	}
}

func elements(s *rig.Scene) {
	before := time.Now().UnixMilli()
	s.State("test", "", "x", later)
	after := time.Now().UnixMilli()
	e := s.Alice.Do("GET", rig.UnstableDelayed, nil, nil).JSON.Get("delayed_events.0")
	if e.Get("room_id").String() != s.Room || e.Get("type").String() != "test" || !e.Get("state_key").Exists() || e.Get("content.body").String() != "x" {
		s.Errorf("got %s", e.Raw)
	}
	for _, name := range []string{"delay", "delay_ms"} {
		if e.Get(name).Int() != later.Milliseconds() {
			s.Errorf("%s in %s", name, e.Raw)
		}
	}
	for _, name := range []string{"running_since", "scheduled_at", "delayed_since_ts"} {
		if ts := e.Get(name).Int(); ts < before || ts > after+1 {
			s.Errorf("%s in %s, want %d to %d", name, e.Raw, before, after)
		}
	}
	s.Message("y", 2*later)
	if e := s.Alice.Do("GET", rig.UnstableDelayed, nil, nil).JSON.Get("delayed_events.1"); e.Get("state_key").Exists() {
		s.Errorf("got %s", e.Raw)
	}
}

// threeMessages is Complement's (3).
func threeMessages(s *rig.Scene) {
	bodies := []string{"700", "800", "900"}
	path := s.At("v3", "send/m.room.message/third"+delay+"900")
	s.Message("700", 700*time.Millisecond)
	s.Message("800", 800*time.Millisecond)
	third := s.ID(s.Alice.Do("PUT", path, nil, rig.Text("900")))
	if n := len(s.Listed(s.Alice, "")); n != 3 {
		s.Errorf("%d are listed", n)
	}
	if n := len(s.Listed(s.Bob, "")); n != 0 {
		s.Errorf("%d are listed for somebody else", n)
	}
	s.Eventually("an empty list", func() bool { return len(s.Listed(s.Alice, "")) == 0 })
	s.Sees("900")
	if got := s.Bodies(bodies...); !slices.Equal(got, bodies) {
		s.Errorf("they came as %v", got)
	}
	if s.ID(s.Alice.Do("PUT", path, nil, nil)) != third {
		s.Error("a repeat gets another delay_id")
	}
}

func pages(s *rig.Scene) {
	var want []string
	for range 5 {
		want = append(want, s.Message("x", later))
	}
	read := func(query string) (got []string) {
		from := ""
		for range 10 {
			r := s.Wants(s.Alice.Do("GET", rig.UnstableDelayed+query+from, nil, nil), 200, "")
			for _, e := range r.JSON.Get("delayed_events").Array() {
				got = append(got, e.Get("delay_id").String())
			}
			next := r.JSON.Get("next_batch")
			if !next.Exists() {
				return got
			}
			from = "&from=" + next.String()
		}
		s.Error("the list has no end")
		return got
	}
	if got := read("?limit=2"); !slices.Equal(got, want) {
		s.Errorf("got %v, want %v", got, want)
	}
	slices.Reverse(want)
	if got := read("?limit=2&dir=b"); !slices.Equal(got, want) {
		s.Errorf("backwards: got %v, want %v", got, want)
	}
}

func filters(s *rig.Scene) {
	other := s.Alice.CreateRoom(nil)
	elsewhere := s.ID(s.Alice.Delay(other, "state/test/", rig.Text("x"), later))
	sent, cancelled := s.Message("sent", later), s.Message("cancelled", later)
	act(s, "", sent, "send")
	act(s, "", cancelled, "cancel")
	for query, want := range map[string][]string{
		"":                                     {elsewhere},
		"?room_id=" + other:                    {elsewhere},
		"?room_id=" + s.Room:                   {},
		"?type=test":                           {elsewhere},
		"?status=scheduled":                    {elsewhere},
		"?status=sent":                         {sent},
		"?status=cancelled":                    {cancelled},
		"?status=failed":                       {},
		"?status=finalised&dir=b":              {cancelled, sent},
		"?delay_id=" + sent:                    {sent},
		"?status=scheduled&room_id=" + other:   {elsewhere},
		"?from_ts=1&to_ts=2":                   {},
		"?status=sent&status=cancelled&limit=": nil,
	} {
		if want == nil {
			s.Wants(s.Alice.Do("GET", rig.UnstableDelayed+query, nil, nil), 400, "M_INVALID_PARAM")
			continue
		}
		s.Eventually("the list for "+query, func() bool { return slices.Equal(s.Listed(s.Alice, query), want) })
	}
	s.Wants(s.Alice.Do("GET", rig.UnstableDelayed+"?status=oops", nil, nil), 400, "M_INVALID_PARAM")
}

// bodyWithGet: mautrix-go sends a body.
func bodyWithGet(s *rig.Scene) {
	s.Message("x", later)
	r := s.Wants(s.Alice.Do("GET", rig.UnstableDelayed, nil, "{}"), 200, "")
	if len(r.JSON.Get("delayed_events").Array()) != 1 {
		s.Errorf("got %s", r.Body)
	}
}

func powerLost(s *rig.Scene) {
	id := s.ID(s.Bob.Delay(s.Room, "send/m.room.message/t", rig.Text("x"), 2*soon))
	s.SetPower("events_default", 50)
	s.Passes(2 * soon)
	s.Wants(act(s, s.Bob.Token, id, "restart"), 404, "M_NOT_FOUND")
	s.Has(0, "x")
}

func powerGained(s *rig.Scene) {
	s.ID(s.Bob.Delay(s.Room, "state/test/", rig.Text("x"), 2*soon))
	s.SetPower("state_default", 0)
	if event := s.Sees("x"); event.Get("sender").String() != s.Bob.ID {
		s.Errorf("got %s", event.Raw)
	}
}

func nothingCancels(s *rig.Scene) {
	s.SetPower("state_default", 0)
	s.State("test", "", "x", 2*soon)
	s.Alice.SendState(s.Room, "test", "", rig.Text("alice's"))
	s.Bob.SendState(s.Room, "test", "", rig.Text("bob's"))
	s.Sees("x")
	if got := s.Alice.GetState(s.Room, "test", ""); got.Get("body").String() != "x" {
		s.Errorf("the state is %s", got.Raw)
	}
}

// sameKeyAtOnce: all are sent, in the order of their deadlines.
func sameKeyAtOnce(s *rig.Scene) {
	want := []string{"first", "second", "third"}
	for _, body := range want { // one after the other, so they are due in that order, however long requests take
		s.State("test", "", body, 2*soon)
	}
	s.Sees("third")
	if got := s.Bodies(want...); !slices.Equal(got, want) {
		s.Errorf("they came as %v", got)
	}
}

func kick(s *rig.Scene) {
	s.ID(s.Alice.Delay(s.Room, "state/m.room.member/"+s.Bob.ID, map[string]any{"membership": "leave", "reason": "late"}, soon))
	event := s.Alice.WaitFor(s.Room, func(e gjson.Result) bool { return e.Get("content.reason").String() == "late" }, rig.Patience)
	if event.Get("sender").String() != s.Alice.ID || event.Get("state_key").String() != s.Bob.ID {
		s.Errorf("got %s", event.Raw)
	}
	s.Wants(s.Bob.Do("PUT", s.At("v3", "send/m.room.message/t"), nil, rig.Text("x")), 403, "M_FORBIDDEN")
}

// firingIsNotLimited: scheduling is limited, but Dendrite's own limits do not apply to a timer.
func firingIsNotLimited(s *rig.Scene) {
	var bodies []string
	due := time.Now().Add(2 * soon)
	for i := range 15 {
		bodies = append(bodies, fmt.Sprint("at once ", i))
		s.Message(bodies[i], max(time.Until(due), time.Millisecond))
	}
	s.Eventually("all of them", func() bool { return len(s.Bodies(bodies...)) == len(bodies) })
}

func administrators(s *rig.Scene) {
	admin := s.Server.RegisterAdmin(s, "admin"+strings.ToLower(s.Alice.ID[1:7]))
	id := s.State("test", "key", "x", later)
	path := "/_dendrite/admin/futures?user_id=" + s.Alice.ID
	list := s.Wants(s.As(admin.Token, "GET", path, nil), 200, "")
	f := list.JSON.Get("futures.0")
	if f.Get("kind").String() != "delayed_event" || f.Get("state_key").String() != "key" || f.Get("timeout_ms").Int() != later.Milliseconds() ||
		strings.Contains(string(list.Body), id) {
		s.Errorf("got %s", list.Body)
	}
	if r := s.Wants(s.As(admin.Token, "DELETE", path, nil), 200, ""); r.JSON.Get("cancelled").Int() != 1 {
		s.Errorf("got %s", r.Body)
	}
	s.Wants(act(s, "", id, "restart"), 404, "M_NOT_FOUND")
	s.Finalised(id)
}
