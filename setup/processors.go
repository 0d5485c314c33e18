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
