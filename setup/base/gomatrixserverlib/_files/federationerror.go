package gomatrixserverlib

// Unwrap returns what went wrong.
func (e FederationError) Unwrap() error { return e.Err }
