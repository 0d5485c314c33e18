package gomatrixserverlib

// Unwrap returns the cause of the error.
func (e FederationError) Unwrap() error { return e.Err }
