//go:build unix

package setup

import (
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// CheckDescriptors warns if the process may have fewer open files and connections than enough. Go has raised the limit
// as far as it can. Dendrite's own check warns even if the limit is high enough.
func CheckDescriptors(enough uint64) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < enough {
		logrus.Warnf("The process may have only %d files and connections open; %d would be better (LimitNOFILE with systemd)", limit.Cur, enough)
	}
}
