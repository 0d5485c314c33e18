// Package guard protects Dendrite, from outside, against weaknesses of what it stands on. It deals only with what is
// handed to Dendrite anyway: streams, consumers, caches. One file a weakness; each says which fault it closes, how it
// was reproduced, and when it can go. What stands in Dendrite's own code is patched there (setup/base).
package guard
