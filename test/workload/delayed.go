package workload

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

// The crowd also uses delayed events, in the same rooms. Generation 1 schedules them by a parameter of /send, generation 2
// by its own endpoint. In both, actions name the ID.

const msc = "org.matrix.msc4140"

// delayed schedules a delayed event, acts on it for a while, and leaves the rest to the server.
func (l *life) delayed(ctx context.Context, name, room string) {
	spec := judge.Spec{Mark: name, Room: room, Group: name, Type: "m.room.message", Timeout: l.between(shortest, longest)}
	delay := spec.Timeout.Milliseconds()
	content := any(map[string]any{"msgtype": "m.text", "body": "later", judge.Mark: name})
	path, query := rig.Path("rooms", room, "send", spec.Type, name), url.Values{msc + ".delay": {strconv.FormatInt(delay, 10)}}
	if l.random.IntN(2) == 0 {
		path, query = rig.Path("rooms", room, "delayed_event", spec.Type, name), nil
		content = map[string]any{"delay_ms": delay, "content": content}
	}
	record := l.crowd.Judge.Schedule(spec)
	var id string
	for id == "" {
		r, ok := l.ask(ctx, &l.user.Client, http.MethodPut, path, query, content)
		if ok {
			record.Answered(r.Status)
			if r.Status != http.StatusOK {
				return
			}
			id = r.JSON.Get("delay_id").String()
		} else if !l.pause(ctx, retryPause) {
			return
		}
	}
	for range l.random.IntN(6) {
		if !l.pause(ctx, l.between(0, longest/3)) {
			return
		}
		verb, action := judge.Refresh, "restart"
		switch l.random.IntN(5) {
		case 0:
			verb, action = judge.Cancel, "cancel"
		case 1:
			verb, action = judge.Send, "send"
		}
		// After the end, an action that asks for the actual outcome is answered with 200 again, so stop here.
		if l.manage(ctx, record, id, verb, action) != http.StatusOK || verb != judge.Refresh {
			return
		}
	}
}

// manage retries an action on a delayed event until the server answers, and returns the status.
func (l *life) manage(ctx context.Context, record *judge.Future, id string, verb judge.Verb, action string) int {
	path := "/_matrix/client/unstable/" + msc + "/delayed_events/" + url.PathEscape(id) + "/" + action
	for ctx.Err() == nil {
		answered := record.Use(verb)
		if r, ok := l.ask(ctx, l.anybody, http.MethodPost, path, nil, nil); ok {
			answered(r.Status)
			return r.Status
		}
		l.pause(ctx, retryPause)
	}
	return 0
}
