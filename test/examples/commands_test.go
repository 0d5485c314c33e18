package examples_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestCheckList runs the check list of the page on calls, and compares what each line prints with its comment.
func TestCheckList(t *testing.T) {
	needCurl(t)
	t.Parallel()
	server := rig.New(t, rig.Config{Set: map[string]any{
		"global.well_known_client_name": "https://matrix.example.com",
		"future_server.matrix_rtc.livekit": []any{
			map[string]any{"api_url": "http://127.0.0.1:1", "api_key": "K", "api_secret": "S"},
		},
	}})
	token := server.Register(t, "alice").Token
	lines := strings.Split(blocks(t, "docs/calls.md", "## Check list")[0].commands, "\n")
	checked := 0
	for _, line := range lines[1:] {
		command, comment, _ := strings.Cut(line, "#")
		if command == "" {
			continue
		}
		printed := run(t, server, fmt.Sprintf("H=%s\nT=%s\n%s", address, token, command))
		for _, want := range regexp.MustCompile(`"?[\w.]+[\w"]:?(?:true)?`).FindAllString(comment, -1) {
			if strings.ContainsAny(want, `."`) || regexp.MustCompile(`^(\d{3}|livekit)$`).MatchString(want) && want != "404" {
				checked++
				if !strings.Contains(printed, want) {
					t.Errorf("%s\nprints %q, without %s", line, printed, want)
				}
			}
		}
	}
	if checked < 6 {
		t.Errorf("only %d of the comments were understood", checked)
	}
}

// TestAdminCommands runs the lines of dendrite-admin on the page on operation.
func TestAdminCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "bin")+"/", "./cmd/dendrite-admin")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	server := rig.New(t, rig.Config{})
	alice, root := server.Register(t, "alice"), server.RegisterAdmin(t, "root")
	room := alice.CreateRoom(nil)
	for range 2 {
		alice.SendFuture(room, "m.room.message", rig.Text("later"), rig.Params{Timeout: time.Hour})
	}
	ids := root.Do("GET", "/_dendrite/admin/futures", nil, nil).JSON.Get("futures.#.id").Array()
	if len(ids) != 2 {
		t.Fatal("there are no futures")
	}
	var all strings.Builder
	for _, b := range blocks(t, "docs/operations.md", "## Administration") {
		if strings.Contains(b.commands, "dendrite-admin") {
			all.WriteString(b.commands)
		}
	}
	commands := strings.NewReplacer(
		"DENDRITE_ADMIN_TOKEN=...", "DENDRITE_ADMIN_TOKEN="+root.Token,
		"bin/dendrite-admin", filepath.Join(dir, "bin", "dendrite-admin")+" -url "+address,
		"4711", strconv.FormatInt(ids[0].Int(), 10), "@alice:example.org", alice.ID,
	).Replace(all.String())
	if n := strings.Count(commands, "dendrite-admin -url"); n < 5 {
		t.Fatalf("the page has %d lines of dendrite-admin", n)
	}
	run(t, server, commands)
	if left := root.Do("GET", "/_dendrite/admin/futures", nil, nil).JSON.Get("futures.#").Int(); left != 0 {
		t.Errorf("%d futures are left", left)
	}
}
