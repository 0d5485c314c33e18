package internal

import (
	"context"
	"errors"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// A transaction that is repeated makes nothing new. Its future's secret is derived from it (api.TransactionSecret), so
// a repeat would have the very tokens that its first future has: the token index knows whether that one is scheduled,
// and the disk whether it has ended. Scheduling a future therefore needs no index of transactions, neither in memory
// nor of live futures on disk. What the two do not know is in passing.

// passing is a future that is being stored or sent, or whose end is not on disk yet.
type passing struct {
	nid  api.NID
	user uint64 // table.hash of the user ID
	made *batch // what it is being stored with; nil if it is on disk
}

// pass has a future that is on disk found by its secret. Under the lock.
func (s *Server) pass(r *record) { s.passing[r.secret] = passing{nid: r.nid, user: r.user} }

// passUntil is the same until the end that b holds is on disk. Under the lock.
func (s *Server) passUntil(b *batch, r *record) {
	s.pass(r)
	b.passed = append(b.passed, r.secret)
}

// holder finds the future with that secret, unless the disk knows it to have ended. Under the lock.
func (s *Server) holder(secret api.Secret) (p passing, ok bool) {
	if p, ok = s.passing[secret]; ok {
		return p, true
	}
	for _, kind := range []api.TokenKind{api.SendToken, api.GroupToken} {
		if slot, _, ok := s.table.findToken(secret.Token(kind)); ok {
			return passing{nid: s.table.at(slot).nid}, true
		}
	}
	return p, false
}

// errRepeated says that a future with the same secret is there already.
var errRepeated = errors.New("the transaction is known")

// first returns the future that has that secret, live or finished, nil if there is none. If it is just being stored,
// the answer waits for that.
func (s *Server) first(ctx context.Context, secret api.Secret) (*api.Future, error) {
	for {
		s.mu.Lock()
		p, ok := s.holder(secret)
		s.mu.Unlock()
		switch {
		case !ok:
			return s.db.LoadEnded(ctx, secret)
		case p.made == nil:
			return s.db.Load(ctx, p.nid)
		}
		if err := p.made.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// QueryFutureByTransaction implements api.FutureInternalAPI.
func (s *Server) QueryFutureByTransaction(ctx context.Context, userID string, txnKey []byte) (*api.Future, error) {
	return s.first(ctx, api.TransactionSecret(s.db.Key(), userID, txnKey))
}

// ended waits until whatever has left memory is on disk; it is called with the lock and gives it back.
func (s *Server) ended(ctx context.Context) error {
	if s.unwritten == 0 {
		s.mu.Unlock()
		return nil
	}
	b := s.batch()
	s.mu.Unlock()
	return b.wait(ctx)
}
