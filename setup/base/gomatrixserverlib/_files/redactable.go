package gomatrixserverlib

// checkRedactable refuses an event that cannot be redacted, such as one whose content is a string. Its event ID cannot
// be computed, and EventID and Redact panic.
func checkRedactable(eventJSON []byte, roomVersion IRoomVersion) error {
	_, err := roomVersion.RedactEventJSON(eventJSON)
	return err
}
