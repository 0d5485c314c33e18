package setup

import (
	"os"
	"runtime"
)

// KeepListening has Go run more goroutines at once than there are processors, unless the environment variable
// GOMAXPROCS says how many. With as many as processors, and all of them busy with Dendrite's events, Go would look at
// the network every 10 ms only, and heartbeats would wait for that. So there is always one to spare, and the kernel
// shares the processors out, in smaller portions. It costs nothing while the server is not busy.
func KeepListening() {
	if n := runtime.NumCPU(); os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n + min(2*n, 4))
	}
}
