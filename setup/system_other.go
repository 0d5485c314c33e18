//go:build !unix

package setup

// descriptors returns 0: the system has no such limit.
func descriptors() int { return 0 }

// private does nothing: the system has no modes.
func private() {}
