// Package guard protects Dendrite, from outside, against faults of its own and of its services. It uses only what is
// passed to Dendrite anyway: streams, consumers, caches. Each file closes one fault; it says what the fault is, which
// test reproduces it, and when the file can go. Faults inside Dendrite's code are patched there (setup/base).
package guard
