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

// deepest is where the search for events ends. In Dendrite's responses they stand at half that depth at most; but
// what another server has put into an invitation may be nested for no other purpose than to be searched.
const deepest = 24

// insertion is a text that comes into a body before the byte at that index.
type insertion struct {
	at   int
	text string
}

// markEvents returns what is to be inserted into a JSON body so that the events of that sender whose ID is in ids
// carry their delay ID in unsigned. An event is an object with event_id and sender, wherever it stands, except
// in the content of another: that is the room's business.
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

// mark notes the insertion for one event. The ID is of the opaque identifier grammar, which JSON does not escape.
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

// setLength corrects the Content-Length, where there is one.
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

// writeMarked writes the body with the marks in it. That nobody reads it any more is no concern of ours.
func writeMarked(w io.Writer, body string, marks []insertion) {
	written := 0
	for _, m := range marks {
		io.WriteString(w, body[written:m.at])
		io.WriteString(w, m.text)
		written = m.at
	}
	io.WriteString(w, body[written:])
}
