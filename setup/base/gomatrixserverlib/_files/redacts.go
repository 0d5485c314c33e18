package gomatrixserverlib

import (
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// A redaction names its target at the event's top level up to room version 10, and in its content from version 11 on
// (MSC2174). On the wire the other place is empty.

// redactsInContent reports whether redactions of that room version name their target in their content.
func (v RoomVersion) redactsInContent() bool { return v == RoomVersionV11 || v == RoomVersionV12 }

// redactsOf returns the ID of the event that an event redacts, "" if there is none or the event is not a redaction.
func redactsOf(version RoomVersion, e *eventFields) string {
	if !version.redactsInContent() {
		return e.Redacts
	}
	if e.Type != spec.MRoomRedaction || e.StateKey != nil {
		return ""
	}
	return contentRedacts(e.Content)
}

func contentRedacts(content []byte) string {
	if target := gjson.GetBytes(content, "redacts"); target.Type == gjson.String {
		return target.Str
	}
	return ""
}

// placeRedacts moves the target of a redaction to the place that the room version requires (MSC4169).
func placeRedacts(version RoomVersion, eb *EventBuilder) {
	if eb.Type != spec.MRoomRedaction || eb.StateKey != nil {
		return
	}
	if eb.Redacts == "" {
		eb.Redacts = contentRedacts(eb.Content)
	}
	if eb.Redacts == "" {
		return
	}
	var content []byte
	var err error
	if version.redactsInContent() {
		content, err = sjson.SetBytes(eb.Content, "redacts", eb.Redacts)
	} else {
		content, err = sjson.DeleteBytes(eb.Content, "redacts")
	}
	if err != nil {
		return // the content is not a JSON object; Build returns an error for it
	}
	eb.Content = content
	if version.redactsInContent() {
		eb.Redacts = ""
	}
}
