// Package examples_test runs the examples of the documents as they stand there, in a shell, and checks that they do what the
// documents say.
package examples_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// address is where the server of the documents is.
const address = "http://127.0.0.1:8008"

func TestMain(m *testing.M) { rig.Main(m) }

// A block is a piece of a page that can be pasted into a shell, and what it prints according to the page.
type block struct{ commands, prints string }

var fenced = regexp.MustCompile("(?s)```sh\n(.*?)```\n(?:```(?:json|text)\n(.*?)```\n)?")

// blocks returns those below a heading, up to the next one of any level.
func blocks(t *testing.T, page, heading string) (found []block) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", page))
	if err != nil {
		t.Fatal(err)
	}
	_, below, ok := strings.Cut(string(data), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", page, heading)
	}
	if end := regexp.MustCompile(`(?m)^#+ [A-Z]`).FindStringIndex(fencedAway(below)); end != nil {
		below = below[:end[0]]
	}
	for _, m := range fenced.FindAllStringSubmatch(below, -1) {
		found = append(found, block{m[1], m[2]})
	}
	if len(found) == 0 {
		t.Fatalf("%s has no examples below %q", page, heading)
	}
	return found
}

// fencedAway blanks out what is fenced, where a comment looks like a heading, and keeps the length.
func fencedAway(text string) string {
	return regexp.MustCompile("(?s)```.*?```").ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat(" ", len(s)) })
}

// needCurl skips a test where the examples cannot be run.
func needCurl(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("curl"); err == nil {
		return
	}
	if os.Getenv("FUTURES_TEST_EXAMPLES") == "required" {
		t.Fatal("curl is not installed")
	}
	t.Skip("curl is not installed")
}

// run runs commands in one shell, the server's address aside as they stand, and returns what they print.
func run(t *testing.T, server *rig.Server, commands string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", strings.ReplaceAll(commands, address, server.URL))
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errors
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s\n%s", err, commands, out.String(), errors.String())
	}
	return out.String()
}

// TestReadme runs the block of the README: the leave arrives, eight seconds after the last heartbeat.
func TestReadme(t *testing.T) {
	needCurl(t)
	t.Parallel()
	server := rig.New(t, rig.Config{Open: true})
	start := time.Now()
	out := run(t, server, blocks(t, "README.md", "## See a leave arrive")[0].commands+"\necho $T $R\n")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) < 3 || !strings.HasSuffix(lines[0], "}{}{}") || lines[len(lines)-2] != "The leave has arrived." {
		t.Fatalf("it prints %q", out)
	}
	if took := time.Since(start); took < 14*time.Second {
		t.Errorf("two heartbeats and eight seconds took %s", took)
	}
	client := server.Client()
	token, room, _ := strings.Cut(lines[len(lines)-1], " ")
	client.Token = token
	events, err := client.Timeline(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	leaves := 0
	for _, event := range events {
		if event.Get("type").String() == "org.example.call" && event.Get("content").Raw == "{}" {
			leaves++
		}
	}
	if leaves != 1 {
		t.Errorf("the leave is in the room %d times", leaves)
	}
}

// TestAPI runs the examples with which the page on the API opens, in one shell, and compares what they print.
func TestAPI(t *testing.T) {
	needCurl(t)
	t.Parallel()
	server := rig.New(t, rig.Config{Open: true})
	const page, mark = "docs/api.md", "--- end of a block ---"
	var all []block
	for _, heading := range []string{"## Start here", "### An example of generation 0", "### An example of generation 1", "### An example of generation 2"} {
		all = append(all, blocks(t, page, heading)...)
	}
	var script strings.Builder
	for _, b := range all {
		script.WriteString(b.commands + "\necho; echo '" + mark + "'\n")
	}
	printed := strings.Split(run(t, server, script.String()), mark+"\n")
	for i, b := range all {
		got, want := strings.TrimSpace(printed[i]), strings.TrimSpace(b.prints)
		// Where the page has an ellipsis, anything may stand.
		pattern := strings.ReplaceAll(regexp.QuoteMeta(want), "…", `[^{}]*?`)
		if !regexp.MustCompile(`^` + pattern + `$`).MatchString(got) {
			t.Errorf("%s\nprints\n%s\nand not\n%s", b.commands, got, want)
		}
	}
	if len(all) != 5 {
		t.Errorf("there are %d blocks", len(all))
	}
}
