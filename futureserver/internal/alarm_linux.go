package internal

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm makes Go look at its timers on time. When Go is idle it waits in the network poller, which counts in whole
// milliseconds, and so do its timers. A timerfd among the polled files ends that wait to the microsecond. Nobody reads
// it. The timer itself is still needed, because a busy Go process polls the network seldom.
type alarm struct {
	clock *os.File // nil if the kernel has no more files; then timers are up to a millisecond late
}

func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return alarm{}
	}
	return alarm{os.NewFile(uintptr(fd), "timerfd")}
}

// set replaces the previous time.
func (a alarm) set(d time.Duration) {
	if a.clock != nil {
		at := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, d.Nanoseconds()))} // 0 would mean never
		unix.TimerfdSettime(int(a.clock.Fd()), 0, &at, nil)                        //nolint:errcheck // nothing is lost
	}
}

func (a alarm) close() {
	if a.clock != nil {
		a.clock.Close()
	}
}
