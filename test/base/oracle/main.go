// Command oracle answers questions about gomatrixserverlib, one JSON object a line on stdin, one answer a line on
// stdout. It uses nothing that our patches add, so it can be built with the patched library and, with GOWORK=off, with
// the original one. Package base asks both the same questions.
//
// An answer is an object of strings. A panic is also an answer, under the name of the question: "panic: ...".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"regexp"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// question is one line of input. Op is the kind of question; the use of the other fields depends on it.
type question struct {
	Op      string                        `json:"op"`
	Version gomatrixserverlib.RoomVersion `json:"version,omitempty"`
	Raw     []byte                        `json:"raw,omitempty"` // JSON, perhaps invalid
	Events  [][]byte                      `json:"events,omitempty"`
	Auth    [][]byte                      `json:"auth,omitempty"`
	Text    string                        `json:"text,omitempty"`
	TS      int64                         `json:"ts,omitempty"`
}

type answer map[string]string

// ask stores the result of f under a name, or its panic.
func (a answer) ask(name string, f func() string) {
	defer func() {
		if r := recover(); r != nil {
			a[name] = clean(fmt.Sprint("panic: ", r))
		}
	}()
	a[name] = clean(f())
}

var pointer = regexp.MustCompile(`0x[0-9a-f]{8,}`)

// chance matches the ends of messages that name one of several faults, in the random order of a map.
var chance = regexp.MustCompile(`(is not allowed (to )?change (user|level|notification)|Not a valid user ID:) .*`)

// clean hides what differs from run to run: addresses in error messages, and random choices.
func clean(s string) string {
	return chance.ReplaceAllString(pointer.ReplaceAllString(s, "0x"), "...")
}

func (a answer) askError(name string, f func() error) {
	a.ask(name, func() string { return text(f()) })
}

func (a answer) askJSON(name string, f func() ([]byte, error)) {
	a.ask(name, func() string {
		out, err := f()
		return text(err) + "|" + string(out)
	})
}

func text(err error) string {
	if err == nil {
		return "ok"
	}
	return fmt.Sprintf("%T %s", err, err)
}

var operations = map[string]func(question, answer){
	"canonical": canonical,
	"event":     event,
	"build":     build,
	"allowed":   allowed,
	"resolve":   resolve,
	"id":        id,
	"levels":    levels,
	"versions":  versions,
	"stripped":  stripped,
	"template":  template,
	"invite":    invite,
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<26)
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			log.Fatal(err)
		}
		a := answer{}
		operations[q.Op](q, a)
		if err := encoder.Encode(a); err != nil {
			log.Fatal(err)
		}
	}
	if err := in.Err(); err != nil {
		log.Fatal(err)
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
}

// known are the versions for questions that name none.
var known = []gomatrixserverlib.RoomVersion{
	"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "org.matrix.msc4014", "org.matrix.msc3667", "org.matrix.msc3787",
}

func canonical(q question, a answer) {
	a.askJSON("canonical", func() ([]byte, error) { return gomatrixserverlib.CanonicalJSON(q.Raw) })
	for _, version := range known {
		impl := gomatrixserverlib.MustGetRoomVersion(version)
		a.askError("check "+string(version), func() error { return impl.CheckCanonicalJSON(q.Raw) })
		a.ask("enforced "+string(version), func() string {
			out, err := gomatrixserverlib.EnforcedCanonicalJSON(q.Raw, version)
			return text(err) + fmt.Sprint(len(out))
		})
	}
	if json.Valid(q.Raw) {
		a.ask("compact", func() string { return string(gomatrixserverlib.CompactJSON(q.Raw, nil)) })
		a.ask("sorted", func() string { return string(gomatrixserverlib.SortJSON(q.Raw, nil)) })
	}
}

func versions(_ question, a answer) {
	for version, impl := range gomatrixserverlib.RoomVersions() {
		a.ask(string(version), func() string {
			return fmt.Sprint(impl.Version(), impl.Stable(), impl.StateResAlgorithm(), impl.EventFormat(), impl.EventIDFormat(),
				gomatrixserverlib.KnownRoomVersion(version), gomatrixserverlib.StableRoomVersion(version))
		})
	}
}

func id(q question, a answer) {
	a.ask("room", func() string {
		room, err := spec.NewRoomID(string(q.Raw))
		if err != nil {
			return text(err)
		}
		return fmt.Sprintf("%q %q %q", room.String(), room.OpaqueID(), room.Domain())
	})
	for _, historical := range []bool{false, true} {
		a.ask(fmt.Sprint("user ", historical), func() string {
			user, err := spec.NewUserID(string(q.Raw), historical)
			if err != nil {
				return text(err)
			}
			return fmt.Sprintf("%q %q %q", user.String(), user.Local(), user.Domain())
		})
	}
	for _, sigil := range "!@#$+" {
		a.ask("split "+string(sigil), func() string {
			local, domain, err := gomatrixserverlib.SplitID(byte(sigil), string(q.Raw))
			return fmt.Sprintf("%q %q %s", local, domain, text(err))
		})
	}
	a.ask("server", func() string {
		host, port, ok := spec.ParseAndValidateServerName(spec.ServerName(string(q.Raw)))
		return fmt.Sprintf("%q %d %v", host, port, ok)
	})
}

func levels(q question, a answer) {
	for _, version := range known {
		a.ask(string(version), func() string {
			var c gomatrixserverlib.PowerLevelContent
			c.Defaults()
			err := gomatrixserverlib.MustGetRoomVersion(version).ParsePowerLevels(q.Raw, &c)
			return fmt.Sprintf("%s %+v %d %d %d", text(err), c, c.UserLevel("@a:one"), c.EventLevel("m.room.name", true), c.NotificationLevel("room"))
		})
	}
}
