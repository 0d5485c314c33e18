package guard

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/clientapi/auth"
	"github.com/matrix-org/dendrite/internal/httputil"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"
)

// The fault: Dendrite remembers a transaction only after it has answered it, and only in memory. Two simultaneous PUTs
// sent two events (eight requests: eight events), and so did a repeat after a restart. Reproduced by:
// test/transactions. Can go when Dendrite keeps transactions as the specification requires, also over restarts.

const (
	// remembered is how long a transaction is remembered at least, unless there are more than mostAnswers in that time.
	remembered  = 30 * time.Minute
	mostAnswers = 250_000 // in each of two generations, about 30 MB
	// longest is the longest time for a request, even if its client has gone. The client will retry.
	longest = 2 * time.Minute
)

// Transactions answers a repeated transaction ID with the first answer. The scope of a transaction ID is the session of
// an access token, and the endpoint with the variables of its path.
//
// Answers of this process are in memory. Answers from before the start are read from the streams and tables where they
// are anyway (recall.go), so sending costs no additional write. Only messages to devices leave no trace; for them a
// record is written.
//
// Transactions of scheduled events are not here, because the futureserver keeps them.
type Transactions struct {
	store Store

	recalled  chan struct{} // closed when the transactions from before the start are known
	recalling sync.Mutex    // one recall at a time is enough

	mu         sync.Mutex
	young, old map[key]answer
	since      time.Time // start of the generation young
	running    map[key]chan struct{}
	unsure     map[key]bool // failed, but the event may have been sent
}

// key identifies a transaction.
type key [16]byte

// answer is the answer to a successful transaction.
type answer struct {
	eventID string // "" if there is none
	before  bool   // it is from before the start of this process
}

// transaction identifies a request.
type transaction struct {
	endpoint   Endpoint
	user       string
	session    int64
	room, what string // what is an event type, or the ID of an event that is redacted
	id         string
}

func (t transaction) key() (k key) {
	var buf []byte
	for _, part := range []string{string(t.endpoint), t.user, t.room, t.what, t.id} {
		buf = binary.AppendUvarint(buf, uint64(len(part)))
		buf = append(buf, part...)
	}
	sum := sha256.Sum256(binary.AppendVarint(buf, t.session))
	copy(k[:], sum[:])
	return k
}

// Endpoint is the endpoint that a transaction ID belongs to.
type Endpoint string

// The endpoints that take transaction IDs.
const (
	Send     Endpoint = "send"
	Redact   Endpoint = "redact"
	ToDevice Endpoint = "sendToDevice"
	Notice   Endpoint = "send_server_notice"
)

// NewTransactions begins to read the answers from before the start. Requests wait for that.
func NewTransactions(ctx context.Context, store Store) *Transactions {
	t := &Transactions{
		store: store, recalled: make(chan struct{}), since: time.Now(),
		young: map[key]answer{}, old: map[key]answer{}, running: map[key]chan struct{}{}, unsure: map[key]bool{},
	}
	go func() {
		defer close(t.recalled)
		if err := store.openRecords(); err != nil {
			logrus.WithError(err).Warn("Transactions of messages to devices will be forgotten at the next restart")
		}
		if err := t.recall(ctx, mostPages); err != nil && ctx.Err() == nil { // a stop in the middle is no trouble: nobody asks any more
			logrus.WithError(err).Warn("Some transactions from before this start are unknown; if they are repeated, they are sent again")
		}
	}()
	return t
}

// Handler puts t before one of Dendrite's routes.
func (t *Transactions) Handler(endpoint Endpoint, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodOptions {
			next.ServeHTTP(w, req)
			return
		}
		device, refusal := auth.VerifyUserFromRequest(req, t.store.Users)
		vars, err := httputil.URLDecodeMapValues(mux.Vars(req))
		if refusal != nil || err != nil { // Dendrite will answer with the error
			next.ServeHTTP(w, req)
			return
		}
		t.serve(w, req, device, read(endpoint, device, vars), next)
	})
}

func read(endpoint Endpoint, device *userapi.Device, vars map[string]string) transaction {
	return transaction{
		endpoint: endpoint, user: device.UserID, session: device.SessionID,
		room: vars["roomID"], what: vars["eventType"] + vars["eventID"], id: vars["txnID"] + vars["txnId"],
	}
}

func (t *Transactions) serve(w http.ResponseWriter, req *http.Request, device *userapi.Device, tx transaction, next http.Handler) {
	k := tx.key()
	for {
		a, known, err := t.begin(req.Context(), k)
		if err != nil {
			return // the client has gone
		}
		if !known {
			break
		}
		if !a.before || !t.store.wasScheduled(req.Context(), device, tx, a.eventID) {
			a.write(w)
			return
		}
		t.forget(k)
	}
	// The request goes on without the client, because otherwise nobody could tell whether the event has been sent.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), longest)
	defer cancel()
	res := response{header: http.Header{}}
	defer func() { t.end(ctx, tx, k, &res) }()
	next.ServeHTTP(&res, req.WithContext(ctx))
	res.pass(w)
}

// begin returns the answer of a known transaction. Otherwise the caller must carry out the transaction and call end. If
// another request carries it out, begin waits.
func (t *Transactions) begin(ctx context.Context, k key) (a answer, known bool, err error) {
	select {
	case <-t.recalled:
	case <-ctx.Done():
		return a, false, ctx.Err()
	}
	t.mu.Lock()
	for {
		if a, known = t.lookUp(k); known {
			t.mu.Unlock()
			return a, true, nil
		}
		other, busy := t.running[k]
		if !busy {
			break
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return a, false, ctx.Err()
		}
		t.mu.Lock()
	}
	t.running[k] = make(chan struct{})
	unsure := t.unsure[k]
	delete(t.unsure, k)
	t.mu.Unlock()
	if unsure {
		return t.recheck(ctx, k)
	}
	return a, false, nil
}

// recheck is begin for a transaction that has failed.
func (t *Transactions) recheck(ctx context.Context, k key) (answer, bool, error) {
	t.recalling.Lock()
	err := t.recall(ctx, recheckPages)
	t.recalling.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	a, known := t.lookUp(k)
	if err != nil && !known {
		logrus.WithError(err).Warn("A transaction has failed at an unknown point; if it is repeated, it is sent again")
	}
	if known {
		close(t.running[k])
		delete(t.running, k)
	}
	return a, known, nil
}

// lookUp finds a remembered answer. The caller must hold the lock.
func (t *Transactions) lookUp(k key) (answer, bool) {
	if a, ok := t.young[k]; ok {
		return a, true
	}
	a, ok := t.old[k]
	return a, ok
}

func (t *Transactions) forget(k key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.young, k)
	delete(t.old, k)
}

// end records the result of a transaction and wakes the requests that wait for it.
func (t *Transactions) end(ctx context.Context, tx transaction, k key, res *response) {
	if res.status == http.StatusOK && tx.endpoint == ToDevice {
		if err := t.store.record(ctx, k); err != nil {
			logrus.WithError(err).Warn("A transaction will be forgotten at the next restart")
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case res.status == http.StatusOK:
		t.remember(k, answer{eventID: gjson.GetBytes(res.body, "event_id").Str})
	case (res.status == 0 || res.status >= http.StatusInternalServerError) && len(t.unsure) < mostAnswers:
		t.unsure[k] = true
	}
	close(t.running[k])
	delete(t.running, k)
}

// remember stores an answer. The caller must hold the lock.
func (t *Transactions) remember(k key, a answer) {
	if now := time.Now(); now.Sub(t.since) > remembered || len(t.young) >= mostAnswers {
		t.young, t.old, t.since = make(map[key]answer), t.young, now
		clear(t.unsure)
	}
	t.young[k] = a
}

// write repeats an answer as Dendrite gives it.
func (a answer) write(w http.ResponseWriter) {
	body := []byte("{}")
	if a.eventID != "" {
		body, _ = json.Marshal(map[string]string{"event_id": a.eventID}) // strings can always be encoded
	}
	util.SetCORSHeaders(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.Write(body) //nolint:errcheck // the client may have gone
}

// response records an answer, which is short, until it is known whether it is remembered.
type response struct {
	header http.Header
	status int // 0: none yet
	body   []byte
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(status int) { r.status = status }

func (r *response) Write(data []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.body = append(r.body, data...)
	return len(data), nil
}

func (r *response) pass(w http.ResponseWriter) {
	for name, values := range r.header {
		w.Header()[name] = values
	}
	if r.status != 0 {
		w.WriteHeader(r.status)
	}
	w.Write(r.body) //nolint:errcheck // the client may have gone
}
