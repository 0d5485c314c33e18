package gomatrixserverlib

import (
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// This file is about where a redaction names its target: until room version 10 at the event's top level, from
// version 11 on in its content (MSC2174). On the wire the other place is empty.

// redactsInContent reports whether redactions of that room version name their target in their content.
func (v RoomVersion) redactsInContent() bool { return v == RoomVersionV11 || v == RoomVersionV12 }

// redactsOf is the ID of the event that an event redacts. A redaction without one, and an event that is no
// redaction, has "".
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

// placeRedacts moves what a redaction redacts to the place that the room version has for it, wherever the caller
// has put it (MSC4169).
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
		return // the content is no JSON object; Build says so
	}
	eb.Content = content
	if version.redactsInContent() {
		eb.Redacts = ""
	}
}
