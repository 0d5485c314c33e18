package gomatrixserverlib

// checkRedactable refuses an event that cannot be redacted, for example because its content is a string. Its event ID
// cannot be computed: EventID and Redact would panic.
func checkRedactable(eventJSON []byte, roomVersion IRoomVersion) error {
	_, err := roomVersion.RedactEventJSON(eventJSON)
	return err
}
