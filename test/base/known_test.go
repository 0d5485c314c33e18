package base

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// difference is a named answer of the patched library that differs from the original's.
type difference struct {
	q                 question
	name              string // of the part of the answer
	original, patched string
}

// known are the intended differences. Nothing else may differ, and each of these must occur.
var known = []struct {
	name, reason string
	explains     func(d difference) bool
}{
	{
		"redacted third party invites",
		"room version 11 keeps content.third_party_invite.signed when it redacts; the original forgets it, and has other event IDs (20-redact-third-party-invite)",
		isRedactedInvite,
	},
	{
		"malformed room IDs",
		"RoomID of an event whose room_id is malformed panics in the original (30-room-id-no-panic)",
		func(d difference) bool {
			return strings.HasPrefix(d.original, "panic: RoomID is invalid") && !strings.Contains(d.patched, "RoomID is invalid")
		},
	},
	{
		"events that cannot be redacted",
		"an event whose content is no object is refused; Redact and the ID of such an event panic in the original (35-content-no-panic)",
		isUnredactable,
	},
	{
		"room IDs that are hashes",
		"NewRoomID takes the room IDs of version 12: an exclamation mark and 43 characters of URL-safe base64 (10-room-version-12)",
		func(d difference) bool {
			return d.q.Op == "id" && d.name == "room" && hashRoomID(string(d.q.Raw)) && strings.HasPrefix(d.original, "*")
		},
	},
	{
		"version 12 is known",
		"a create event of an older version may say that its room is of version 12, as it may say any version that the server knows (10-room-version-12)",
		func(d difference) bool {
			return d.q.Op == "allowed" && bytes.Contains(d.q.Raw, []byte(`"room_version":"12"`)) &&
				strings.Contains(d.original, `unrecognised room version "12"`) && d.patched == "true ok"
		},
	},
	{
		"create events of version 12 in invites",
		"an entry of invite_room_state that is a whole create event of version 12 is passed on whole (10-room-version-12)",
		func(d difference) bool {
			return d.q.Op == "stripped" && d.name == "received" && bytes.Contains(d.q.Raw, []byte(`"content":{"room_version":"12"}`)) &&
				!bytes.Contains(d.q.Raw, []byte(`"room_id"`)) && strings.Contains(d.patched, `"hashes":`)
		},
	},
	{
		"built redactions",
		"a redaction is built with its target at the one place that its room version has for it, wherever it was given (40-redactions)",
		isBuiltRedaction,
	},
	{
		"redactions of version 11",
		"Redacts reads the target of a redaction of room version 11 from its content; the original always looks beside it (40-redactions)",
		isTargetInContent,
	},
	{
		"version 12 is listed",
		"RoomVersions has version 12 (10-room-version-12)",
		func(d difference) bool { return d.q.Op == "versions" && d.name == "12" && d.original == "" },
	},
}

func isUnredactable(d difference) bool {
	var event struct {
		Type    string         `json:"type"`
		Content map[string]any `json:"content"`
	}
	return d.q.Op == "event" && strings.HasPrefix(d.name, "untrusted") && json.Unmarshal(d.q.Raw, &event) != nil &&
		(d.patched == "" || strings.HasPrefix(d.patched, "*json.UnmarshalTypeError"))
}

func hashRoomID(id string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(id, "!"))
	// The last of 43 characters has two bits that decode to nothing; the decoder ignores them.
	return len(id) == 44 && id[0] == '!' && err == nil && len(raw) == 32
}

// isBuiltRedaction checks that the target is in the one right place, and that nothing else differs.
func isBuiltRedaction(d difference) bool {
	if d.q.Op != "build" || d.name != "built" {
		return false
	}
	a, _ := withoutTarget(d.original)
	b, places := withoutTarget(d.patched)
	if d.q.Version == "11" {
		return a != "" && a == b && places == "content"
	}
	return a != "" && a == b && places == "top"
}

// withoutTarget returns a built redaction without the ID that it redacts and the values computed from it, and the
// places of that ID.
func withoutTarget(built string) (rest, places string) {
	_, raw, ok := strings.Cut(built, "{")
	var event map[string]any
	d := json.NewDecoder(strings.NewReader("{" + raw))
	d.UseNumber()
	if !ok || d.Decode(&event) != nil || event["type"] != "m.room.redaction" {
		return "", ""
	}
	content, _ := event["content"].(map[string]any)
	if _, ok := content["redacts"]; ok {
		places += "content"
	}
	if _, ok := event["redacts"]; ok {
		places += "top"
	}
	delete(content, "redacts")
	for _, name := range []string{"redacts", "hashes", "signatures"} {
		delete(event, name)
	}
	return encoded(event), places
}

var describedFields = regexp.MustCompile(`(?s)^(.* "11" -?\d+ \d+ )(".*") (true|false)$`)

// isTargetInContent parses an answer to "fields".
func isTargetInContent(d difference) bool {
	if d.q.Op != "event" || d.q.Version != "11" || !strings.HasSuffix(d.name, " fields") {
		return false
	}
	a, b := describedFields.FindStringSubmatch(d.original), describedFields.FindStringSubmatch(d.patched)
	if a == nil || b == nil || a[1] != b[1] || a[3] != b[3] {
		return false
	}
	target, err := strconv.Unquote(b[2])
	if err != nil {
		return false
	}
	if strings.HasPrefix(b[1], `"m.room.redaction" none `) {
		return target == "" || hasString(d.q.Raw, target)
	}
	return target == "" // it is no redaction
}

// hasString reports whether the string is anywhere in the JSON. Decoders differ in the number of U+FFFD for lone
// surrogates, so these are ignored.
func hasString(raw []byte, s string) bool {
	if bytes.Contains(raw, []byte(s)) { // the rest may be invalid JSON
		return true
	}
	known := func(s string) string { return strings.ReplaceAll(s, "\ufffd", "") }
	d := json.NewDecoder(bytes.NewReader(raw))
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		if text, ok := token.(string); ok && known(text) == known(s) {
			return true
		}
	}
}

// isRedactedInvite checks that the patched library follows the specification, computed here in another way.
func isRedactedInvite(d difference) bool {
	if d.q.Op != "event" || d.q.Version != "11" {
		return false
	}
	redacted, ok := redactedInvite(d.q.Raw, true)
	forgotten, _ := redactedInvite(d.q.Raw, false)
	if !ok {
		return false
	}
	id, oldID := referenceID(redacted), referenceID(forgotten)
	of, what, _ := strings.Cut(d.name, " ")
	switch {
	case d.name == "redacted":
		return equalJSON(d.patched, "ok|", redacted) && equalJSON(d.original, "ok|", forgotten)
	case what == "ID":
		return of != "stored" && d.patched == id && d.original == oldID
	case what == "after Redact":
		return d.patched == id+" "+encoded(redacted)+" true" && d.original == oldID+" "+encoded(forgotten)+" true"
	case what == "after Sign":
		return isSigned(d.patched, id, redacted) && isSigned(d.original, oldID, forgotten)
	}
	return (what == "headered" || what == "after SetUnsigned" || what == "after SetUnsignedField") &&
		strings.Contains(d.patched, id) && strings.ReplaceAll(d.patched, id, oldID) == d.original
}

// redactedInvite redacts a third party invite by the rules of room version 11. It reports whether it is one.
func redactedInvite(raw []byte, keep bool) (map[string]any, bool) {
	var event map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&event) != nil || event["type"] != "m.room.member" {
		return nil, false
	}
	content, _ := event["content"].(map[string]any)
	invite, ok := content["third_party_invite"].(map[string]any)
	left := map[string]any{}
	for _, name := range []string{"membership", "join_authorised_via_users_server"} {
		if v, has := content[name]; has {
			left[name] = v
		}
	}
	if keep {
		kept := map[string]any{}
		if signed, has := invite["signed"]; has {
			kept["signed"] = signed
		}
		left["third_party_invite"] = kept
	}
	event["content"] = left
	names := []string{
		"event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth", "prev_events", "auth_events", "origin_server_ts",
	}
	maps.DeleteFunc(event, func(name string, _ any) bool { return !slices.Contains(names, name) })
	return event, ok
}

// encoded returns canonical JSON; the strings of these events need no more care.
func encoded(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func referenceID(redacted map[string]any) string {
	event := maps.Clone(redacted)
	delete(event, "signatures")
	delete(event, "unsigned")
	sum := sha256.Sum256([]byte(encoded(event)))
	return "$" + base64.RawURLEncoding.EncodeToString(sum[:])
}

func equalJSON(got, prefix string, want map[string]any) bool {
	got, ok := strings.CutPrefix(got, prefix)
	var v map[string]any
	d := json.NewDecoder(strings.NewReader(got))
	d.UseNumber()
	return ok && d.Decode(&v) == nil && encoded(v) == encoded(want)
}

// isSigned parses an answer to "after Sign", and verifies the signature itself.
func isSigned(answer, id string, redacted map[string]any) bool {
	answer, ok := strings.CutPrefix(answer, id+" ")
	answer, verified := strings.CutSuffix(answer, " falseok")
	var event struct {
		Signatures map[string]map[string]spec.Base64Bytes `json:"signatures"`
	}
	if !ok || !verified || json.Unmarshal([]byte(answer), &event) != nil {
		return false
	}
	unsigned := maps.Clone(redacted)
	delete(unsigned, "signatures")
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	return ed25519.Verify(key, []byte(encoded(unsigned)), event.Signatures["signer"]["ed25519:1"])
}
