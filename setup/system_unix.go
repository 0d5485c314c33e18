//go:build unix

package setup

import "syscall"

// descriptors returns how many files and connections the process may have open, 0 if nobody knows.
func descriptors() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), 1<<30))
}

// private lets nobody else read the files that the process makes from now on.
func private() { syscall.Umask(0o077) }
