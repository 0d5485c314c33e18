package rtc

import "time"

const (
	// longestWait bounds for how long a leave is kept for somebody who never connects, and for how long one is kept
	// while the SFU does not answer.
	longestWait = time.Hour
	// startWait is how long those who are not there when this server starts have to come back: it may be that the SFU has
	// restarted, too.
	startWait = time.Minute
	// comeBack is how long somebody has who has lost the connection. A client that changes networks comes back under the
	// same identity.
	comeBack = 2 * time.Second
	// comeBackSignal is the same if the client has closed its signalling connection. A client that lives tries to connect
	// at once, and again after 0.3 and 1.5 seconds.
	comeBackSignal = 2 * time.Second
	// comeBackFromRestart is the same if the SFU is shutting down.
	comeBackFromRestart = 30 * time.Second
	missesUntilGone     = 2 // polls
	signalLost          = "signal lost"
	signalEnded         = "signal ended by the SFU"
	mostDoubts          = 3 // answers that somebody is there of whom we know that they have left
)

// A watch decides what becomes of one delegated leave (MSC4195). It is a pure value: it is told what the SFU says and what
// time it is, and answers what to do.
type watch struct {
	delay     time.Duration // of the delayed leave event
	connected bool          // the participant has been seen on the SFU
	sid       string        // of the connection that was seen last; "" if the SFU has not told
	waitUntil time.Time     // for the participant to connect
	restarted time.Time     // when the timer was last restarted
	blind     time.Time     // since when the SFU does not answer; zero if it does
	missed    int           // polls in a row in which the participant was not there
	leaving   departure
}

// A departure is a participant who has left, or has lost the connection.
type departure struct {
	why    string    // for logs and metrics; "" if nobody is leaving
	sid    string    // of the connection that is over; "" if the SFU has not told
	askAt  time.Time // when to ask the SFU whether they are back
	asking bool
	sure   bool // send even if the SFU cannot be asked
	doubts int
}

// An action is what is to be done for a watch.
type action uint8

const (
	nothing action = iota
	restart        // restart the timer of the delayed leave event
	ask            // ask the SFU whether the participant is there, and tell asked
	send           // send the leave event; the watch is over
	drop           // the same, and remove the participant from the SFU, which has not noticed yet
)

// newWatch watches from the request on.
func newWatch(delay time.Duration, now time.Time) *watch {
	return &watch{delay: delay, restarted: now, waitUntil: now.Add(min(longestWait, delay))}
}

// resumedWatch watches from a start of the server on, which has restarted the timer.
func resumedWatch(delay time.Duration, now time.Time) *watch {
	return &watch{delay: delay, restarted: now, waitUntil: now.Add(startWait)}
}

// next returns when tick has something to do.
func (w *watch) next() time.Time {
	at := w.restarted.Add(w.delay * 4 / 5)
	if !w.blind.IsZero() && at.After(w.blind.Add(longestWait)) {
		at = w.blind.Add(365 * 24 * time.Hour) // let it run out
	}
	if !w.connected && w.blind.IsZero() && w.leaving.why == "" && w.waitUntil.Before(at) {
		at = w.waitUntil
	}
	if w.leaving.why != "" && !w.leaving.asking && w.leaving.askAt.Before(at) {
		at = w.leaving.askAt
	}
	return at
}

// tick is to be called at next.
func (w *watch) tick(now time.Time) action {
	switch {
	case w.next().After(now):
		return nothing
	case w.leaving.why != "" && !w.leaving.asking && !w.leaving.askAt.After(now):
		w.leaving.asking = true
		return ask
	case !w.connected && w.blind.IsZero() && w.leaving.why == "" && !w.waitUntil.After(now):
		w.leaving = departure{why: "never connected", asking: true} // or the webhook is lost
		return ask
	}
	return w.restart(now)
}

func (w *watch) restart(now time.Time) action {
	w.restarted = now
	return restart
}

// joined is what a webhook has said: the participant has connected.
func (w *watch) joined(now time.Time, sid string) action {
	if w.isOver(sid) { // the webhooks have come in another order
		return nothing
	}
	return w.back(now, sid)
}

// found is what the SFU has answered: the participant is there. It may answer so for a moment after it has sent the
// webhook that says otherwise.
func (w *watch) found(now time.Time, sid string) action {
	if w.leaving.why == signalLost {
		if w.leaving.asking { // the SFU answers, and believes that for a while
			return drop
		}
		return nothing
	}
	if w.isOver(sid) {
		if w.leaving.doubts++; w.leaving.doubts < mostDoubts {
			w.leaving.asking, w.leaving.askAt = false, now.Add(comeBack)
			return nothing
		}
	}
	return w.back(now, sid)
}

// isOver reports whether it is the connection that has just ended.
func (w *watch) isOver(sid string) bool {
	return w.leaving.why != "" && sid != "" && sid == w.leaving.sid
}

func (w *watch) back(now time.Time, sid string) action {
	w.blind, w.missed, w.leaving = time.Time{}, 0, departure{}
	if sid != "" {
		w.sid = sid
	}
	if w.connected {
		return nothing
	}
	w.connected = true
	return w.restart(now)
}

// left is what a webhook has said: a connection is over. reason is LiveKit's name for why.
func (w *watch) left(now time.Time, sid, reason string) action {
	switch {
	case !w.connected, reason == "MIGRATION": // to another node of the SFU
		return nothing
	case w.sid != "" && sid != "" && sid != w.sid: // an older connection than the one we know
		return nothing
	}
	d := departure{why: reason, sid: sid}
	switch reason {
	case "CLIENT_INITIATED", "PARTICIPANT_REMOVED", "ROOM_DELETED", "ROOM_CLOSED":
		d.sure = true
	case "SERVER_SHUTDOWN":
		d.askAt = now.Add(comeBackFromRestart)
	case "":
		d.why = "UNKNOWN_REASON"
		d.askAt = now.Add(comeBack)
	default:
		d.askAt = now.Add(comeBack)
	}
	if d.askAt.IsZero() {
		d.asking = true
		w.leaving = d
		return ask
	}
	w.leaving = d
	return nothing
}

// unheard: the participant's last signalling connection is over. If the SFU has ended it, it may have restarted.
func (w *watch) unheard(now time.Time, byClient bool) action {
	switch {
	case !w.connected || w.leaving.why != "":
	case byClient:
		w.leaving = departure{why: signalLost, askAt: now.Add(comeBackSignal)}
	default:
		w.leaving = departure{why: signalEnded, askAt: now.Add(comeBackFromRestart)}
	}
	return nothing
}

// heard: the participant has opened a signalling connection.
func (w *watch) heard(time.Time) action {
	if w.leaving.why == signalLost || w.leaving.why == signalEnded {
		w.leaving = departure{}
	}
	return nothing
}

// finished is what a webhook has said: the whole call is over.
func (w *watch) finished() action {
	if !w.connected {
		return nothing
	}
	w.leaving.why = "room finished"
	return send
}

// asked is the answer to ask: nobody of that identity is there, or, with an error, it is not known.
func (w *watch) asked(now time.Time, err error) action {
	w.answered(now, err)
	if w.leaving.why == "" { // somebody has said meanwhile that they are back
		return nothing
	}
	if err == nil || w.leaving.sure {
		return send
	}
	w.leaving = departure{} // whoever cannot be asked decides nothing; the polls go on
	return nothing
}

// polled is what a poll says of somebody who is not there, or, with an error, that it is not known.
func (w *watch) polled(now time.Time, err error) action {
	w.answered(now, err)
	if err != nil || !w.connected {
		return nothing
	}
	if w.missed++; w.missed < missesUntilGone {
		return nothing
	}
	w.leaving.why = "missing on the SFU"
	return send
}

func (w *watch) answered(now time.Time, err error) {
	switch {
	case err == nil && !w.blind.IsZero():
		w.blind = time.Time{}
		if back := now.Add(startWait); w.waitUntil.Before(back) { // the SFU may have restarted
			w.waitUntil = back
		}
	case err != nil && w.blind.IsZero():
		w.blind = now
	}
}
