//go:build !linux

package internal

import "time"

// alarm does nothing: timers are as late as Go's.
type alarm struct{}

func newAlarm() alarm           { return alarm{} }
func (alarm) set(time.Duration) {}
func (alarm) close()            {}
