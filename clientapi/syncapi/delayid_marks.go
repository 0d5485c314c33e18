package syncapi

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// deepest is the depth at which the search for events stops. Events in Dendrite's responses are at most half as deep.
// But another server can send an invitation that is nested only to make the search expensive.
const deepest = 24

// insertion is a text to insert before the byte at index at.
type insertion struct {
	at   int
	text string
}

// markEvents returns the insertions that add the delay IDs to a JSON body. They mark the events of sender whose IDs are
// in ids. An event is any object with event_id and sender, except inside the content of another event, which belongs to
// the room.
func markEvents(body, sender string, ids map[string]string) []insertion {
	m := marker{sender: sender, ids: ids}
	m.search(gjson.Parse(body), 0)
	slices.SortFunc(m.marks, func(a, b insertion) int { return cmp.Compare(a.at, b.at) })
	return m.marks
}

type marker struct {
	sender string
	ids    map[string]string
	marks  []insertion
}

func (m *marker) search(value gjson.Result, depth int) {
	var eventID, sender string
	var unsigned gjson.Result
	value.ForEach(func(key, member gjson.Result) bool {
		name := key.Str // "" in an array
		switch member.Type {
		case gjson.String:
			switch name {
			case "event_id":
				eventID = member.Str
			case "sender":
				sender = member.Str
			}
		case gjson.JSON:
			if name == "content" || name == "prev_content" || depth == deepest {
				return true
			}
			if name == "unsigned" {
				unsigned = member
			}
			m.search(member, depth+1)
		}
		return true
	})
	if id, ours := m.ids[eventID]; ours && sender == m.sender {
		m.mark(value, unsigned, id)
	}
}

// mark adds the insertion for one event. A delay ID follows the opaque identifier grammar, so JSON needs no escapes.
func (m *marker) mark(event, unsigned gjson.Result, id string) {
	text := `"org.matrix.msc4140.delay_id":"` + id + `","delay_id":"` + id + `"`
	if !unsigned.IsObject() {
		m.marks = append(m.marks, insertion{event.Index + 1, `"unsigned":{` + text + `},`})
		return
	}
	if !strings.HasPrefix(strings.TrimLeft(unsigned.Raw[1:], " \t\r\n"), "}") {
		text += ","
	}
	m.marks = append(m.marks, insertion{unsigned.Index + 1, text})
}

// setLength corrects the Content-Length if there is one.
func setLength(header http.Header, body string, marks []insertion) {
	if header.Get("Content-Length") == "" {
		return
	}
	n := len(body)
	for _, m := range marks {
		n += len(m.text)
	}
	header.Set("Content-Length", strconv.Itoa(n))
}

// writeMarked writes the body with the insertions. Write errors are ignored: they mean that the client is gone.
func writeMarked(w io.Writer, body string, marks []insertion) {
	written := 0
	for _, m := range marks {
		io.WriteString(w, body[written:m.at])
		io.WriteString(w, m.text)
		written = m.at
	}
	io.WriteString(w, body[written:])
}
