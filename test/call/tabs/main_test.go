package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/matrix-org/dendrite/futures/test/browser"
)

// TestTabs: the two links that the program prints lead to a call.
func TestTabs(t *testing.T) {
	tools := os.Getenv("FUTURES_LIVEKIT")
	if tools == "" {
		if os.Getenv("FUTURES_TEST_LIVEKIT") == "required" {
			t.Fatal("LiveKit is required, but FUTURES_LIVEKIT is not set")
		}
		t.Skip("there is no LiveKit: FUTURES_LIVEKIT is not set (docs/testing.md)")
	}
	b := browser.Start(t, browser.Calls()...)
	dendrite := filepath.Join(t.TempDir(), "dendrite")
	do(t, "../js", "npm", "ci", "--ignore-scripts")
	do(t, "../../..", "go", "build", "-o", dendrite, "./cmd/dendrite")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	lines, out := io.Pipe()
	go func() {
		ended <- run(ctx, filepath.Join(tools, "livekit-server"), dendrite, "../js", "127.0.0.1:0", out)
		out.Close()
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var links []string
	for said := bufio.NewScanner(lines); len(links) < 2 && said.Scan(); {
		if link := strings.TrimSpace(said.Text()); strings.HasPrefix(link, "http://") {
			links = append(links, link)
		}
	}
	var tabs []*browser.Tab
	for _, link := range links {
		tab := b.Tab(t)
		tab.Do(chromedp.Navigate(link))
		tabs = append(tabs, tab)
	}
	for _, tab := range tabs {
		deadline := time.Now().Add(3 * time.Minute)
		for browser.Get(tab, chromedp.Evaluate[int]("window.seen?.().people ?? 0")) != 2 {
			if time.Now().After(deadline) {
				t.Fatalf("the tab does not see both; faults: %q", tab.Faults())
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	if len(tabs) != 2 {
		t.Error("the program printed no links")
	}
}

func do(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}
