// Package patched says which patched base the program was built on. All packages that need a patch import it, so
// that without one the compiler complains in this one place.
package patched

import "github.com/matrix-org/dendrite/internal"

// Base is how many patches there are, and a hash of all that the base was made from.
const Base = internal.PatchedBase_RunMakeOnce // undefined? "make" makes it: docs/base.md
