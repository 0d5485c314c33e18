package internal

import (
	"testing"
	"time"
)

// The poller's wait ends when the timerfd becomes readable.
func TestAlarmGoesOff(t *testing.T) {
	a := newAlarm()
	defer a.close()
	for _, d := range []time.Duration{time.Millisecond, 0, -time.Second} {
		a.set(time.Hour)
		a.set(d)
		if err := a.clock.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatalf("Go does not wait for it: %v", err)
		}
		if _, err := a.clock.Read(make([]byte, 8)); err != nil {
			t.Errorf("set to %v: %v", d, err)
		}
	}
}
