package setup

import (
	"os"
	"runtime"
)

// KeepListening has Go run one goroutine more at a time than it has processors, unless the environment variable
// GOMAXPROCS says how many. With all of them busy with Dendrite's events, Go would look at the network every 10 ms
// only, and heartbeats would wait for that. More than one more costs processor time.
func KeepListening() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}

// ballast is counted by the garbage collector, which runs when the heap has doubled. It is never touched, so that it
// takes no memory itself; the garbage that comes together meanwhile does.
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
