package resolution

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
)

// pdu returns the event in its federation format, without signatures, and sets the event's ID: the hash of the redacted
// event. Other implementations compute the ID from the PDU, so it must be correct.
func pdu(version string, e *Event, content map[string]any, depth int) []byte {
	auth, prev := e.AuthEvents, e.PrevEvents
	if auth == nil {
		auth = []string{}
	}
	if prev == nil {
		prev = []string{}
	}
	event := map[string]any{
		"type": e.Type, "state_key": e.StateKey, "sender": e.Sender, "room_id": e.RoomID, "content": content,
		"auth_events": auth, "prev_events": prev, "origin_server_ts": e.OriginServerTS, "depth": depth,
	}
	if version == "12" && e.Type == "m.room.create" {
		delete(event, "room_id")
	}
	full := canonical(event)
	sum := sha256.Sum256(full)
	event["hashes"] = map[string]string{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}
	full = canonical(event)
	event["content"] = redacted(e.Type, content)
	sum = sha256.Sum256(canonical(event))
	e.ID = "$" + base64.RawURLEncoding.EncodeToString(sum[:])
	return full
}

// canonical returns canonical JSON for the generator's events, which need no escapes.
func canonical(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

var keptContent = map[string][]string{
	"m.room.member":     {"membership", "join_authorised_via_users_server"},
	"m.room.join_rules": {"join_rule", "allow"},
	"m.room.power_levels": {
		"ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default",
	},
}

// redacted returns the content after redaction in room versions 11 and 12.
func redacted(eventType string, content map[string]any) map[string]any {
	if eventType == "m.room.create" {
		return content
	}
	left := map[string]any{}
	for _, name := range keptContent[eventType] {
		if v, ok := content[name]; ok {
			left[name] = v
		}
	}
	return left
}
