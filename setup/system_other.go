//go:build !unix

package setup

// descriptors returns 0: this system has no such limit.
func descriptors() int { return 0 }

// private does nothing: this system has no file modes.
func private() {}
