package rig

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// Draft is an event without hash and signature. A value may be a json.RawMessage, which is used unchanged.
type Draft map[string]any

// With returns a copy of the draft with another value for a field; nil removes the field.
func (d Draft) With(field string, value any) Draft {
	d = maps.Clone(d)
	if d[field] = value; value == nil {
		delete(d, field)
	}
	return d
}

// FakeEvent is a signed event as it is on the wire.
type FakeEvent struct {
	ID  string
	Raw json.RawMessage
}

// MarshalJSON implements json.Marshaler.
func (e FakeEvent) MarshalJSON() ([]byte, error) { return e.Raw, nil }

// Get returns a field of the event by its path.
func (e FakeEvent) Get(path string) gjson.Result { return gjson.GetBytes(e.Raw, path) }

func (e FakeEvent) key() [2]string { return [2]string{e.Get("type").Str, e.Get("state_key").Str} }

func (e FakeEvent) isState() bool { return e.Get("state_key").Exists() }

// ReadEvent parses an event of another server.
func ReadEvent(version string, raw string) FakeEvent {
	return FakeEvent{ID: eventID(version, []byte(raw)), Raw: json.RawMessage(raw)}
}

// Sign hashes and signs any event by the rules of a room version, 4 or later. An event that cannot be redacted, such as
// one without a type, gets no proper signature.
func (f *Fake) Sign(version string, d Draft) FakeEvent {
	f.t.Helper()
	d = maps.Clone(d)
	if _, ok := d["origin_server_ts"]; !ok {
		d["origin_server_ts"] = f.timestamp()
	}
	raw, err := json.Marshal(d)
	if err != nil {
		f.t.Fatal(err)
	}
	raw = gomatrixserverlib.CanonicalJSONAssumeValid(raw)
	hash := sha256.Sum256(raw) // of an event without signatures and unsigned
	raw = f.set(raw, "hashes", map[string]string{"sha256": base64.RawStdEncoding.EncodeToString(hash[:])})
	return f.resign(version, raw)
}

// timestamp returns the time in milliseconds, later than all times before, because two rooms of one user with the same
// creation time would be the same room.
func (f *Fake) timestamp() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latest = max(f.latest+1, time.Now().UnixMilli())
	return f.latest
}

// resign signs the redacted form of an event and adds the signatures to the event.
func (f *Fake) resign(version string, raw []byte) FakeEvent {
	f.t.Helper()
	redacted, err := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(version)).RedactEventJSON(raw)
	if err != nil {
		redacted = raw
	}
	if !gjson.GetBytes(redacted, "signatures").IsObject() {
		if redacted, err = sjson.DeleteBytes(redacted, "signatures"); err != nil {
			f.t.Fatal(err)
		}
	}
	signed := f.sign(redacted)
	raw = f.set(raw, "signatures", json.RawMessage(gjson.GetBytes(signed, "signatures").Raw))
	raw = gomatrixserverlib.CanonicalJSONAssumeValid(raw)
	return FakeEvent{ID: eventID(version, raw), Raw: raw}
}

// CoSign adds this server's signature to an event of another server.
func (f *Fake) CoSign(version string, raw string) FakeEvent {
	f.t.Helper()
	return f.resign(version, []byte(raw))
}

func (f *Fake) set(raw []byte, path string, value any) []byte {
	f.t.Helper()
	raw, err := sjson.SetBytes(raw, path, value)
	if err != nil {
		f.t.Fatal(err)
	}
	return raw
}

// eventID returns the reference hash of an event, or "" if it cannot be redacted.
func eventID(version string, raw []byte) string {
	redacted, err := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(version)).RedactEventJSON(raw)
	if err != nil {
		return ""
	}
	for _, field := range []string{"signatures", "unsigned"} {
		if redacted, err = sjson.DeleteBytes(redacted, field); err != nil {
			return ""
		}
	}
	hash := sha256.Sum256(gomatrixserverlib.CanonicalJSONAssumeValid(redacted))
	return "$" + base64.RawURLEncoding.EncodeToString(hash[:])
}
