// Package browser lets tests use web pages in a real Chromium, without a window and with a profile of its own that goes
// with the test. It reaches this machine only.
//
// A test is skipped where Chromium is not installed, unless the environment variable FUTURES_TEST_BROWSER says "required".
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const (
	startTime = 90 * time.Second // a browser that needs longer to come up is taken for hung
	patience  = time.Minute      // for one call of Run; only a failing test waits so long
	pollEvery = 50 * time.Millisecond
)

// Browser is one Chromium.
type Browser struct {
	ctx context.Context
}

// Start starts a Chromium, with these command line switches besides the usual ones. It ends with the test.
func Start(t testing.TB, flags ...chromedp.ExecAllocatorOption) *Browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(find(t)),
		chromedp.WSURLReadTimeout(startTime),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} }),
		chromedp.Flag("headless", "new"),
		chromedp.NoSandbox, // root and containers cannot have one, and the pages are the tests' own
		// Names of other machines do not exist, so neither pages nor the browser itself ask anybody outside.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
	)
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(options, flags...)...)
	t.Cleanup(end)
	ctx, closeBrowser := chromedp.NewContext(allocator)
	t.Cleanup(closeBrowser)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	return &Browser{ctx}
}

// Calls are the switches for video calls on this machine: a camera and a microphone that Chromium plays, which nobody need
// allow, and connections to loopback.
func Calls() []chromedp.ExecAllocatorOption {
	return []chromedp.ExecAllocatorOption{
		chromedp.Flag("use-fake-ui-for-media-stream", true), chromedp.Flag("use-fake-device-for-media-stream", "fps=5"),
		chromedp.Flag("allow-loopback-in-peer-connection", true), chromedp.Flag("autoplay-policy", "no-user-gesture-required"),
		chromedp.Flag("disable-features", "WebRtcHideLocalIpsWithMdns"),
	}
}

// Kill ends the browser at once, with SIGKILL: its user's machine has crashed.
func (b *Browser) Kill() { b.signal(syscall.SIGKILL) }

// Freeze stops the browser for that time: nothing of it reaches anybody meanwhile.
func (b *Browser) Freeze(d time.Duration) {
	b.signal(syscall.SIGSTOP)
	time.Sleep(d)
	b.signal(syscall.SIGCONT)
}

// signal reaches all of the browser's processes, which are one group.
func (b *Browser) signal(s syscall.Signal) {
	syscall.Kill(-chromedp.FromContext(b.ctx).Browser.Process().Pid, s) //nolint:errcheck // it may be gone already
}

// find returns the path of Chromium.
func find(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "Chromium is not installed (Debian's package chromium)"
	if os.Getenv("FUTURES_TEST_BROWSER") == "required" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// Tab is a tab with cookies and a storage of its own.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu     sync.Mutex
	faults []string
}

// Tab opens a tab, which is closed when the test ends.
func (b *Browser) Tab(t testing.TB) *Tab {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(closeTab)
	tab := &Tab{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, tab.note); err != nil {
		t.Fatalf("opening a tab: %v", err)
	}
	return tab
}

// Do does what is asked, one after the other. The test ends if one of it fails or takes longer than a minute.
func (tab *Tab) Do(actions ...chromedp.Action[chromedp.Void]) {
	tab.t.Helper()
	for i, action := range actions {
		if _, err := run(tab, action); err != nil {
			tab.t.Fatalf("step %d of %d in the browser: %v\nfaults so far: %q", i+1, len(actions), err, tab.Faults())
		}
	}
}

// Get does what is asked and returns its result, or ends the test as Do does.
func Get[T any](tab *Tab, action chromedp.Action[T]) T {
	tab.t.Helper()
	value, err := run(tab, action)
	if err != nil {
		tab.t.Fatalf("in the browser: %v\nfaults so far: %q", err, tab.Faults())
	}
	return value
}

func run[T any](tab *Tab, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, action)
}

// Await waits until the JavaScript expression is true.
func (tab *Tab) Await(expression string) {
	tab.t.Helper()
	if _, err := run(tab, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingInterval(pollEvery), chromedp.WithPollingTimeout(0))); err != nil {
		tab.t.Fatalf("waiting for %s in the browser: %v\nfaults so far: %q", expression, err, tab.Faults())
	}
}

// Faults returns what the page has had to complain of so far: uncaught exceptions, errors on the console, violations of
// its content security policy, resources that could not be loaded.
func (tab *Tab) Faults() []string {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	return append([]string(nil), tab.faults...)
}

func (tab *Tab) note(event any) {
	fault := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		fault = "exception: " + e.ExceptionDetails.Text
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			fault += " " + thrown.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert {
			fault = "console:"
			for _, arg := range e.Args {
				fault += " " + string(arg.Value) + arg.Description
			}
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			fault = fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	}
	if fault != "" {
		tab.mu.Lock()
		tab.faults = append(tab.faults, fault)
		tab.mu.Unlock()
	}
}
