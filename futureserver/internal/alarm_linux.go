package internal

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm has Go look at its timers on time. When Go has nothing else to do it waits for the network, in whole
// milliseconds, and its timers with it. So there is a clock among its connections, which ends that wait to the
// microsecond; nobody ever reads it. The timer itself is still needed: with work to do, Go seldom asks the network.
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

// set replaces the time for which it was set before.
func (a alarm) set(d time.Duration) {
	if a.clock != nil {
		at := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, d.Nanoseconds()))} // 0 would be never
		unix.TimerfdSettime(int(a.clock.Fd()), 0, &at, nil)                        //nolint:errcheck // nothing is lost
	}
}

func (a alarm) close() {
	if a.clock != nil {
		a.clock.Close()
	}
}
