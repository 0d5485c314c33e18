package gen0

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// requests tests sections 2.1 to 2.5: how a future is scheduled, and the answers.
func requests() []requirement {
	return []requirement{
		{"2.1.1", seedPaths},
		{"2.1.2,10.13 PUT and POST", bothMethods},
		{"2.1.3", emptyStateKey},
		{"2.1.4,2.2.1,2.2.2,2.2.3", aliases},
		{"2.2.4", versions},
		{"2.3.1,2.4.1,5.8,10.1", timeoutFuture},
		{"2.3.2,2.4.2,2.4.3,10.2 action future", actionFuture},
		{"2.3.3", threeForms},
		{"2.3.4", opaqueGroup},
		{"2.3.5", badTimeouts},
		{"2.3.6,5.13", content},
		{"2.3.6 60 KiB", largeContent},
		{"2.4.4,2.4.5", tokenFormat},
		{"2.5.1,10.18", transaction},
		{"2.5.2", separateTransactions},
		{"2.5.3", stateHasNoTransaction},
		{"names are decoded once", encodedNames},
	}
}

func seedPaths(s *scene) {
	for _, path := range []string{"send_future/m.room.message/t1", "state_future/m.room.topic/key"} {
		f := s.put(s.At("v3", path+"?future_timeout=3600000"), rig.Text("x"))
		s.Wants(f, 200, "")
		s.Wants(s.As("", "PUT", rig.Path("futures", f.Future().Refresh), nil), 200, "")
	}
	s.Wants(s.Alice.Do("GET", rig.Path("futures"), nil, nil), 200, "")
	if n := len(s.futures(s.Alice)); n != 2 {
		s.Errorf("%d futures are listed, want 2", n)
	}
}

func bothMethods(s *scene) {
	for _, method := range []string{"PUT", "POST"} {
		sent, cancelled := s.message("sent by "+method, later, ""), s.message("cancelled", later, "")
		for _, token := range []string{sent.Refresh, sent.Send, cancelled.Cancel} {
			if r := s.As("", method, rig.Path("futures", token), nil); r.Status != 200 || string(r.Body) != "{}" {
				s.Errorf("%s: %d %s", method, r.Status, r.Body)
			}
		}
		s.Sees("sent by " + method)
		s.gone(sent, cancelled)
	}
	s.Has(0, "cancelled")
}

func emptyStateKey(s *scene) {
	for i, path := range []string{"state_future/test.a", "state_future/test.b/"} {
		f := s.put(s.At("v3", path+"?future_timeout=3600000"), rig.Text("state"))
		s.Wants(f, 200, "")
		s.works(f.Future().Send)
		eventType := []string{"test.a", "test.b"}[i]
		if got := s.Alice.GetState(s.Room, eventType, "").Get("body").String(); got != "state" {
			s.Errorf("%s: the state is %q", path, got)
		}
	}
}

func aliases(s *scene) {
	for _, version := range []string{"v3", "r0", "v1", "unstable/org.matrix.msc4140", "unstable/io.element.msc3140"} {
		for _, path := range []string{"send_future/m.room.message/" + url.PathEscape(version), "state_future/test/" + s.Alice.ID} {
			r := s.put(s.At(version, path+"?future_timeout=3600000&future_group_id="+url.QueryEscape(version+path)), rig.Text("x"))
			s.Wants(r, 200, "")
			f := r.Future()
			for _, name := range []string{"future", "futures"} {
				at := "/_matrix/client/" + version + "/" + name
				s.Wants(s.Alice.Do("GET", at, nil, nil), 200, "")
				for _, method := range []string{"PUT", "POST"} {
					s.Wants(s.As("", method, at+"/"+f.Refresh, nil), 200, "")
				}
			}
			s.works(f.Cancel)
		}
	}
}

func versions(s *scene) {
	r := s.Alice.Do("GET", "/_matrix/client/versions", nil, nil)
	s.Wants(r, 200, "")
	for flag := range r.JSON.Get("unstable_features").Map() {
		switch later := flag == "org.matrix.msc4140" || flag == "org.matrix.msc4140.stable"; {
		case !later && strings.Contains(flag, "4140"), strings.Contains(flag, "3140"), strings.Contains(flag, "future"):
			s.Errorf("there is a flag for this generation: %s", flag)
		}
	}
}

func timeoutFuture(s *scene) {
	start := time.Now()
	r := s.put(s.At("v3", "send_future/m.room.message/t?future_timeout=1000"), rig.Text("bye"))
	s.Wants(r, 200, "")
	for _, key := range []string{"send_token", "cancel_token", "refresh_token", "future_group_id"} {
		if r.JSON.Get(key).String() == "" {
			s.Errorf("%s is missing in %s", key, r.Body)
		}
	}
	if len(r.JSON.Map()) != 4 || r.Header.Get("Content-Type") != "application/json" {
		s.Errorf("got %s as %s", r.Body, r.Header.Get("Content-Type"))
	}
	if time.Since(start) < 500*time.Millisecond { // on a slow machine it may already be there
		s.Has(0, "bye")
	}
	event := s.Sees("bye")
	if took := time.Since(start); took < time.Second {
		s.Errorf("it came after %s", took)
	}
	if ts := event.Get("origin_server_ts").Int(); ts < start.Add(time.Second).UnixMilli() {
		s.Errorf("origin_server_ts is %d, before the deadline", ts)
	}
	s.gone(r.Future())
	s.passes(soon)
	s.Has(1, "bye")
}

func actionFuture(s *scene) {
	s.message("timeout", later, "groupA")
	r := s.put(s.At("v3", "state_future/test/?future_group_id=groupA"), rig.Text("action"))
	s.Wants(r, 200, "")
	if len(r.JSON.Map()) != 3 || r.JSON.Get("refresh_token").Exists() || r.JSON.Get("future_group_id").String() != "groupA" {
		s.Errorf("got %s", r.Body)
	}
	s.passes(soon)
	s.Has(0, "timeout", "action")
	s.works(r.Future().Send)
	s.Sees("action")
}

func threeForms(s *scene) {
	own := s.message("x", later, "")
	if own.Group == "" {
		s.Error("the server made up no group")
	}
	s.message("x", later, "groupA")
	for _, group := range []string{own.Group, "groupA"} {
		if f := s.message("x", 0, group); f.Group != group || f.Refresh != "" {
			s.Errorf("an action future in %q got %q", group, f.Group)
		}
	}
}

func opaqueGroup(s *scene) {
	s.message("x", later, "groupA")
	path := s.At("v3", "send_future/m.room.message/t?future_group_id=")
	s.Wants(s.put(path+"%22groupA%22", rig.Text("x")), 409, "M_UNKNOWN")
	s.Wants(s.put(path+"groupa", rig.Text("x")), 409, "M_UNKNOWN")
	s.Wants(s.put(path+"groupA", rig.Text("x")), 200, "")
	odd := `"g" &=+;%ü/`
	s.message("x", later, odd)
	if f := s.message("x", 0, odd); f.Group != odd {
		s.Errorf("the group came back as %q", f.Group)
	}
}

func badTimeouts(s *scene) {
	for _, query := range []string{
		"future_timeout=0", "future_timeout=-5", "future_timeout=1.5", "future_timeout=1e3", "future_timeout=ten", "future_timeout=",
		"future_timeout=none&future_group_id=g", "future_timeout=99999999999999999999", "future_timeout=5&future_timeout=5",
		"future_timeout=%2210%22", "future_group_id=", "future_group_id=a&future_group_id=b", "future_group_id=" + strings.Repeat("g", 256),
	} {
		for _, path := range []string{"send_future/m.room.message/t?", "state_future/test/?"} {
			s.Wants(s.put(s.At("v3", path+query), rig.Text("early")), 400, "M_INVALID_PARAM")
		}
	}
	s.Has(0, "early")
	if n := len(s.futures(s.Alice)); n > 0 {
		s.Errorf("%d futures were made", n)
	}
}

func content(s *scene) {
	const body = `{"algorithm":"m.megolm.v1.aes-sha2","body":"opaque","ciphertext":"\u00fc<&>","n":9007199254740991,"deep":[{"a":null},[],true]}`
	r := s.put(s.At("v3", "send_future/m.room.encrypted/t?future_timeout=100"), body)
	s.Wants(r, 200, "")
	event := s.Sees("opaque")
	if event.Get("type").String() != "m.room.encrypted" || event.Get("sender").String() != s.Alice.ID {
		s.Errorf("got %s", event.Raw)
	}
	got := event.Get("content")
	for key, want := range map[string]string{
		"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "ü<&>", "n": "9007199254740991", "deep": `[{"a":null},[],true]`,
	} {
		if got.Get(key).String() != want {
			s.Errorf("%s is %s", key, got.Get(key))
		}
	}
}

func largeContent(s *scene) {
	big := strings.Repeat("x", 60<<10)
	s.message(big, 100*time.Millisecond, "")
	s.Sees(big)
}

func tokenFormat(s *scene) {
	f := s.message("x", later, "")
	all := append(tokensOf(f), f.Group)
	for i, token := range all {
		if raw, err := base64.RawURLEncoding.DecodeString(token); err != nil || len(raw) != 16 || slices.Contains(all[:i], token) {
			s.Errorf("token %d is %q", i, token)
		}
	}
}

func transaction(s *scene) {
	path := s.At("v3", "send_future/m.room.message/same?future_timeout=3600000")
	first := s.put(path, rig.Text("x"))
	s.Wants(first, 200, "")
	repeats := func(how string, r rig.Response) {
		s.Helper()
		if r.Status != 200 || string(r.Body) != string(first.Body) {
			s.Errorf("%s: %d %s, want %s", how, r.Status, r.Body, first.Body)
		}
	}
	repeats("again", s.put(path, rig.Text("x")))
	repeats("without body", s.put(path, nil))
	repeats("by an alias", s.put(s.At("unstable/org.matrix.msc4140", "send_future/m.room.message/same?future_timeout=5"), rig.Text("y")))
	repeats("without parameters", s.put(s.At("v3", "send_future/m.room.message/same"), rig.Text("x")))
	if n := len(s.futures(s.Alice)); n != 1 {
		s.Errorf("%d futures", n)
	}
	laptop := s.Server.Login(s, s.Alice)
	if r := laptop.Do("PUT", path, nil, rig.Text("x")); r.Status != 200 || string(r.Body) == string(first.Body) {
		s.Errorf("another device's transaction is answered %d %s", r.Status, r.Body)
	}
	s.works(first.Future().Send)
	s.Sees("x")
	repeats("after it was sent", s.put(path, rig.Text("x")))
	s.passes(soon)
	s.Has(1, "x")
}

func separateTransactions(s *scene) {
	s.Wants(s.put(s.At("v3", "send/m.room.message/shared"), rig.Text("now")), 200, "")
	f := s.put(s.At("v3", "send_future/m.room.message/shared?future_timeout=100"), rig.Text("later"))
	if f.Status != 200 || f.JSON.Get("event_id").Exists() {
		s.Errorf("got %d %s", f.Status, f.Body)
	}
	s.Sees("later")
	s.Wants(s.put(s.At("v3", "send/m.room.message/shared"), rig.Text("now")), 200, "")
	s.Has(1, "now")
	s.Has(1, "later")
}

func stateHasNoTransaction(s *scene) {
	one, two := s.state("test", "", "x", later, ""), s.state("test", "", "x", later, "")
	if one.Send == two.Send || len(s.futures(s.Alice)) != 2 {
		s.Error("two equal requests are one future")
	}
}

func encodedNames(s *scene) {
	f := s.put(s.At("v3", "state_future/test%2Ftype/a%2Fb%25c?future_timeout=3600000"), rig.Text("x"))
	s.Wants(f, 200, "")
	s.works(f.Future().Send)
	event := s.Sees("x")
	if event.Get("type").String() != "test/type" || event.Get("state_key").String() != "a/b%c" {
		s.Errorf("got %s", event.Raw)
	}
}
