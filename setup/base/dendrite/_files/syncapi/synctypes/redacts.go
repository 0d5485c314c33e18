package synctypes

import (
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/sjson"
)

// clientContent returns the content of an event for clients. The content of a redaction names its target in every room
// version, so that clients need not know about versions (MSC2174).
func clientContent(event gomatrixserverlib.PDU) spec.RawJSON {
	target := event.Redacts()
	if event.Type() != spec.MRoomRedaction || event.StateKey() != nil || target == "" {
		return event.Content()
	}
	content, err := sjson.SetBytes(event.Content(), "redacts", target)
	if err != nil {
		return event.Content()
	}
	return content
}
