package gen0

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// listing tests section 6, and the admin API.
func listing() []requirement {
	return []requirement{
		{"6.1,6.2,6.4,10.19", list},
		{"6.1 all devices", listAllDevices},
		{"6.3", listURLs},
		{"6.5 order", listOrder},
		{"6.6,3.7", listEmpty},
		{"admin", admin},
	}
}

// secrecy tests the parts of section 7 that are not in tokens_test.go.
func secrecy() []requirement { return []requirement{{"7.3", noTokensInLog}} }

// noTokensInLog uses tokens with all possible results.
func noTokensInLog(s *scene) {
	refused := s.note(s.Bob.StateFuture(s.Room, "test", "", rig.Text("refused"), rig.Params{Timeout: soon}))
	s.use(refused.Send) // 403
	fired, f := s.message("fired", soon, ""), s.message("sent", later, "")
	s.works(f.Refresh, f.Send)
	s.gone(f)
	s.Sees("fired")
	s.getsGone(refused)
	s.futures(s.Alice)
	log := s.Server.Log()
	for _, future := range []rig.Future{refused, fired, f} {
		for _, token := range tokensOf(future) {
			if strings.Contains(log, token) {
				s.Error("a token is in the log")
			}
		}
	}
	if !strings.Contains(log, s.Room) { // the refusal above is in the log
		s.Error("the log does not speak of the room, so it proves nothing")
	}
}

func list(s *scene) {
	const body = `{"body":"x","n":12345678901,"s":"ü"}`
	timeout := s.put(s.At("v3", "send_future/m.room.message/t1?future_timeout=3600000&future_group_id=g"), body)
	action := s.put(s.At("v3", "state_future/test/key?future_group_id=g"), rig.Text("y"))
	all := s.futures(s.Alice)
	if len(all) != 2 {
		s.Fatalf("%d futures are listed", len(all))
	}
	for i, r := range []rig.Response{timeout, action} {
		if !sameJSON(all[i].Get("response"), r.JSON) || len(all[i].Map()) != 3 {
			s.Errorf("element %d is %s, but the answer was %s", i, all[i].Raw, r.Body)
		}
	}
	if !sameJSON(all[0].Get("body"), gjson.Parse(body)) {
		s.Errorf("the body is %s", all[0].Get("body"))
	}
	s.works(all[0].Get("response.refresh_token").String(), all[1].Get("response.cancel_token").String())
	if n := len(s.futures(s.Alice)); n != 1 {
		s.Errorf("%d futures are listed after one was cancelled", n)
	}
	s.gone(action.Future())
}

// sameJSON reports whether two objects have the same members, in any order.
func sameJSON(a, b gjson.Result) bool {
	one, two := a.Map(), b.Map()
	if len(one) != len(two) {
		return false
	}
	for key, value := range one {
		if other := two[key]; value.String() != other.String() || value.Type != other.Type {
			return false
		}
	}
	return true
}

func listAllDevices(s *scene) {
	laptop := s.Server.Login(s, s.Alice)
	s.message("x", later, "")
	s.note(laptop.SendFuture(s.Room, "m.room.message", rig.Text("y"), rig.Params{Timeout: later}))
	for _, device := range []*rig.User{s.Alice, laptop} {
		if n := len(s.futures(device)); n != 2 {
			s.Errorf("%d futures are listed, want 2", n)
		}
	}
}

func listURLs(s *scene) {
	prefix := "/_matrix/client/v3/rooms/" + strings.NewReplacer("!", "%21").Replace(s.Room)
	for i, c := range []struct{ request, want string }{
		{"send_future/m.room.message/t%2F1?future_timeout=3600000&future_group_id=g%201",
			"/send_future/m.room.message/t%2F1?future_timeout=3600000&future_group_id=g+1"},
		{"state_future/test/a%2Fb?future_group_id=g+1", "/state_future/test/a%2Fb?future_group_id=g+1"},
		{"state_future/test?future_group_id=g%201", "/state_future/test/?future_group_id=g+1"},
	} {
		s.Wants(s.put(s.At("unstable/org.matrix.msc4140", c.request), rig.Text("x")), 200, "")
		if got := s.futures(s.Alice)[i].Get("url").String(); got != prefix+c.want {
			s.Errorf("got  %s\nwant %s", got, prefix+c.want)
		}
	}
	// If the server has chosen the group, the URL also names it, and is a complete request.
	f := s.message("y", later, "")
	all := s.futures(s.Alice)
	at := all[1].Get("url").String() // ordered by deadline: after the first, before the action futures
	if !strings.HasSuffix(at, "?future_timeout=3600000&future_group_id="+f.Group) {
		s.Errorf("got %s", at)
	}
	if again := s.put(at, rig.Text("y")); again.Future() != f {
		s.Errorf("the URL is answered %d %s", again.Status, again.Body)
	}
}

func listOrder(s *scene) {
	for i, minutes := range []int{30, 10, 20} {
		s.message(fmt.Sprint(minutes), time.Duration(minutes)*time.Minute, fmt.Sprint("g", i))
		s.message("action", 0, fmt.Sprint("g", i))
	}
	var order []string
	for _, f := range s.futures(s.Alice) {
		order = append(order, f.Get("body.body").String())
	}
	if got := strings.Join(order, " "); got != "10 20 30 action action action" {
		s.Errorf("got %s", got)
	}
}

func listEmpty(s *scene) {
	s.message("x", later, "")
	if r := s.Bob.Do("GET", rig.Path("futures"), nil, nil); r.Status != 200 || string(r.Body) != "[]" {
		s.Errorf("got %d %s", r.Status, r.Body)
	}
	s.Wants(s.As("", "GET", rig.Path("futures"), nil), 401, "M_MISSING_TOKEN")
	s.Wants(s.As("wrong", "GET", rig.Path("future"), nil), 401, "M_UNKNOWN_TOKEN")
}

func admin(s *scene) {
	const path = "/_dendrite/admin/futures"
	root := s.Server.RegisterAdmin(s, fmt.Sprint("root", s.world.users.Add(1)))
	one, two := s.state("test", "key", "secret", later, ""), s.message("secret", later, "g")
	action := s.message("secret", 0, "g")
	bobs := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("secret"), rig.Params{Timeout: later}))
	ask := func(method, query string) gjson.Result {
		s.Helper()
		r := root.Do(method, path+"?"+query, nil, nil)
		s.Wants(r, 200, "")
		for _, token := range append(append(tokensOf(one), tokensOf(two)...), "secret") {
			if strings.Contains(string(r.Body), token) {
				s.Errorf("an administrator sees tokens or content: %s", r.Body)
			}
		}
		return r.JSON
	}
	all := ask("GET", "user_id="+s.Alice.ID)
	if n := len(all.Get("futures").Array()); n != 3 || all.Get("counts.scheduled").Int() < 4 {
		s.Errorf("got %s", all)
	}
	first := all.Get("futures.0")
	if first.Get("room_id").String() != s.Room || first.Get("type").String() != "test" || first.Get("state_key").String() != "key" ||
		first.Get("state").String() != "scheduled" || first.Get("timeout_ms").Int() != later.Milliseconds() ||
		first.Get("deadline_ts").Int() < first.Get("created_ts").Int()+later.Milliseconds()-1000 {
		s.Errorf("got %s", first)
	}
	if n := len(ask("GET", "limit=2&room_id="+s.Room).Get("futures").Array()); n != 2 {
		s.Errorf("%d are listed, want 2", n)
	}
	if n := ask("DELETE", "id="+first.Get("id").String()).Get("cancelled").Int(); n != 1 {
		s.Errorf("%d were cancelled, want 1", n)
	}
	s.gone(one)
	s.works(two.Refresh)
	ask("DELETE", "user_id="+s.Alice.ID)
	s.gone(two, action)
	if n := ask("DELETE", "room_id="+s.Room).Get("cancelled").Int(); n != 1 {
		s.Errorf("%d were cancelled, want 1", n)
	}
	s.gone(bobs)
	s.Wants(root.Do("DELETE", path, nil, nil), 400, "M_MISSING_PARAM")
	s.Wants(s.Alice.Do("GET", path, nil, nil), 403, "M_FORBIDDEN")
	s.Wants(s.As("", "GET", path, nil), 401, "M_MISSING_TOKEN")
}
