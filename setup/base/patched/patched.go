// Package patched says which patched base the program was built on. Every package that needs a patch imports it, so
// without a patched base the compiler reports one error, here.
package patched

import "github.com/matrix-org/dendrite/internal"

// Base is the number of patches and a hash of the base's input.
const Base = internal.PatchedBase_RunMakeOnce // undefined? Run "make", see docs/base.md
