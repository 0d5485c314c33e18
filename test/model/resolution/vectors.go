package resolution

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
)

// Vector is a hand-written room with the answers. In the notation, users and events have short names: user A is
// "@a:one", event c is "$c". A line is an event: name, type (with ":user" for a member), sender, content, auth events,
// time, and perhaps "rejected". The types are create, m (member), pl, jr (join rules), tp (topic).
type Vector struct {
	Name   string
	Events string
	Sets   string // names, the sets separated by "|"
	V2     string // the result; empty if it is the same as V21
	V21    string
	In11   string // the result with the rules of room version 11, if it differs
}

// base is the start of most rooms; the %s is the content of p1.
const base = `
c  create A {}     -     1
ma m:A    A join   -     2
p1 pl     A %s     ma    3
j1 jr     A public ma,p1 4
mb m:B    B join   p1,j1 5
mc m:C    C join   p1,j1 6
`

func onBase(levels, events string) string {
	return fmt.Sprintf(base, levels) + events
}

// Vectors returns the vectors that have a result under both algorithms, by number, and then some ladders.
func Vectors() []Vector {
	all := append(problemCases(), otherCases()...)
	for steps := 3; steps <= 8; steps++ {
		all = append(all, ladder(steps))
	}
	return all
}

// ladder is MSC4297's problem B with any number of steps: each user gives power to the next, who uses it. One server
// has gone back to the earliest power levels, though both know a user who joined later. Version 2 never replays the
// steps in between and loses the power of all.
func ladder(steps int) Vector {
	var events strings.Builder
	fmt.Fprintf(&events, "c create A {} - 1\nma m:A A join - 2\np1 pl A {} ma 3\nj1 jr A public ma,p1 4\n")
	agreed := "c ma j1 mz"
	for n := range steps {
		fmt.Fprintf(&events, "m%c m:%c %c join p1,j1 %d\n", 'b'+n, 'B'+n, 'B'+n, 5+n)
		agreed += fmt.Sprintf(" m%c", 'b'+n)
	}
	levels := ""
	for n := range steps {
		levels = strings.TrimPrefix(fmt.Sprintf("%s,%c:%d", levels, 'B'+n, 90-n), ",")
		fmt.Fprintf(&events, "p%d pl %c %s m%c,p%d %d\n", n+2, 'A'+n, levels, 'a'+n, n+1, 20+n)
	}
	last := fmt.Sprintf(" p%d", steps+1)
	fmt.Fprintf(&events, "mz m:Z Z join j1,%s 50\n", last[1:])
	return Vector{
		Name: fmt.Sprintf("ladder of %d", steps), Events: events.String(),
		Sets: agreed + " p1|" + agreed + last, V2: agreed + " p1", V21: agreed + last,
	}
}

// problemCases are the problems of MSC4297: version 2 resets state.
func problemCases() []Vector {
	aliceLeft := "al m:A A leave p1,ma 40\n"
	ladder := "p2 pl A B:50 ma,p1 20\np3 pl B B:50,C:50 mb,p2 30\n"
	return []Vector{
		{Name: "V1 join rules", Events: onBase("B:100", "j2 jr A invite ma,p1 30\n"+aliceLeft),
			Sets: "c al mb mc p1 j2|c al mb mc p1 j1", V2: "c al mb mc p1", V21: "c al mb mc p1 j2"},
		{Name: "V2 power levels", Events: onBase("B:50", "p2 pl A B:100 ma,p1 30\nal m:A A leave p2,ma 40\n"),
			Sets: "c al mb mc j1 p2|c al mb mc j1 p1", V2: "c al mb mc j1", V21: "c al mb mc j1 p2"},
		{Name: "V3 ban", Events: onBase("B:100", "bc m:C A ban ma,p1,mc 30\n"+aliceLeft),
			Sets: "c al mb bc p1 j1|c al mb mc p1 j1", V2: "c al mb mc p1 j1", V21: "c al mb bc p1 j1"},
		{Name: "V4 plain state", Events: onBase("B:100", "t1 tp A - ma,p1 20\nt2 tp A - ma,p1 30\n"+aliceLeft),
			Sets: "c al mb mc p1 j1 t2|c al mb mc p1 j1 t1", V2: "c al mb mc p1 j1", V21: "c al mb mc p1 j1 t2"},
		{Name: "V5 promotions", Events: onBase("{}", ladder+`
			e1 m:E E join p3,j1 40
			e2 m:E E join+name p1,j1,e1 50
			mz m:Z Z join p3,j1 60`),
			Sets: "c ma mb mc e2 p1 j1|c ma mb mc mz p3 j1", V2: "c ma mb mc e2 mz p1 j1", V21: "c ma mb mc e1 mz p3 j1"},
		{Name: "V6 longer ladder", Events: onBase("{}", `
			p2 pl A B:90 ma,p1 20
			p3 pl B B:90,C:70 mb,p2 30
			p4 pl C B:90,C:70,D:60 mc,p3 40
			md m:D D join p4,j1 50`),
			Sets: "c ma mb mc md j1 p1|c ma mb mc md j1 p4", V2: "c ma mb mc md j1 p1", V21: "c ma mb mc md j1 p4"},
		{Name: "V7 membership", Events: `
			c  create A {} - 1
			ma m:A A join - 2
			p1 pl A tp=0 ma 3
			j1 jr A invite ma,p1 4
			i1 m:D A invite ma,p1,j1 20
			d1 m:D D join p1,j1,i1 21
			l1 m:D D leave p1,d1 22
			i2 m:D A invite ma,p1,j1,l1 23
			d2 m:D D join p1,j1,i2 24
			t1 tp D - p1,d2 25`,
			Sets: "c ma p1 j1 l1 t1|c ma p1 j1 d2 t1", V2: "c ma p1 j1 l1 t1", V21: "c ma p1 j1 d2 t1"},
	}
}

func otherCases() []Vector {
	return append([]Vector{
		{Name: "V8 ban against promotion", Events: onBase("{}", `
			pa pl A B:50 ma,p1 20
			pb pl B B:50,C:10 mb,pa 21
			bb m:B A ban ma,pa,mb 22`),
			Sets: "c ma bb mc pa j1|c ma mb mc pb j1", V21: "c ma bb mc pa j1"},
		{Name: "V9 join against closed door", Events: onBase("{}", `
			me m:E E join p1,j1 19
			j2 jr A invite ma,p1 20`),
			Sets: "c ma mb mc p1 j2|c ma mb mc p1 j1 me", V21: "c ma mb mc p1 j2"},
		{Name: "V10 power on one branch", Events: onBase("{}", `
			pa pl A B:50 ma,p1 20
			pb pl B B:50,C:50 mb,pa 21
			pc pl C B:50,C:0 mc,pb 22`),
			Sets: "c ma mb mc j1 pc|c ma mb mc j1 pa", V21: "c ma mb mc j1 pc"},
		{Name: "V11 mainline beats time", Events: onBase("{}", `
			pa pl A B:50 ma,p1 20
			pa2 pl A B:50,m.room.power_levels=100 ma,pa 22
			pb pl B B:50,C:1 mb,pa 23
			t3 tp B - mb,pa2 24
			t4 tp A - ma,pb 25`),
			Sets: "c ma mb mc j1 pa2 t3|c ma mb mc j1 pb t4", V21: "c ma mb mc j1 pa2 t3"},
		{Name: "V12 fork of joins", Events: onBase("{}", ""),
			Sets: "c ma p1 j1 mb|c ma p1 j1 mc", V21: "c ma p1 j1 mb mc"},
		{Name: "V13 ID breaks the tie", Events: onBase("{}", `
			jx jr A invite ma,p1 20
			jy jr A knock ma,p1 20`),
			Sets: "c ma mb mc p1 jx|c ma mb mc p1 jy", V21: "c ma mb mc p1 jy"},
		{Name: "V14 creator outranks 100", Events: onBase("B:100", `
			j2 jr B invite mb,p1 20
			p2 pl A B:0 ma,p1 30`),
			Sets: "c ma mb mc p2 j1|c ma mb mc p1 j2", V21: "c ma mb mc p2 j1", In11: "c ma mb mc p1 j2"},
	}, lastCases()...)
}

func lastCases() []Vector {
	twoTopics := "t2 tp A - ma,p2 20\nt1 tp A - ma,p1 30\n"
	begin := "c create A {} - 1\nma m:A A join - 2\n"
	return []Vector{
		{Name: "V15 empty mainline", Events: begin + `
			p1 pl A B:50 ma 3
			j1 jr A public ma,p1 4
			p2 pl A B:50,C:50 ma,p1 10
			mb m:B B join p2,j1 11
			mc m:C C join p2,j1 12
			` + twoTopics,
			Sets: "c ma mb mc p2 j1 t1|c ma mb mc p2 j1 t2", V2: "c ma mb mc p2 j1 t2", V21: "c ma mb mc p2 j1 t1"},
		{Name: "V16 rejected auth event", Events: begin + `
			p1 pl A tp=0 ma 3
			j1 jr A invite ma,p1 4
			me m:E E join p1,j1 20 rejected
			te tp E - p1,me 21`,
			Sets: "c ma p1 j1 te|c ma p1 j1", V21: "c ma p1 j1"},
		{Name: "V17 rejected state event", Events: onBase("B:50", "jx jr B knock mb,p1 20 rejected"),
			Sets: "c ma mb mc p1 jx|c ma mb mc p1 j1", V21: "c ma mb mc p1 j1"},
		{Name: "V18 three sets", Events: onBase("B:50,C:50", `
			kb m:B A leave ma,p1,mb 20
			tb tp B - mb,p1 21
			tc tp C - mc,p1 22`),
			Sets: "c ma kb mc p1 j1|c ma mb mc p1 j1 tb|c ma mb mc p1 j1 tc", V21: "c ma kb mc p1 j1 tc"},
		{Name: "V19 additional creator", Events: strings.Replace(onBase("B:50", `
			j2 jr B invite mb,p1 20
			bb m:B C ban mc,p1,mb 30`), "{}", "creators:C", 1),
			Sets: "c ma bb mc p1 j1|c ma mb mc p1 j2", V21: "c ma bb mc p1 j1", In11: "c ma mb mc p1 j2"},
		{Name: "V20 no conflict", Events: onBase("{}", ""),
			Sets: "c ma mb mc p1 j1|c ma mb mc p1 j1|c ma mb mc p1 j1", V21: "c ma mb mc p1 j1"},
		{Name: "V21 who is in the chain", Events: begin + `
			p1 pl A B:50 ma 3
			j1 jr A public ma,p1 4
			p2 pl A B:50,C:50 ma,p1 10
			mb m:B B join p1,j1 11
			mc m:C C join p1,j1 12
			` + twoTopics,
			Sets: "c ma mb mc p2 j1 t1|c ma mb mc p2 j1 t2", V2: "c ma mb mc p2 j1 t2", V21: "c ma mb mc p2 j1 t1"},
	}
}

// Room is a room's events, and state sets to resolve.
type Room struct {
	Version string // the room version, "11" or "12"
	Create  *Event
	Events  map[string]*Event
	Sets    []map[Key]string
}

// Room returns the vector's room in the format of room version 11 or 12. In version 11 all events cite the create
// event, and the creator has power 100 by the power levels.
func (v Vector) Room(version string) Room {
	r := Room{Version: version, Events: map[string]*Event{}}
	previous := ""
	for line := range strings.Lines(v.Events) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		e := parseEvent(f, version)
		if e.Type == "m.room.create" {
			r.Create = e
		} else {
			e.PrevEvents = []string{previous}
		}
		previous = e.ID
		r.Events[e.ID] = e
	}
	for names := range strings.SplitSeq(v.Sets, "|") {
		r.Sets = append(r.Sets, r.State(names))
	}
	return r
}

// State returns the state that consists of the events with these names.
func (r Room) State(names string) map[Key]string {
	state := map[Key]string{}
	for name := range strings.FieldsSeq(names) {
		e := r.Events["$"+name]
		if _, twice := state[e.Key()]; twice {
			panic("two events for one key: " + names)
		}
		state[e.Key()] = e.ID
	}
	return state
}

func user(name string) string {
	return "@" + strings.ToLower(name) + ":one"
}

var vectorTypes = map[string]string{
	"create": "m.room.create", "m": "m.room.member", "pl": "m.room.power_levels", "jr": "m.room.join_rules", "tp": "m.room.topic",
}

// parseEvent reads name, type, sender, content, auth events, time.
func parseEvent(f []string, version string) *Event {
	kind, target, _ := strings.Cut(f[1], ":")
	ts, err := strconv.ParseInt(f[5], 10, 64)
	if err != nil {
		panic(err)
	}
	e := &Event{
		ID: "$" + f[0], RoomID: "!c", Type: vectorTypes[kind], Sender: user(f[2]), OriginServerTS: ts,
		Content: content(parseContent(kind, f[3], version)), Rejected: len(f) > 6 && f[6] == "rejected",
	}
	if target != "" {
		e.StateKey = user(target)
	}
	if f[4] != "-" {
		for name := range strings.SplitSeq(f[4], ",") {
			e.AuthEvents = append(e.AuthEvents, "$"+name)
		}
	}
	if version == "11" && kind != "create" {
		e.AuthEvents = append(e.AuthEvents, "$c")
	}
	return e
}

func parseContent(kind, text, version string) map[string]any {
	switch kind {
	case "create":
		c := map[string]any{"room_version": version}
		if creator, ok := strings.CutPrefix(text, "creators:"); ok {
			c["additional_creators"] = []any{user(creator)}
		}
		return c
	case "m":
		membership, name, _ := strings.Cut(text, "+")
		c := map[string]any{"membership": membership}
		if name != "" {
			c["displayname"] = name
		}
		return c
	case "jr":
		return map[string]any{"join_rule": text}
	case "pl":
		return parseLevels(strings.Trim(text, "{}"), version)
	}
	return map[string]any{}
}

// parseLevels reads B:50 for a user's level and tp=0 for a type's.
func parseLevels(text, version string) map[string]any {
	users, events := map[string]any{}, map[string]any{}
	if version == "11" {
		users[user("A")] = 100
	}
	for entry := range strings.SplitSeq(text, ",") {
		if name, level, ok := strings.Cut(entry, ":"); ok {
			users[user(name)], _ = strconv.Atoi(level)
		} else if name, level, ok := strings.Cut(entry, "="); ok {
			if long := vectorTypes[name]; long != "" {
				name = long
			}
			events[name], _ = strconv.Atoi(level)
		}
	}
	return map[string]any{"users": users, "events": events}
}

// Want returns the vector's result with version 2 or 2.1, for its room in the format of a room version.
func (v Vector) Want(alg stateres.Algorithm, r Room) map[Key]string {
	switch {
	case r.Version == "11" && v.In11 != "":
		return r.State(v.In11)
	case alg == stateres.V2 && v.V2 != "":
		return r.State(v.V2)
	}
	return r.State(v.V21)
}

// Clone returns a copy that shares nothing with the room.
func (r Room) Clone() Room {
	c := r
	c.Events = make(map[string]*Event, len(r.Events))
	for id, e := range r.Events {
		own := *e
		c.Events[id] = &own
	}
	c.Create = c.Events[r.Create.ID]
	c.Sets = nil
	for _, s := range r.Sets {
		c.Sets = append(c.Sets, maps.Clone(s))
	}
	return c
}
