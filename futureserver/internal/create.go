package internal

import (
	"context"
	"errors"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
)

// How a future is created: a slot is reserved within the limits, the room is asked, the row is written in the next
// transaction. Once the row is on disk, the future is live.

// PerformFutureCreation implements api.FutureInternalAPI. A repeated transaction creates nothing. The secret of a
// transaction's future is derived from the transaction (api.TransactionSecret), so a repeat would have the same tokens
// as the first future. These tokens find the first future: in memory if it is live or being stored, else on disk. So
// scheduling needs no index of transactions.
func (s *Server) PerformFutureCreation(ctx context.Context, f *api.Future) (*api.Future, error) {
	client := ctx
	ctx, cancel := patiently(ctx)
	defer cancel()
	if f.TxnKey == nil {
		f.Secret = api.NewSecret()
		made, err := s.create(ctx, client, f)
		return made, unlessStopping(err, ctx)
	}
	f.Secret = api.TransactionSecret(s.db.Key(), f.UserID, f.TxnKey)
	asked := *f
	for range 3 {
		*f = asked
		made, err := s.create(ctx, client, f)
		if err == nil || errors.Is(err, api.ErrStopping) || errors.Is(err, api.ErrOverloaded) || ctx.Err() != nil {
			return made, unlessStopping(err, ctx)
		}
		// A repeat gets its first answer even if a new request like it would be refused.
		first, lookErr := s.first(ctx, f.Secret)
		switch {
		case lookErr == nil && first != nil:
			return first, nil
		case !errors.Is(err, ledger.ErrRepeated):
			return nil, err
		case lookErr != nil:
			return nil, unlessStopping(lookErr, ctx)
		}
		// The first future was turned away, or forgotten, between the two lookups.
	}
	return nil, api.ErrOverloaded
}

// unlessStopping returns the error for a request that has run out of time.
func unlessStopping(err error, ctx context.Context) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// create creates a future. client is the context of the request; ctx ends earlier.
func (s *Server) create(ctx, client context.Context, f *api.Future) (*api.Future, error) {
	if most := s.limits(f.Policy.Has(api.Managed)).MaxTimeout; f.Timeout > most {
		return nil, &api.TimeoutError{Max: most}
	}
	a, err := s.reserve(ctx, f)
	if err != nil {
		return nil, err
	}
	// The room is asked only now, when the future is registered. A change of state after the answer finds the future; a
	// change before it is in the answer.
	if f.Base, err = s.room.Admit(ctx, f); err != nil {
		return nil, s.abandon(a, err)
	}
	b, err := s.insert(a)
	if err != nil {
		return nil, err
	}
	s.hooks.Step("accepted")
	if err = b.wait(ctx); err != nil && client.Err() != nil {
		return nil, err // as if the answer had been lost: the future may be stored
	}
	if err != nil {
		err = s.abandon(a, err)
	} else {
		err = a.Err
	}
	if err != nil {
		return nil, err
	}
	s.metrics.scheduled.Inc()
	if a.Recheck {
		tuple, _ := f.Tuple()
		err = s.PerformStateChange(client, f.RoomID, []api.StateKeyTuple{tuple})
	}
	return f, err
}

// reserve takes a slot. It reads what only the disk knows without the lock, and reads it again if it is outdated by
// then.
func (s *Server) reserve(ctx context.Context, f *api.Future) (*ledger.Arrival, error) {
	var look ledger.Look
	for {
		a, err := s.reserveAfter(f, &look)
		if !errors.Is(err, ledger.ErrLook) {
			return a, err
		}
		if look.Used, err = s.db.GroupUsed(ctx, f.UserID, f.GroupID); err != nil {
			return nil, err
		}
	}
}

func (s *Server) reserveAfter(f *api.Future, look *ledger.Look) (*ledger.Arrival, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, api.ErrStopping
	}
	return s.ledger.Reserve(f, look, s.clock.time())
}

// insert starts the future's timer and adds the future to the next transaction.
func (s *Server) insert(a *ledger.Arrival) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.batch()
	if s.stopping {
		s.ledger.Abandon(a, api.ErrStopping, &b.Changes)
	} else if len(b.Inserts) >= maxBatch {
		s.ledger.Abandon(a, api.ErrOverloaded, &b.Changes)
	}
	return b, s.ledger.Insert(a, &b.Changes, s.clock.time())
}

// abandon takes back a future that is not stored yet and returns err. It returns nil if the future is stored.
func (s *Server) abandon(a *ledger.Arrival, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.Abandon(a, err, &s.batch().Changes)
	return a.Err
}

// first returns the future with that secret, live or finished, or nil if there is none. If the future is being stored,
// it waits for that.
func (s *Server) first(ctx context.Context, secret api.Secret) (*api.Future, error) {
	for {
		nid, b := s.bySecret(secret)
		switch {
		case nid == 0:
			return s.db.LoadEnded(ctx, secret)
		case b == nil:
			return s.db.Load(ctx, nid)
		}
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// bySecret finds the future with that secret and, if it is not on disk yet, the batch that stores it.
func (s *Server) bySecret(secret api.Secret) (api.NID, *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nid, arrival := s.ledger.BySecret(secret)
	switch {
	case arrival == nil:
		return nid, nil
	case s.writing != nil && s.writing.Number == arrival.Changes:
		return nid, s.writing
	}
	return nid, s.next
}

// QueryFutureByTransaction implements api.FutureInternalAPI.
func (s *Server) QueryFutureByTransaction(ctx context.Context, userID string, txnKey []byte) (*api.Future, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	return s.first(ctx, api.TransactionSecret(s.db.Key(), userID, txnKey))
}

// limits returns the limits for a kind of futures.
func (s *Server) limits(isManaged bool) Limits {
	if isManaged {
		return s.cfg.Delayed
	}
	return s.cfg.Futures
}
