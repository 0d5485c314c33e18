package setup

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// KeepListening has Go run one goroutine more at a time than it has processors, unless the environment variable
// GOMAXPROCS says how many. With all of them busy with Dendrite's events, Go would look at the network every 10 ms
// only, and heartbeats would wait for that. More than one more costs a heartbeat processor time; see inStorms.
func KeepListening() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}

const (
	moreInStorms = 7
	afterStorms  = time.Second // each change stops all goroutines for a moment
)

// inStorms returns what is to be told of storms (futureserver.Options). It has Go run more goroutines at a time in one,
// unless the environment variable GOMAXPROCS says how many. The kernel then chooses who has a processor, and it soon
// chooses one who has waited, such as a heartbeat; Go would let Dendrite's work run for as long as it likes.
func inStorms() func(begins bool) {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	usual := runtime.GOMAXPROCS(0)
	var mu sync.Mutex
	inStorm := false
	calm := func() {
		mu.Lock()
		defer mu.Unlock()
		if !inStorm {
			runtime.GOMAXPROCS(usual)
		}
	}
	return func(begins bool) {
		mu.Lock()
		defer mu.Unlock()
		if inStorm = begins; begins {
			runtime.GOMAXPROCS(usual + moreInStorms)
		} else {
			time.AfterFunc(afterStorms, calm)
		}
	}
}

// ballast is counted by the garbage collector, which runs when the heap has doubled. It is never touched, so that it
// takes no memory itself; the garbage that comes together meanwhile does.
//
//lint:ignore U1000 it is there for the collector
var ballast []byte

const ballastSize = 96 << 20

// CollectRarely has the collector run when some 100 MB more have been allocated than it would wait for, unless one of the
// environment variables GOGC and GOMEMLIMIT says what it is to do. On a small server each run takes both processors for
// 50 ms, in which heartbeats wait.
func CollectRarely() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		ballast = make([]byte, ballastSize)
	}
}
