package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// operator uses the program from a shell.
type operator struct {
	*testing.T
	url string
}

// do runs the program, which must succeed, and checks that its output contains the texts.
func (o *operator) do(args string, want ...string) string {
	o.Helper()
	out, err := o.try(args)
	if err != nil {
		o.Errorf("%s: %v\n%s", args, err, out)
	}
	for _, text := range want {
		if !strings.Contains(out, text) {
			o.Errorf("%s: no %q in\n%s", args, text, out)
		}
	}
	return out
}

func (o *operator) try(args string) (string, error) {
	var out bytes.Buffer
	err := run(o.Context(), append([]string{"-url", o.url}, strings.Fields(args)...), strings.NewReader(""), &out)
	return out.String(), err
}

func (o *operator) fails(args, want string) {
	o.Helper()
	if out, err := o.try(args); err == nil || !strings.Contains(err.Error(), want) {
		o.Errorf("%s: error %v, want %q\n%s", args, err, want, out)
	}
}

func TestAdministration(t *testing.T) {
	s := rig.New(t, rig.Config{})
	root, alice, bob := s.RegisterAdmin(t, "root"), s.Register(t, "alice"), s.Register(t, "bob")
	t.Setenv("DENDRITE_ADMIN_TOKEN", root.Token)
	o := &operator{t, s.URL}
	room := alice.CreateRoom(nil)
	content := map[string]any{"msgtype": "m.text", "body": "secret"}
	later := rig.Params{Timeout: time.Hour}
	for range 3 {
		alice.SendFuture(room, "m.room.message", content, later)
	}
	alice.SendFuture(room, "com.example.odd\x1b[31m", content, later)
	bobs := bob.SendFuture(bob.CreateRoom(nil), "m.room.message", content, later)
	alice.SendFuture(room, "com.example.now", content, rig.Params{Timeout: time.Millisecond})
	for deadline := time.Now().Add(time.Minute); !strings.Contains(o.do("show 6"), "sent"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the future is not sent")
		}
	}

	out := o.do("list -user "+alice.ID, "4 futures", `com.example.odd\x1b[31m`, "scheduled")
	if strings.Contains(out, "secret") || strings.Contains(out, "\x1b") {
		t.Errorf("it prints what it must not:\n%s", out)
	}
	o.do("list", "5 futures")
	o.do("list -limit 2 -newest", "2 futures")
	o.do("list -state sent", "1 future", "com.example.now")
	o.do("list -state finished -since 1h", "1 future")
	o.do("list -state finished -until 1h", "0 futures")
	o.do("list -until +2h -kind future", "5 futures")
	o.do("show 1", "scheduled", alice.ID, room, "1h0m0s")

	o.do("cancel -room "+room, "4 futures to be cancelled; -yes does it")
	o.do("list", "5 futures")
	o.do("cancel -room "+room+" -yes", "4 futures cancelled")
	o.do("list -state cancelled", "4 futures")
	o.do("show 1", "cancelled", "ended")
	o.do("list", "1 future", bob.ID)
	if r := s.UseToken(t, bobs.Refresh); r.Status != 200 {
		t.Errorf("another room's future is gone too: %d", r.Status)
	}

	o.fails("cancel -yes", "needs -user, -room or -id")
	o.fails("cancel -user "+bob.ID+" yes", `what is "yes"?`)
	o.fails("cancel -usr "+bob.ID, "not defined: -usr")
	o.fails("list -state over", `no state "over"`)
	o.fails("list -since yesterday", "is no time")
	o.fails("show 999", "there is no future 999")
	o.fails("sow 1", `no command "sow"`)
	t.Setenv("DENDRITE_ADMIN_TOKEN", alice.Token)
	o.fails("list", "not an administrator's")
	t.Setenv("DENDRITE_ADMIN_TOKEN", "")
	o.fails("list", "no access token")
	o.fails("-url "+s.URL+"/elsewhere list", "no access token")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(root.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.do("-token-file "+file+" list", "1 future")
	o.fails("-token-file "+file+" -url "+s.URL+"/elsewhere list", "is -url right?")
	fromStdin(t, s.URL, root.Token)
}

func fromStdin(t *testing.T, url, token string) {
	var out bytes.Buffer
	if err := run(context.Background(), []string{"-url", url, "-token-file", "-", "list"}, strings.NewReader(token), &out); err != nil {
		t.Error(err, &out)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2h": now.Add(-2 * time.Hour), "+30m": now.Add(30 * time.Minute), "2026-01-01T00:00:00Z": now.AddDate(0, 0, -30).Add(-12 * time.Hour),
	} {
		if got, err := parseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "2", "-2h", "+-2h", "tomorrow"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}
