package rtc

import "time"

const (
	// longestWait is how long a leave is kept alive for a participant that never connects, and how long while the SFU
	// does not answer.
	longestWait = time.Hour
	// startWait is how long participants have to reconnect after this server has started. The SFU may have restarted too.
	startWait = time.Minute
	// comeBack is how long a participant has to reconnect after a lost connection. A client that changes networks
	// reconnects under the same identity.
	comeBack = 2 * time.Second
	// comeBackSignal is the same after the client has closed its signalling connection. A live client reconnects at once,
	// and again after 0.3 and 1.5 s (livekit-client's retry policy).
	comeBackSignal = 2 * time.Second
	// comeBackFromRestart is the same while the SFU shuts down or restarts.
	comeBackFromRestart = 30 * time.Second
	missesUntilGone     = 2 // consecutive polls without the participant
	signalLost          = "signal lost"
	signalEnded         = "signal ended by the SFU"
	mostDoubts          = 3 // answers that list a connection after the webhook of its end; then the answers are believed
)

// A watch is the state machine of one delegated leave (MSC4195). It is a pure value: each method takes an event and the
// time, and returns the action.
type watch struct {
	delay     time.Duration // of the delayed leave event
	connected bool          // the participant has been connected to the SFU
	sid       string        // LiveKit's ID of the last known connection; "" if unknown
	waitUntil time.Time     // deadline for the participant to connect
	restarted time.Time     // when the timer was last restarted
	blind     time.Time     // since when the SFU has not answered; zero if it answers
	missed    int           // consecutive polls without the participant
	leaving   departure
	// suspect says that the SFU has ended the last signalling connection, so it may have restarted. It then does not know the
	// participant, and refuses connections for a moment.
	suspect bool
}

// A departure is the end of a participant's connection that is still to be confirmed.
type departure struct {
	why    string    // reason, for logs and metrics; "" if the participant is not leaving
	sid    string    // of the connection that has ended; "" if unknown
	askAt  time.Time // when to ask the SFU whether the participant has reconnected
	asking bool      // the question is under way
	sure   bool      // send the leave even if the SFU does not answer
	doubts int
}

// An action is what the owner of a watch must do.
type action uint8

const (
	nothing action = iota
	restart        // restart the timer of the delayed leave event
	ask            // ask the SFU whether the participant is connected, and call found or asked with the answer
	send           // send the leave event; the watch ends
	drop           // the same, and remove the participant from the SFU, which still lists it
)

// newWatch returns the watch of a new delegation.
func newWatch(delay time.Duration, now time.Time) *watch {
	return &watch{delay: delay, restarted: now, waitUntil: now.Add(min(longestWait, delay))}
}

// resumedWatch returns the watch of a delegation from before the server's start. The start has restarted the timer.
func resumedWatch(delay time.Duration, now time.Time) *watch {
	return &watch{delay: delay, restarted: now, waitUntil: now.Add(startWait)}
}

// next returns when tick must be called.
func (w *watch) next() time.Time {
	at := w.restarted.Add(w.delay * 4 / 5)
	if !w.blind.IsZero() && at.After(w.blind.Add(longestWait)) {
		at = w.blind.Add(365 * 24 * time.Hour) // let the timer run out
	}
	if !w.connected && w.blind.IsZero() && w.leaving.why == "" && w.waitUntil.Before(at) {
		at = w.waitUntil
	}
	if w.leaving.why != "" && !w.leaving.asking && w.leaving.askAt.Before(at) {
		at = w.leaving.askAt
	}
	return at
}

// tick does what is due now.
func (w *watch) tick(now time.Time) action {
	switch {
	case w.next().After(now):
		return nothing
	case w.leaving.why != "" && !w.leaving.asking && !w.leaving.askAt.After(now):
		w.leaving.asking = true
		return ask
	case !w.connected && w.blind.IsZero() && w.leaving.why == "" && !w.waitUntil.After(now):
		w.leaving = departure{why: "never connected", asking: true} // perhaps the webhook was lost
		return ask
	}
	return w.restart(now)
}

func (w *watch) restart(now time.Time) action {
	w.restarted = now
	return restart
}

// joined handles the webhook that the participant has connected.
func (w *watch) joined(now time.Time, sid string) action {
	if w.isOver(sid) { // the webhooks have come in another order
		return nothing
	}
	return w.back(now, sid)
}

// found handles an answer of the SFU that lists the participant. LiveKit lists a connection for a moment after it has sent
// the webhook of its end.
func (w *watch) found(now time.Time, sid string) action {
	if w.leaving.why == signalLost {
		if w.leaving.asking { // LiveKit keeps a silent connection for 20 s
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

// isOver reports whether that connection has just ended.
func (w *watch) isOver(sid string) bool {
	return w.leaving.why != "" && sid != "" && sid == w.leaving.sid
}

func (w *watch) back(now time.Time, sid string) action {
	w.blind, w.missed, w.leaving, w.suspect = time.Time{}, 0, departure{}, false
	if sid != "" {
		w.sid = sid
	}
	if w.connected {
		return nothing
	}
	w.connected = true
	return w.restart(now)
}

// left handles the webhook that a connection has ended. reason is LiveKit's DisconnectReason.
func (w *watch) left(now time.Time, sid, reason string) action {
	switch {
	case !w.connected:
		w.hurry(now)
		return nothing
	case reason == "MIGRATION": // to another node of the SFU
		return nothing
	case w.sid != "" && sid != "" && sid != w.sid: // an older connection
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

// aborted handles the webhook that a connection has failed. A participant that has never been connected tries again.
func (w *watch) aborted(now time.Time, sid, reason string) action {
	if !w.connected {
		return nothing
	}
	return w.left(now, sid, reason)
}

// unheard handles the end of the participant's last signalling connection. If the SFU has ended it, the SFU may have
// restarted.
func (w *watch) unheard(now time.Time, byClient bool) action {
	switch {
	case !w.connected:
		w.hurry(now)
	case w.leaving.why != "":
	case byClient && !w.suspect:
		w.leaving = departure{why: signalLost, askAt: now.Add(comeBackSignal)}
	default:
		w.suspect = true
		w.leaving = departure{why: signalEnded, askAt: now.Add(comeBackFromRestart)}
	}
	return nothing
}

// hurry shortens the wait for a participant whose connection has ended before this server knew of it.
func (w *watch) hurry(now time.Time) {
	if soon := now.Add(startWait); soon.Before(w.waitUntil) {
		w.waitUntil = soon
	}
}

// suspend gives a participant that the SFU still lists more time, because others have lost their signalling connections at
// the same time: probably a reverse proxy has restarted.
func (w *watch) suspend(now time.Time) action {
	w.leaving = departure{why: signalEnded, askAt: now.Add(comeBackFromRestart)}
	return nothing
}

// heard handles a new signalling connection of the participant.
func (w *watch) heard(time.Time) action {
	if w.leaving.why == signalLost || w.leaving.why == signalEnded {
		w.leaving = departure{}
	}
	return nothing
}

// finished handles the webhook that the whole call has ended.
func (w *watch) finished(time.Time) action {
	if !w.connected || w.leaving.why == "SERVER_SHUTDOWN" {
		return nothing
	}
	w.leaving = departure{why: "room finished", sid: w.sid, asking: true}
	return ask
}

// asked handles the answer to ask that does not list the participant, or, with an error, no answer.
func (w *watch) asked(now time.Time, err error) action {
	w.answered(now, err)
	if !w.leaving.asking { // no question is open: the participant has reconnected meanwhile
		return nothing
	}
	if err == nil || w.leaving.sure {
		return send
	}
	w.leaving = departure{} // without an answer nothing is decided; the polls go on
	return nothing
}

// polled handles a poll that does not list the participant, or, with an error, a failed poll.
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
