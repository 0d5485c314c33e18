package setup

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// While rooms wait for their turn, Go runs more goroutines at a time, and soon after that as many as before.
func TestMoreAtATimeInStorms(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	usual := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(usual)
	synctest.Test(t, func(t *testing.T) {
		storm := inStorms()
		expect := func(when string, want int) {
			t.Helper()
			if got := runtime.GOMAXPROCS(0); got != want {
				t.Fatalf("%s %d goroutines run at a time instead of %d", when, got, want)
			}
		}
		expect("before a storm", usual)
		storm(true)
		expect("in a storm", usual+moreInStorms)
		storm(false)
		time.Sleep(afterStorms / 2)
		storm(true)
		time.Sleep(afterStorms)
		expect("in a storm right after another", usual+moreInStorms)
		storm(false)
		time.Sleep(afterStorms + 1)
		expect("after a storm", usual)
	})
}

// GOMAXPROCS also applies to storms.
func TestGOMAXPROCSIsObeyed(t *testing.T) {
	t.Setenv("GOMAXPROCS", "3")
	if inStorms() != nil {
		t.Error("storms would change how many goroutines run at a time")
	}
}
