package clientapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

// maxBody is the largest body that is read. Events have at most 65536 bytes, so a larger body could never be sent.
const maxBody = 64 << 10

// limitBody lets the handler read at most maxBody bytes. Dendrite itself reads bodies of any size.
func limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		next.ServeHTTP(w, req)
	})
}

// mostUnread is how many bytes of an unread body net/http reads before it answers.
const mostUnread = 256 << 10

// arrived waits for a body whose content does not matter. The answer is sent after the body, so a client whose body
// never ends gets no answer. Its request must then have had no effect.
func arrived(req *http.Request) bool {
	if req.ContentLength == 0 || req.ContentLength > mostUnread {
		return true // the server closes the connection instead of reading so much
	}
	_, err := io.CopyN(io.Discard, req.Body, mostUnread)
	return err == nil || err == io.EOF
}

// readContent returns the body. It must be one JSON object in UTF-8, without repeated keys in any object.
func readContent(req *http.Request) (json.RawMessage, *util.JSONResponse) {
	if req.ContentLength > maxBody {
		return nil, bodyTooLarge()
	}
	body, err := io.ReadAll(req.Body)
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, bodyTooLarge()
	} else if err != nil {
		return nil, badRequest(spec.NotJSON("The body could not be read"))
	}
	switch {
	case !utf8.Valid(body):
		return nil, badRequest(spec.NotJSON("The body is not valid UTF-8"))
	case !json.Valid(body):
		return nil, badRequest(spec.NotJSON("The body is not valid JSON"))
	case bytes.TrimLeft(body, " \t\r\n")[0] != '{':
		return nil, badRequest(spec.BadJSON("The body must be a JSON object"))
	case repeatsKey(body):
		return nil, badRequest(spec.BadJSON("The body names a key twice"))
	}
	return body, nil
}

// repeatsKey reports whether any object in this valid JSON has a key twice. Parsers disagree on which of the two
// counts, so the servers of a room could see different events.
func repeatsKey(valid []byte) bool {
	type object map[string]bool
	var open []object // nil for an array
	dec := json.NewDecoder(bytes.NewReader(valid))
	dec.UseNumber()
	for isKey := false; ; {
		token, err := dec.Token()
		if err != nil { // the end
			return false
		}
		switch token {
		case json.Delim('{'):
			open = append(open, object{})
		case json.Delim('['):
			open = append(open, nil)
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		default:
			if isKey {
				keys := open[len(open)-1]
				if keys[token.(string)] {
					return true
				}
				keys[token.(string)] = true
				isKey = false
				continue
			}
		}
		isKey = len(open) > 0 && open[len(open)-1] != nil
	}
}
