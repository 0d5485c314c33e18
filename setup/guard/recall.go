package guard

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"
	"github.com/tidwall/gjson"
)

// Finds the transactions from before the start. An event carries its transaction through all stages: the roomserver's
// input stream, its output stream, and the sync API's table. Each stage is written before the event leaves the one
// before it. So reading the stages in this order misses no transaction, even while events move on, and after a crash at
// any moment.

// Store is where Transactions finds what it does not have in memory.
type Store struct {
	Users  userapi.QueryAcccessTokenAPI
	Conn   *nats.Conn
	JS     nats.JetStreamContext
	Config *config.JetStream
	SyncDB *sql.DB
	// Scheduled reports whether the event of such a transaction was a future. Then the transaction ID belongs to
	// /send_future and not to /send.
	Scheduled func(ctx context.Context, device *userapi.Device, room, eventType, txnID, eventID string) bool
}

const (
	recordStream = "FutureServerTransactions" // without Dendrite's prefix
	recordLife   = 2 * remembered
	mostRecords  = 500_000

	tablePage    = 5000 // rows
	mostPages    = 100
	askStream    = 10 * time.Second
	recheckPages = 10 // enough for what arrives while a request is answered
)

// recall remembers the transactions that it finds. It does not replace those already remembered.
func (t *Transactions) recall(ctx context.Context, pages int) error {
	return errors.Join(
		t.store.messages(ctx, jetstream.InputRoomEvent, func(data []byte) {
			var input rsapi.InputRoomEvent
			if json.Unmarshal(data, &input) == nil {
				t.found(input.Event, input.TransactionID)
			}
		}),
		t.store.messages(ctx, jetstream.OutputRoomEvent, func(data []byte) {
			var output rsapi.OutputEvent
			if json.Unmarshal(data, &output) != nil {
				return
			}
			if e := output.NewRoomEvent; e != nil {
				t.found(e.Event, e.TransactionID)
			}
			if e := output.RedactedEvent; e != nil {
				t.found(e.RedactedBecause, e.TransactionID)
			}
		}),
		t.readTable(ctx, pages),
		t.store.messages(ctx, recordStream, func(data []byte) {
			if len(data) == len(key{}) {
				t.rememberAll([]key{key(data)}, "")
			}
		}),
	)
}

func (t *Transactions) found(event *types.HeaderedEvent, id *rsapi.TransactionID) {
	if event == nil || event.PDU == nil || id == nil {
		return
	}
	tx := transaction{user: string(event.SenderID()), session: id.SessionID, room: event.RoomID().String(), id: id.TransactionID}
	t.rememberAll(tx.keys(event.Type(), event.JSON()), event.EventID())
}

// keys returns the keys that an event's transaction may have. A redaction may have been sent by either endpoint.
func (t transaction) keys(eventType string, event []byte) []key {
	t.endpoint, t.what = Send, eventType
	keys := []key{t.key()}
	if eventType != spec.MRoomRedaction {
		return keys
	}
	t.endpoint = Redact
	for _, target := range gjson.GetManyBytes(event, "redacts", "content.redacts") {
		if t.what = target.Str; t.what != "" {
			keys = append(keys, t.key())
		}
	}
	return keys
}

func (t *Transactions) rememberAll(keys []key, eventID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		if _, known := t.lookUp(k); !known {
			t.remember(k, answer{eventID: eventID, before: true})
		}
	}
}

// readTable reads backwards until half an hour before the last transaction in the table. That may be long ago, if the
// server was down. It uses the events' own times; in a whole page at least one is right.
func (t *Transactions) readTable(ctx context.Context, pages int) error {
	var last, newest int64
	err := t.store.SyncDB.QueryRowContext(ctx, "SELECT COALESCE(MAX(id), 0) FROM syncapi_output_room_events").Scan(&last)
	for page := 0; err == nil && page < pages && last > 0; page++ {
		var at int64
		if at, err = t.readPage(ctx, last-tablePage, last); at != 0 {
			newest = max(newest, at)
			if at < newest-remembered.Milliseconds() {
				break
			}
		}
		last -= tablePage
	}
	if err != nil {
		return fmt.Errorf("reading the sync API's table: %w", err)
	}
	return nil
}

// readPage returns the time of the newest event in the page that has a transaction, or 0.
func (t *Transactions) readPage(ctx context.Context, after, last int64) (newest int64, err error) {
	rows, err := t.store.SyncDB.QueryContext(ctx, "SELECT event_id, room_id, type, sender, session_id, transaction_id, headered_event_json"+
		" FROM syncapi_output_room_events WHERE id > $1 AND id <= $2 AND transaction_id IS NOT NULL AND session_id IS NOT NULL", after, last)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	now := time.Now().UnixMilli()
	for rows.Next() {
		var eventID, eventType string
		var event []byte
		var tx transaction
		if err := rows.Scan(&eventID, &tx.room, &eventType, &tx.user, &tx.session, &tx.id, &event); err != nil {
			return 0, err
		}
		t.rememberAll(tx.keys(eventType, event), eventID)
		newest = max(newest, min(now, gjson.GetBytes(event, "origin_server_ts").Int()))
	}
	return newest, rows.Err()
}

// messages calls each for the messages that a stream holds now. It uses no consumer, because the stream would keep
// messages for it.
func (s *Store) messages(ctx context.Context, name string, each func(data []byte)) error {
	stream := s.Config.Prefixed(name)
	info, err := s.JS.StreamInfo(stream, nats.Context(ctx))
	if err != nil {
		return fmt.Errorf("reading the stream %s: %w", stream, err)
	}
	for next := info.State.FirstSeq; next <= info.State.LastSeq; next++ {
		msg, err := s.message(ctx, stream, next)
		if err != nil {
			return fmt.Errorf("reading the stream %s: %w", stream, err)
		}
		if msg == nil {
			break
		}
		each(msg.Data)
		next = msg.Seq
	}
	return nil
}

type message struct {
	Seq  uint64 `json:"seq"`
	Data []byte `json:"data"`
}

// message returns the first message from a number on, or nil.
func (s *Store) message(ctx context.Context, stream string, from uint64) (*message, error) {
	ctx, cancel := context.WithTimeout(ctx, askStream)
	defer cancel()
	ask, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": ">"})
	if err != nil {
		return nil, err
	}
	reply, err := s.Conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, ask)
	if err != nil {
		return nil, err
	}
	var res struct {
		Message *message       `json:"message"`
		Error   *nats.APIError `json:"error"`
	}
	err = json.Unmarshal(reply.Data, &res)
	switch {
	case err != nil:
		return nil, err
	case res.Error != nil && res.Error.Code == 404:
		return nil, nil
	case res.Error != nil:
		return nil, res.Error
	}
	return res.Message, nil
}

// openRecords creates the stream for transactions that leave no other trace.
func (s *Store) openRecords() error {
	name := s.Config.Prefixed(recordStream)
	storage := nats.FileStorage
	if s.Config.InMemory {
		storage = nats.MemoryStorage
	}
	_, err := s.JS.AddStream(&nats.StreamConfig{
		Name: name, Subjects: []string{name}, Storage: storage, MaxAge: recordLife, MaxMsgs: mostRecords, Discard: nats.DiscardOld,
	})
	return err
}

// record writes a transaction so that it is known after a crash.
func (s *Store) record(ctx context.Context, k key) error {
	_, err := s.JS.Publish(s.Config.Prefixed(recordStream), k[:], nats.Context(ctx))
	return err
}

func (s *Store) wasScheduled(ctx context.Context, device *userapi.Device, tx transaction, eventID string) bool {
	return tx.endpoint == Send && s.Scheduled != nil && s.Scheduled(ctx, device, tx.room, tx.what, tx.id, eventID)
}
