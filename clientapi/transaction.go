package clientapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	userapi "github.com/matrix-org/dendrite/userapi/api"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// WasFuture returns a function that reports whether an event comes from a future with this transaction ID, scheduled by
// /send_future. Events of other generations do not name their transaction.
func WasFuture(futures api.TransactionAPI) func(ctx context.Context, device *userapi.Device, room, eventType, txnID, eventID string) bool {
	return func(ctx context.Context, device *userapi.Device, room, eventType, txnID, eventID string) bool {
		key := transactionKey(sendFutureSpace, device, room, eventType, txnID)
		f, err := futures.QueryFutureByTransaction(ctx, device.UserID, key)
		return err == nil && f != nil && f.Event != nil && f.Event.ID == eventID
	}
}

func transactionKey(space string, device *userapi.Device, room, eventType, txnID string) []byte {
	return digest(space, device.AppserviceID, device.UserID, device.ID, room, eventType, txnID)
}

// digest hashes the parts. Two different lists of parts have different hashes.
func digest(parts ...string) []byte {
	var buf []byte
	for _, p := range parts {
		buf = binary.AppendUvarint(buf, uint64(len(p)))
		buf = append(buf, p...)
	}
	sum := sha256.Sum256(buf)
	return sum[:]
}
