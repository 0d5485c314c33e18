package gen0

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// refusals tests section 3, and that no request for a future is sent at once.
func refusals() []requirement {
	return []requirement{
		{"3.1", likeSend},
		{"3.1 names", badNames},
		{"3.2,10.2 without group", unknownGroup},
		{"3.3,10.4", longTimeout},
		{"3.4,2.3.3 neither,2.3.7,10.3", neither},
		{"3.5,10.24", foreignGroup},
		{"3.6", newGroup},
		{"3.7", credentialsAndBody},
		{"3.7 413", tooLarge},
		{"3.8", outsider},
		{"8", batch},
		{"9", plainSend},
	}
}

func likeSend(s *scene) {
	for name, c := range map[string]struct {
		path string // after /send_future/ or /send/
		body string
	}{
		"float":      {"m.room.message/", `{"body":1.5}`},
		"huge":       {"m.room.message/", `{"body":123456789012345678901234567890}`},
		"over 64 KB": {"m.room.message/", `{"body":"` + strings.Repeat("x", 65200) + `"}`},
		"not JSON":   {"m.room.message/", `{`},
		"array":      {"m.room.message/", `[]`},
	} {
		plain := s.put(s.At("v3", "send/"+c.path+url.PathEscape("plain "+name)), c.body)
		future := s.put(s.At("v3", "send_future/"+c.path+url.PathEscape(name)+"?future_timeout=3600000"), c.body)
		if plain.Status == 200 || plain.Status != future.Status {
			s.Errorf("%s: /send answers %d %s, send_future %d %s", name, plain.Status, plain.Body, future.Status, future.Body)
		}
	}
	s.Wants(s.put(rig.Path("rooms", "!unknown:localhost", "send_future", "m.room.message", "t")+"?future_timeout=10", rig.Text("x")), 404, "M_NOT_FOUND")
	s.Wants(s.put(s.At("v3", "state_future/m.room.create/?future_timeout=10"), rig.Text("x")), 400, "M_BAD_JSON")
}

func badNames(s *scene) {
	for _, path := range []string{
		"send_future/a%00/t", "send_future/a/t%00", "send_future/a/t%ff", "state_future/a/b%00", "state_future/%ff/",
	} {
		s.Wants(s.put(s.At("v3", path+"?future_timeout=10"), rig.Text("x")), 400, "M_INVALID_PARAM")
	}
}

func unknownGroup(s *scene) {
	for _, path := range []string{"send_future/m.room.message/t", "state_future/test/"} {
		r := s.put(s.At("v3", path+"?future_group_id=nowhere"), rig.Text("x"))
		s.Wants(r, 409, "M_UNKNOWN")
		if r.JSON.Get(`org\.matrix\.msc4140\.errcode`).String() != "M_UNKNOWN_FUTURE_GROUP" {
			s.Errorf("got %s", r.Body)
		}
	}
	// A group whose timeout future has fired is unknown.
	f := s.message("x", later, "groupA")
	s.works(f.Send)
	s.Wants(s.put(s.At("v3", "send_future/m.room.message/t?future_group_id=groupA"), rig.Text("x")), 409, "M_UNKNOWN")
}

func longTimeout(s *scene) {
	const max = 604800000
	for _, ms := range []string{fmt.Sprint(max + 1), "9007199254740993", "9223372036854775807"} {
		r := s.put(s.At("v3", "send_future/m.room.message/t?future_timeout="+ms), rig.Text("x"))
		s.Wants(r, 400, "M_UNKNOWN")
		if !strings.Contains(r.JSON.Get("error").String(), fmt.Sprint(max)) ||
			r.JSON.Get(`org\.matrix\.msc4140\.errcode`).String() != "M_FUTURE_MAX_TIMEOUT_EXCEEDED" ||
			r.JSON.Get(`org\.matrix\.msc4140\.timeout_duration`).Int() != max {
			s.Errorf("got %s", r.Body)
		}
	}
	s.Wants(s.put(s.At("v3", fmt.Sprint("send_future/m.room.message/t?future_timeout=", max)), rig.Text("x")), 200, "")
}

func neither(s *scene) {
	for _, path := range []string{"send_future/m.room.message/t", "state_future/test", "state_future/test/", "state_future/test/key"} {
		for _, query := range []string{"", "?timeout=600", "?org.matrix.msc4140.delay=600"} {
			s.Wants(s.put(s.At("v3", path+query), rig.Text("early")), 400, "M_MISSING_PARAM")
		}
	}
	s.passes(soon)
	s.Has(0, "early")
}

func foreignGroup(s *scene) {
	f := s.message("alice's", later, "groupA")
	join := s.Bob.Do("PUT", s.At("v3", "send_future/m.room.message/t?future_group_id="+f.Group), nil, rig.Text("bob's"))
	never := s.Bob.Do("PUT", s.At("v3", "send_future/m.room.message/t?future_group_id=never-made"), nil, rig.Text("bob's"))
	s.Wants(join, 409, "M_UNKNOWN")
	if string(join.Body) != string(never.Body) {
		s.Error("bob can tell a group of alice's from none")
	}
	// Bob may have a group of that name too. It does not affect alice's.
	own := s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("bob's"), rig.Params{Timeout: later, Group: f.Group})
	s.works(own.Send, f.Refresh)
	s.Sees("bob's")
	s.works(f.Send)
	s.Sees("alice's")
}

func newGroup(s *scene) {
	if f := s.message("x", later, "fresh"); f.Group != "fresh" {
		s.Errorf("the group is %q", f.Group)
	}
	s.message("x", 0, "fresh")
}

func credentialsAndBody(s *scene) {
	for _, path := range []string{
		s.At("v3", "send_future/m.room.message/t?future_timeout=3600000"), s.At("v3", "state_future/test/?future_timeout=3600000"),
	} {
		s.Wants(s.As("", "PUT", path, rig.Text("x")), 401, "M_MISSING_TOKEN")
		s.Wants(s.As("wrong", "PUT", path, rig.Text("x")), 401, "M_UNKNOWN_TOKEN")
		for body, errcode := range map[string]string{
			"": "M_NOT_JSON", "{": "M_NOT_JSON", "{}x": "M_NOT_JSON", "{\"a\":\"\xff\"}": "M_NOT_JSON",
			"[]": "M_BAD_JSON", "null": "M_BAD_JSON", `"x"`: "M_BAD_JSON", `{"a":1,"a":2}`: "M_BAD_JSON",
		} {
			s.Wants(s.put(path, body), 400, errcode)
		}
	}
}

func tooLarge(s *scene) {
	body := `{"body":"` + strings.Repeat("x", 70<<10) + `"}`
	s.Wants(s.put(s.At("v3", "send_future/m.room.message/t?future_timeout=10"), body), 413, "M_TOO_LARGE")
	s.Wants(s.put(s.At("v3", "state_future/test/?future_timeout=10"), body), 413, "M_TOO_LARGE")
}

func outsider(s *scene) {
	carol := s.Register("carol")
	for _, path := range []string{"send_future/m.room.message/t", "state_future/test/"} {
		s.Wants(carol.Do("PUT", s.At("v3", path+"?future_timeout=10"), nil, rig.Text("x")), 403, "M_FORBIDDEN")
	}
	// Missing power is no reason to refuse a request: bob is in the room.
	s.Wants(s.Bob.Do("PUT", s.At("v3", "state_future/m.room.name/?future_timeout=3600000"), nil, rig.Text("x")), 200, "")
}

func batch(s *scene) {
	s.Wants(s.put(s.At("v3", "send/future/t"), rig.Text("a plain event")), 200, "")
	if event := s.Sees("a plain event"); event.Get("type").String() != "future" {
		s.Errorf("got %s", event.Raw)
	}
}

func plainSend(s *scene) {
	for _, version := range []string{"v3", "r0"} {
		for _, query := range []string{
			"future_timeout=1", "future_group_id=g", "org.matrix.msc4140.future_timeout=1", "org.matrix.msc4140.future_group_id=g",
			"future_timeout", "a=%zz&f%75ture_timeout=1",
		} {
			s.Wants(s.put(s.At(version, "send/m.room.message/t?"+query), rig.Text("early")), 400, "M_INVALID_PARAM")
			s.Wants(s.Alice.Do("POST", s.At(version, "send/m.room.message?"+query), nil, rig.Text("early")), 400, "M_INVALID_PARAM")
			for _, path := range []string{"state/test", "state/test/", "state/test/key"} {
				s.Wants(s.put(s.At(version, path+"?"+query), rig.Text("early")), 400, "M_INVALID_PARAM")
			}
		}
	}
	s.Wants(s.put(s.At("v3", "send/m.room.message/t?ts=5&user_id=future_timeout"), rig.Text("stock")), 200, "")
	s.Wants(s.put(s.At("v3", "state/test/"), rig.Text("stock state")), 200, "")
	s.Wants(s.Alice.Do("GET", s.At("v3", "state/test/?future_timeout=1"), nil, nil), 200, "")
	s.Sees("stock state")
	s.Has(0, "early")
	s.Has(2, "stock", "stock state")
}
