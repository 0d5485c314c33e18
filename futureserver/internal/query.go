package internal

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
)

// Queries about futures.

// QueryFuturesByUser implements api.FutureInternalAPI.
func (s *Server) QueryFuturesByUser(ctx context.Context, userID string) ([]*api.Future, error) {
	fs, err := s.QueryFutures(ctx, api.Filter{UserID: userID})
	fs = slices.DeleteFunc(fs, func(f *api.Future) bool { return f.State != api.Scheduled || f.Policy.Has(api.Managed) })
	slices.SortFunc(fs, func(a, b *api.Future) int {
		return cmp.Or(
			cmp.Compare(isZero(a.Timeout), isZero(b.Timeout)), // action futures come last
			cmp.Compare(a.Deadline, b.Deadline), cmp.Compare(a.NID, b.NID))
	})
	return fs, err
}

func isZero(d time.Duration) byte {
	if d == 0 {
		return 1
	}
	return 0
}

// pageSize is how many futures are read from disk at a time if only some of them may match.
const pageSize = 1000

// QueryFutures implements api.FutureInternalAPI. The disk has the contents of the futures. Memory is newer: it knows
// whether they are live, and their deadlines.
func (s *Server) QueryFutures(ctx context.Context, filter api.Filter) (found []*api.Future, err error) {
	if filter.UserID != "" && filter.Wanted()&api.Finished == 0 {
		return s.liveOf(ctx, filter)
	}
	ctx, cancel := patiently(ctx)
	defer cancel()
	wantsFinished := filter.Wanted()&api.Finished != 0
	if wantsFinished {
		if err := s.ended(ctx); err != nil {
			return nil, err
		}
	}
	page := filter
	if page.Limit != 0 {
		page.Limit = max(page.Limit, pageSize)
	}
	for {
		rows, err := s.db.Select(ctx, page)
		if err != nil {
			return nil, err
		}
		read := len(rows)
		if read > 0 {
			page.After = rows[read-1].NID
		}
		now, err := s.asInMemory(ctx, rows, wantsFinished)
		if err != nil {
			return nil, err
		}
		for _, f := range now {
			if filter.Matches(f) {
				found = append(found, f)
			}
		}
		if page.Limit == 0 || read < page.Limit || len(found) >= filter.Limit {
			return atMost(filter.Limit, found), nil
		}
	}
}

// asInMemory corrects rows by what memory knows. It looks at each future once, so a future that ends meanwhile is either
// live or finished in the result. With ended it reads futures that have ended since they were read once more; without, it
// leaves them out.
func (s *Server) asInMemory(ctx context.Context, rows []*api.Future, ended bool) ([]*api.Future, error) {
	gone := make(map[api.NID]int) // places in rows
	for first := 0; first < len(rows); first += atOnce {
		s.mu.Lock()
		for i := first; i < min(first+atOnce, len(rows)); i++ {
			if f := rows[i]; f.State.Live() && !s.refine(f) {
				gone[f.NID], rows[i] = i, nil
			}
		}
		s.mu.Unlock()
		yield()
	}
	if len(gone) > 0 && ended {
		if err := s.ended(ctx); err != nil {
			return nil, err
		}
		fs, err := s.db.LoadAll(ctx, slices.Collect(maps.Keys(gone)))
		if err != nil {
			return nil, err
		}
		for _, f := range fs {
			rows[gone[f.NID]] = f
		}
	}
	return slices.DeleteFunc(rows, func(f *api.Future) bool { return f == nil }), nil
}

// liveOf returns live futures of one user. Memory finds them, so not all rows are read.
func (s *Server) liveOf(ctx context.Context, filter api.Filter) ([]*api.Future, error) {
	compare := api.DelayedFilter{Backwards: filter.Backwards}.Compare
	nids := s.nidsOf(filter.UserID, func(v ledger.View) bool { return filter.After == 0 || compare(v.NID, filter.After) > 0 })
	fs, err := s.db.LoadAll(ctx, nids)
	if err != nil {
		return nil, err
	}
	if fs, err = s.asInMemory(ctx, fs, false); err != nil {
		return nil, err
	}
	fs = slices.DeleteFunc(fs, func(f *api.Future) bool { return !filter.Matches(f) })
	slices.SortFunc(fs, func(a, b *api.Future) int { return compare(a.NID, b.NID) })
	return atMost(filter.Limit, fs), nil
}

// nidsOf lists the user's futures that wanted accepts, in order.
func (s *Server) nidsOf(userID string, wanted func(ledger.View) bool) (nids []api.NID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.ledger.OfUser(userID) {
		if wanted(v) {
			nids = append(nids, v.NID)
		}
	}
	slices.Sort(nids)
	return nids
}

// atMost cuts off what exceeds the limit; 0 means no limit.
func atMost[T any](limit int, list []T) []T {
	if limit == 0 {
		return list
	}
	return list[:min(limit, len(list))]
}

// refine updates a future read from disk with what memory knows, and reports whether it is live. The caller must hold
// the lock.
func (s *Server) refine(f *api.Future) bool {
	v, ok := s.ledger.Lookup(f.UserID, f.NID)
	if !ok {
		return false
	}
	f.State = v.State
	if f.Timeout != 0 {
		f.Deadline = v.Deadline + s.clock.time().Offset
	}
	return true
}

// QueryFutureCounts implements api.FutureInternalAPI.
func (s *Server) QueryFutureCounts(context.Context) api.Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Counts()
}

// HasStateFutures implements api.FutureInternalAPI.
func (s *Server) HasStateFutures(roomID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.IsWatched(roomID)
}

// QueryStateRooms implements api.FutureInternalAPI.
func (s *Server) QueryStateRooms(ctx context.Context) ([]string, error) {
	return s.db.SelectWatchedRooms(ctx)
}
