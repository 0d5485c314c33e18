package setup

import (
	"fmt"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"

	"github.com/matrix-org/dendrite/futures/setup/guard"
)

// transactionRoutes are Dendrite's routes that take a transaction ID, keyed like gatedRoutes.
var transactionRoutes = map[string]guard.Endpoint{
	"PUT /rooms/{roomID}/send/{eventType}/{txnID}":   guard.Send,
	"PUT /rooms/{roomID}/redact/{eventID}/{txnId}":   guard.Redact,
	"PUT /sendToDevice/{eventType}/{txnID}":          guard.ToDevice,
	"PUT /unstable/sendToDevice/{eventType}/{txnID}": guard.ToDevice,
}

// noticeRoute is one more. It exists if server notices are enabled.
const noticeRoute = "PUT /_synapse/admin/v1/send_server_notice/{txnID}"

// guardTransactions puts transactions before Dendrite's routes that take a transaction ID, and before their gates,
// because a repeat creates nothing in the room. It returns an error if one of transactionRoutes does not exist.
func guardTransactions(transactions *guard.Transactions, routers httputil.Routers, ours map[*mux.Route]bool) error {
	found := 0
	wrapRoutes(routers, ours, func(name string, next http.Handler) http.Handler {
		endpoint, ok := transactionRoutes[name]
		switch {
		case ok:
			found++
		case name == noticeRoute:
			endpoint = guard.Notice
		default:
			return next
		}
		return transactions.Handler(endpoint, next)
	})
	if found != len(transactionRoutes) {
		return fmt.Errorf("Dendrite has %d of the %d routes with transaction IDs", found, len(transactionRoutes))
	}
	return nil
}
