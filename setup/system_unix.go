//go:build unix

package setup

import "syscall"

// descriptors returns how many files and connections the process may have open, or 0 if that is unknown.
func descriptors() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), 1<<30))
}

// private makes all files that the process creates from now on unreadable for others.
func private() { syscall.Umask(0o077) }
