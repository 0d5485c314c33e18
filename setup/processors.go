package setup

import (
	"os"
	"runtime"
	"sync"
	"time"
)

// KeepListening lets Go run one goroutine more at a time than there are processors, unless the environment variable
// GOMAXPROCS is set. If all of Go's processors are busy with Dendrite's events, Go polls the network only every 10 ms,
// and heartbeats wait for that. More than one in addition would cost a heartbeat processor time; see inStorms.
func KeepListening() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}

const (
	moreInStorms = 7
	afterStorms  = time.Second // because each change stops all goroutines for a moment
)

// inStorms returns the hook for storms (futureserver.Options). During a storm Go runs more goroutines at a time, unless
// the environment variable GOMAXPROCS is set. Then the kernel decides which thread has a processor, and it soon chooses
// one that has waited, such as a heartbeat. Go's own scheduler would let Dendrite's work run for longer.
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

// ballast makes the garbage collector run less often, because it runs when the heap has doubled. The ballast is never
// touched, so it takes no memory itself; the additional garbage does.
//
//lint:ignore U1000 it only has to exist
var ballast []byte

const ballastSize = 96 << 20

// CollectRarely makes the garbage collector wait for some 100 MB of additional allocations, unless one of the
// environment variables GOGC and GOMEMLIMIT is set. On a small server each collection takes both processors for 50 ms,
// in which heartbeats wait.
func CollectRarely() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		ballast = make([]byte, ballastSize)
	}
}
